"""Where labels are found: folders, Decathlon, nnU-Net, MM-WHS, manifests; and what is said of what does not fit."""

import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.places import shared_data
from ssmtl_datasets import Folder, Manifest, MmWhs, Phantom
from ssmtl_datasets.anatomy import LABELS
from ssmtl_datasets.manifest import _slices
from ssmtl_nifti import Nifti
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.sources import dataset_of

READABLE = Readers([Nifti()])


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def listed(dataset, tmp_path):
    return dataset.scans(tmp_path, READABLE)


def pairs(dataset, tmp_path):
    return [(s.name, s.label and s.label.name) for s in listed(dataset, tmp_path) if not s.unfit]


def unfit(dataset, tmp_path):
    return [s.unfit for s in listed(dataset, tmp_path) if s.unfit]


def test_images_and_labels_are_paired_by_name_whatever_their_suffix_and_folder(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "images/s/b.nii.gz", "images/c.nii", "labels/a.nii", "labels/s/b.nii.gz")
    assert pairs(Folder(root=tmp_path), tmp_path) == [("a", "a.nii"), ("c", None), ("s/b", "b.nii.gz")]


def test_a_label_without_an_image_is_named(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "labels/z.nii.gz")
    (said,) = unfit(Folder(root=tmp_path), tmp_path)
    assert said == f"{tmp_path}/labels/z.nii.gz: a label without an image of the same name in images/"


def decathlon(root, **changes):
    touch(root, "imagesTr/l_1.nii.gz", "imagesTr/l_2.nii.gz", "labelsTr/l_1.nii.gz", "labelsTr/l_2.nii.gz")
    touch(root, "imagesTs/l_9.nii.gz", "imagesTr/._l_1.nii.gz")
    said = {
        "name": "Liver",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "training": [{"image": f"./imagesTr/l_{i}.nii.gz", "label": f"./labelsTr/l_{i}.nii.gz"} for i in (1, 2)],
        "test": ["./imagesTs/l_9.nii.gz"],
        **changes,
    }
    (root / "dataset.json").write_text(json.dumps(said))
    return Folder(root=root)


def test_a_decathlon_folder_says_pairs_classes_and_modality(tmp_path):
    dataset = decathlon(tmp_path)
    assert pairs(dataset, tmp_path) == [("l_1", "l_1.nii.gz"), ("l_2", "l_2.nii.gz"), ("l_9", None)]
    assert {scan.modality for scan in listed(dataset, tmp_path)} == {"CT"}
    assert dataset.classes() == {"liver": (1,), "cancer": (2,)}


def test_a_scan_that_dataset_json_lists_and_is_not_there_is_named(tmp_path):
    dataset = decathlon(tmp_path)
    (tmp_path / "labelsTr" / "l_2.nii.gz").unlink()
    (said,) = unfit(dataset, tmp_path)
    assert "labelsTr/l_2.nii.gz: is listed in" in said
    assert pairs(dataset, tmp_path) == [("l_1", "l_1.nii.gz"), ("l_9", None)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": {"one": "liver"}}, "label 'one': 'liver' has no integer value"),
        ({"labels": ["liver"]}, "its `labels` are"),
        ({"labels": {"tumour": [1, "x"]}}, "has no integer value"),
    ],
)
def test_labels_that_cannot_be_understood_are_refused_with_the_file(tmp_path, changes, said):
    dataset = decathlon(tmp_path, **changes)
    with pytest.raises(DataError, match=said):
        dataset.classes()
    assert listed(dataset, tmp_path)


def test_regions_are_classes_that_overlap_and_their_order_says_which_values_are_written(tmp_path):
    labels = {"background": 0, "whole": [1, 2, 3, 4], "core": [2, 4], "ignore": 5}
    dataset = decathlon(tmp_path, labels=labels, regions_class_order=[3, 4])
    classes = Classes.parse("", dataset.classes())
    assert classes.overlap
    assert classes.names == ("whole", "core")
    index, _ = classes.to_index(np.array([[[0, 1, 2, 3, 4]]]), "x")
    assert classes.to_values(index).tolist() == [[[0, 3, 4, 3, 4]]]


def test_a_malformed_list_is_refused(tmp_path):
    dataset = decathlon(tmp_path, training=[{"img": "x"}])
    with pytest.raises(DataError, match=r"dataset\.json: cannot read .* in its `training`"):
        listed(dataset, tmp_path)


def nnunet(root, **changes):
    for case in ("p1", "p2"):
        touch(root, f"imagesTr/{case}_0000.nii.gz", f"imagesTr/{case}_0001.nii.gz", f"labelsTr/{case}.nii.gz")
    touch(root, "imagesTs/p7_0000.nii.gz", "labelsTr/p5.nii.gz")
    said = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "core": 1, "edema": 2, "ignore": 3},
        "file_ending": ".nii.gz",
        "numTraining": 2,
        **changes,
    }
    (root / "dataset.json").write_text(json.dumps(said))


def test_an_nnunet_folder_is_read_by_cases_and_channels(tmp_path):
    nnunet(tmp_path)
    dataset = Folder(root=tmp_path)
    assert pairs(dataset, tmp_path) == [("p1", "p1.nii.gz"), ("p2", "p2.nii.gz"), ("p7", None)]
    assert dataset.classes() == {"core": (1,), "edema": (2,)}
    (said,) = unfit(dataset, tmp_path)
    assert "p5.nii.gz: a label without an image p5_0000.nii.gz" in said
    second = Folder(root=tmp_path, channel=1)
    assert [(s.path.name, s.modality) for s in listed(second, tmp_path) if not s.unfit] == [
        ("p1_0001.nii.gz", "FLAIR"),
        ("p2_0001.nii.gz", "FLAIR"),
    ]
    with pytest.raises(DataError, match=r"has no channel 2 \(known: 0 T1, 1 FLAIR\)"):
        listed(Folder(root=tmp_path, channel=2), tmp_path)


def test_another_tools_dataset_json_changes_nothing(tmp_path):
    touch(tmp_path, "a.nii.gz")
    for content in ('{"id": 5}', "[]"):
        (tmp_path / "dataset.json").write_text(content)
        assert pairs(Folder(root=tmp_path), tmp_path) == [("a", None)]
        assert Folder(root=tmp_path).classes() == {}
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read as JSON"):
        listed(Folder(root=tmp_path), tmp_path)


def test_mmwhs_and_the_phantom_name_the_seven_structures_and_one_stray_value(tmp_path):
    classes = MmWhs(root=tmp_path).classes()
    assert {name: values[0] for name, values in classes.items()} == LABELS
    assert classes["LA"] == (420, 421)
    assert Phantom().classes() == classes


def test_a_csv_manifest_says_patient_label_modality_and_annotated_slices(tmp_path):
    touch(tmp_path, "i/a.nii.gz", "i/b.nii.gz", "l/a.nii.gz")
    file = tmp_path / "scans.csv"
    file.write_text(
        '\ufeffpatient,image,label,modality,slices\np1,i/a.nii.gz,l/a.nii.gz,CT,"3 5 7-9"\n,i/b.nii.gz,,,\n', "utf-8"
    )
    first, second = listed(Manifest(file=file), tmp_path)
    assert (first.name, first.patient, first.modality, first.annotated) == ("i/a", "p1", "CT", (3, 5, 7, 8, 9))
    assert first.label == tmp_path / "l" / "a.nii.gz"
    assert (second.patient, second.label, second.annotated) == ("i/b", None, None)
    assert listed(dataset_of(str(file)), tmp_path) == [first, second]
    assert listed(dataset_of(f"manifest:{file}"), tmp_path) == [first, second]


def test_a_toml_manifest_may_name_the_classes(tmp_path):
    touch(tmp_path, "a.nii.gz", "l.nii.gz")
    file = tmp_path / "scans.toml"
    file.write_text(
        "[classes]\nLV = 500\nLA = [420, 421]\n"
        '[[scan]]\nimage = "a.nii.gz"\nlabel = "l.nii.gz"\npatient = 7\nslices = [4, 2]\n'
    )
    (scan,) = listed(Manifest(file=file), tmp_path)
    assert (scan.patient, scan.annotated) == ("7", (2, 4))
    assert Manifest(file=file).classes() == {"LV": (500,), "LA": (420, 421)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,labels\na.nii.gz,x", "line 1: unknown column 'labels'; did you mean 'label'?"),
        ("file\na.nii.gz", "line 1: has no column `image`"),
        ("image;label\na.nii.gz;b", "separate the columns by commas"),
        ("", "has no column `image`"),
        ("image\n", "lists no scan"),
        ("image\nno.nii.gz", "line 2: the image .*no.nii.gz does not exist"),
        ("image,label\na.nii.gz,no.nii.gz", "line 2: the label .*no.nii.gz does not exist"),
        ("image,label\na.nii.gz,a.nii.gz", "line 2: image and label are the same file"),
        ("image\na.nii.gz\na.nii.gz", "line 3: the image .* is listed twice"),
        ("image,slices\na.nii.gz,3-1", "line 2: slices are '3-1'"),
        ("image,slices\na.nii.gz,all", "expected numbers from 0 and ranges"),
        ("image\na.nii.gz,b", "has more fields than the header"),
        ("image,patient\n,p", "line 2: names no image"),
        ("image,image\na.nii.gz,a.nii.gz", "line 1: has two columns 'image'; name each once"),
        ("Image\na.nii.gz", "has no column `image` .found: Image.; did you mean 'Image'?"),
        ("a.nii.gz\n", "its first line names the columns"),
        ('image\na.nii.gz\n"a.nii.gz', "after line 2: cannot be read as CSV"),
        ("image\nmu\u0308ller.nii.gz", "does not exist; a file there has this name in another Unicode form"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_with_the_line(tmp_path, text, said):
    touch(tmp_path, "a.nii.gz", "m\xfcller.nii.gz")
    (tmp_path / "m.csv").write_text(text, "utf-8")
    with pytest.raises(DataError, match=said):
        listed(Manifest(file=tmp_path / "m.csv"), tmp_path)


def test_a_manifest_in_another_encoding_or_that_is_a_folder_says_what_to_give(tmp_path):
    (tmp_path / "m.csv").write_text("image\na.nii.gz", "utf-16")
    with pytest.raises(DataError, match=r"is not in UTF-8 .*; save it as CSV in UTF-8"):
        listed(Manifest(file=tmp_path / "m.csv"), tmp_path)
    with pytest.raises(DataError, match="is a folder; give the table itself"):
        listed(Manifest(file=tmp_path), tmp_path)


@pytest.mark.parametrize("table", ["[class]\nLV = 500", "[[scans]]\nimage = 'a.nii.gz'", "title = 'x'"])
def test_a_table_that_a_toml_manifest_cannot_have_is_not_passed_over(tmp_path, table):
    touch(tmp_path, "a.nii.gz")
    (tmp_path / "m.toml").write_text(f"{table}\n[[scan]]\nimage = 'a.nii.gz'\n")
    with pytest.raises(DataError, match=r"m\.toml: unknown table '(class|scans|title)'"):
        listed(Manifest(file=tmp_path / "m.toml"), tmp_path)


@pytest.mark.parametrize(
    "text", ["[[scan]", "scan = 3", '[[scan]]\nimage = ["a"]', '[[scan]]\nimage="a.nii.gz"\nslices=[-1]']
)
def test_a_toml_manifest_that_cannot_be_used_is_refused(tmp_path, text):
    touch(tmp_path, "a.nii.gz")
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(DataError, match=r"m\.toml"):
        listed(Manifest(file=tmp_path / "m.toml"), tmp_path)


def test_a_manifest_may_name_its_scans_which_files_of_other_folders_share_names(tmp_path):
    touch(tmp_path, "p1/t1.nii.gz", "p2/t1.nii.gz", "p3/t1.nii.gz")
    (tmp_path / "below").mkdir()
    file = tmp_path / "below" / "scans.csv"
    file.write_text("image,name\n../p1/t1.nii.gz,first\n../p2/t1.nii.gz,../../more/second\n../p3/t1.nii.gz,\n")
    names = [scan.name for scan in listed(Manifest(file=file, outside=True), tmp_path)]
    assert names == ["first", "more/second", "p3/t1"]  # files are written below a folder, whatever it is called
    file.write_text("image,name\n../p1/t1.nii.gz,same\n../p2/t1.nii.gz,same\n")
    with pytest.raises(DataError, match="two images are both called 'same'"):
        listed(Manifest(file=file, outside=True), tmp_path)


@given(st.sets(st.integers(0, 500), min_size=1))
def test_slices_read_back_to_what_was_written(slices):
    ordered = tuple(sorted(slices))
    text, start = [], 0
    for i, number in enumerate(ordered):
        if i + 1 == len(ordered) or ordered[i + 1] != number + 1:
            text.append(str(number) if start == i else f"{ordered[start]}-{number}")
            start = i + 1
    assert _slices("here", " ".join(text)) == ordered == _slices("here", list(ordered))


def test_the_real_data_have_a_label_for_each_scan(hippocampus, sunnybrook, tmp_path):
    for root, number in ((hippocampus, 200), (sunnybrook, 60)):
        scans = listed(Folder(root=root), tmp_path)
        assert len(scans) == number
        assert all(scan.label and scan.label.name == scan.path.name and not scan.unfit for scan in scans)


def test_images_and_labels_that_do_not_belong_together_are_told_apart(tmp_path):
    root = shared_data() / "odd" / "unpaired_hippocampus"
    if not root.is_dir():
        pytest.skip("the real data is not here; set SSMTL_TEST_DATA")
    files = sorted(p.relative_to(root) for p in root.rglob("*.nii*"))
    scans = listed(Folder(root=root), tmp_path)
    assert len(scans) == len(files)
    assert all(scan.label is None for scan in scans)


def test_annotated_slices_of_a_manifest_alone_are_trained_on_and_scored(labelled, pretrained, tmp_path, ssmtl):
    lines = ["image,label,patient,slices"]
    for i, image in enumerate(sorted((labelled / "images").iterdir())):
        lines.append(f"{image},{labelled / 'labels' / image.name},p{i // 2},4-5")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    options = ["--from", pretrained, "--steps", 1, "--test-scans", 2, "--no-surface", "--out", "f", "--json"]
    done = ssmtl("finetune", "--data", tmp_path / "m.csv", *options, "--allow-outside")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["training_slices"] == [16]
    scores = json.loads((tmp_path / "f" / "pretrained-0" / "scores.json").read_text())
    name = scores["scans"][0]["name"].rpartition("/")[2]
    label = np.asanyarray(nib.load(labelled / "labels" / f"{name}.nii.gz").dataobj)[:, :, 4:6]
    found = scores["scans"][0]["classes"]["10"]
    assert found["tp"] + found["fn"] == np.count_nonzero(label == 10)

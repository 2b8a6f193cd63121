"""Public data sets as downloaded: what is a scan, whose it is, which label map is its own, and what the classes are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.places import ROOT
from helpers.public_sets import FAKES, Fake
from ssmtl_datasets.layouts.sets import SETS
from ssmtl_toolkit.data.split import make, with_patients
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import Scan


@pytest.fixture(params=FAKES)
def fake(request):
    return FAKES[request.param]


@pytest.fixture
def root(tmp_path, fake):
    return fake.write(tmp_path / "download")


def listed(given: Path | str) -> list[Scan]:
    return list_scans(dataset_of(str(given)), Path("unused"))


def fit(given: Path | str) -> list[Scan]:
    return [scan for scan in listed(given) if not scan.unfit]


def below(root: Path, path: Path) -> str:
    """The path of a scan or label map, of DICOM that of its folder."""
    name = str(path.relative_to(root))
    return name if "." in path.name or path.is_dir() else str(path.parent.relative_to(root))


def test_exactly_the_images_are_scans_and_each_belongs_to_its_patient(fake: Fake, root):
    patients: dict[str, list[str]] = {}
    for scan in fit(root):
        patients.setdefault(scan.patient, []).append(below(root, scan.path))
    assert {patient: sorted(images) for patient, images in patients.items()} == {
        patient: sorted(images) for patient, images in fake.patients.items()
    }


def test_each_image_has_its_own_labels(fake: Fake, root):
    found = {below(root, scan.path): tuple(below(root, path) for path in scan.label_paths) for scan in fit(root)}
    assert found == {image: fake.label_files(image) for image in fake.images}
    assert all(scan.label is None or scan.label.exists() for scan in fit(root))


def test_the_classes_are_those_published_and_the_layout_is_named(fake: Fake, root):
    dataset = dataset_of(str(root))
    classes = {name: values[0] for name, values in dataset.classes().items()}
    assert fake.classes.items() <= classes.items()
    values = [value for each in dataset.classes().values() for value in each]
    assert len(values) == len(set(values))
    assert dataset.layout().startswith(fake.words)


def test_scans_of_one_patient_are_never_parted(fake: Fake, root):
    scans, _ = with_patients(fit(root), None)
    if len({scan.patient for scan in scans}) < 2:
        return
    for seed in range(3):
        split = make(scans, 1, 0, seed)
        sides = {
            patient: {part for part in ("train", "test") if patient in getattr(split, part)}
            for patient in fake.patients
        }
        assert all(len(parts) == 1 for parts in sides.values())


def test_names_are_distinct_and_the_same_each_time(fake: Fake, root):
    names = [scan.name for scan in listed(root)]
    assert len(set(names)) == len(names)
    assert listed(root) == listed(root)


def test_every_public_set_has_a_tree_here_or_a_reason(fake: Fake):
    without = {"BraTS-PED (2023 and later)", "BraTS-MEN-RT (2024)"}  # named as the other BraTS
    shown = " ".join(one.words for one in FAKES.values())
    assert [
        layout.name for layout in SETS if layout.name.partition(",")[0] not in shown and layout.name not in without
    ] == []
    assert all(layout.source for layout in SETS)


# ---- several data sets, descriptions, and what lies beside ----


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def labels(given: Path | str) -> dict[str, str | None]:
    return {scan.name: scan.label.name if scan.label else None for scan in fit(given)}


def test_several_data_sets_in_one_folder_are_told_apart_and_other_scans_are_kept(tmp_path):
    FAKES["LiTS"].write(tmp_path / "lits")
    FAKES["KiTS19"].write(tmp_path / "kits")
    touch(tmp_path, "own/mine.nii.gz", "own/mine_seg.nii.gz", "own/other.nii.gz", "own/other_lung_mask.nii.gz")
    dataset = dataset_of(str(tmp_path))
    assert dataset.layout() == "KiTS19, 1 patient; LiTS, 3 patients"
    assert dataset.classes() == {}  # tumour is 2 in both, kidney and liver are 1
    patients = {scan.patient for scan in fit(tmp_path)}
    assert patients == {"KiTS19 case_00000", "LiTS 0", "LiTS 28", "LiTS test-volume-0", "own/mine", "own/other"}
    assert labels(tmp_path)["own/mine"] == "mine_seg.nii.gz"
    assert labels(tmp_path)["own/other"] is None


def test_a_data_set_is_recognised_from_one_of_its_folders_too(tmp_path):
    FAKES["TotalSegmentator v2"].write(tmp_path)
    dataset = dataset_of(str(tmp_path / "s0000"))
    assert dataset.layout().startswith("TotalSegmentator, 1 patient")
    (scan,) = fit(tmp_path / "s0000")
    assert [mask.name for mask in scan.masks] == ["aorta", "kidney_left", "liver"]


def test_the_general_rules_can_be_asked_for(tmp_path):
    FAKES["LiTS"].write(tmp_path)
    dataset = dataset_of(f"folder:{tmp_path},public=no")
    assert dataset.layout() == "all scans below this folder"
    assert dataset.classes() == {}


def test_a_mask_that_one_patient_lacks_is_missing_there_by_name(tmp_path):
    FAKES["TotalSegmentator v2"].write(tmp_path)
    (tmp_path / "s0001/segmentations/liver.nii.gz").unlink()
    first, second = fit(tmp_path)
    assert [mask.path is None for mask in first.masks] == [False, False, False]
    assert {mask.name: mask.path is None for mask in second.masks} == {
        "aorta": False,
        "kidney_left": False,
        "liver": True,
    }


@pytest.mark.parametrize("name", ["p1_seg", "p1_mask", "p1-label", "mask_p1", "p1.seg", "p1_gt"])
def test_a_label_map_beside_its_scan_is_its_own(tmp_path, name):
    touch(tmp_path, "a/p1.nii.gz", f"a/{name}.nii.gz", "a/p2.nii.gz")
    assert labels(tmp_path) == {"a/p1": f"{name}.nii.gz", "a/p2": None}


def test_images_and_labels_are_paired_in_each_of_several_folders(tmp_path):
    for part in ("train", "val"):
        touch(tmp_path, *(f"{part}/{kind}/p1.nii.gz" for kind in ("images", "labels")), f"{part}/images/p2.nii.gz")
    touch(tmp_path, "Task02/imagesTr/la_1.nii.gz", "Task02/labelsTr/la_1.nii.gz", "Task02/imagesTs/la_2.nii.gz")
    found = {scan.name: scan.label and str(scan.label.relative_to(tmp_path)) for scan in fit(tmp_path)}
    assert found == {
        "train/images/p1": "train/labels/p1.nii.gz",
        "train/images/p2": None,
        "val/images/p1": "val/labels/p1.nii.gz",
        "val/images/p2": None,
        "Task02/imagesTr/la_1": "Task02/labelsTr/la_1.nii.gz",
        "Task02/imagesTs/la_2": None,
    }


def test_two_label_maps_beside_a_scan_are_skipped_by_name(tmp_path):
    touch(tmp_path, "p1.nii.gz", "p1_seg.nii.gz", "p1_mask.nii.gz")
    assert labels(tmp_path) == {"p1": None}
    assert sum("a label map by its name" in scan.unfit for scan in listed(tmp_path)) == 2


def test_a_description_names_its_tool_and_channels(tmp_path):
    touch(tmp_path, *(f"imagesTr/c_{i}_000{k}.nii.gz" for i in (1, 2) for k in (0, 1)), "labelsTr/c_1.nii.gz")
    said = {"labels": {"background": 0, "x": 1, "ignore": 2}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps({**said, "channel_names": {"0": "T1", "1": "FLAIR"}}))
    dataset = dataset_of(str(tmp_path))
    assert dataset.layout() == "nnU-Net v2, 2 channels (T1, FLAIR; 0 used)"
    assert dataset_of(f"folder:{tmp_path},channel=all").layout().endswith("(T1, FLAIR; all used)")
    assert (dataset.classes(), dataset.ignored()) == ({"x": (1,)}, 2)
    by_name = fit(f"folder:{tmp_path},channels=flair+t1")
    assert [path.name for path in by_name[0].paths] == ["c_1_0001.nii.gz", "c_1_0000.nii.gz"]
    assert by_name[0].contrasts == ("0001", "0000")
    with pytest.raises(DataError, match=r"has no channel 'T2'.*\(known: 0 T1, 1 FLAIR\)"):
        listed(f"folder:{tmp_path},channels=T2")


def test_numbers_of_cases_are_no_channels_of_a_list(tmp_path):
    images = [f"imagesTr/amos_000{i}.nii.gz" for i in (1, 4)]
    touch(tmp_path, *images)
    said = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}
    (tmp_path / "dataset.json").write_text(json.dumps({**said, "training": [{"image": image} for image in images]}))
    assert [(scan.name, scan.contrasts) for scan in fit(tmp_path)] == [("amos_0001", ()), ("amos_0004", ())]


def test_derivatives_that_are_given_by_themselves_are_scans(tmp_path):
    FAKES["BIDS"].write(tmp_path)
    assert [scan.patient for scan in fit(tmp_path / "derivatives/fmriprep")] == ["sub-02"]


@pytest.mark.parametrize("given", ["", "dataset_0.json"])
def test_a_data_list_of_monai_is_read_under_any_name(tmp_path, given):
    touch(tmp_path, *(f"{folder}/{name}.nii.gz" for folder in ("im", "la") for name in ("a", "b", "c")))
    parts = {"training": ["a"], "validation": ["b"], "test": ["c"]}
    said = {part: [{"image": f"im/{n}.nii.gz", "label": f"la/{n}.nii.gz"} for n in ns] for part, ns in parts.items()}
    (tmp_path / "dataset_0.json").write_text(json.dumps(said))
    assert labels(tmp_path / given) == {n: f"{n}.nii.gz" for n in "abc"}
    assert dataset_of(str(tmp_path / given)).layout() == "data list of MONAI"


@pytest.mark.parametrize("key", ["seg", "mask", "segmentation"])
def test_label_maps_of_a_list_may_have_other_names(tmp_path, key):
    touch(tmp_path, "im/a.nii.gz", "la/a.nii.gz")
    said = {"training": [{"image": "im/a.nii.gz", key: "la/a.nii.gz"}]}
    (tmp_path / "data.json").write_text(json.dumps(said))
    assert labels(tmp_path / "data.json") == {"a": "a.nii.gz"}


def test_a_json_file_that_lists_no_scans_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(DataError, match=r"x\.json: lists no scans; expected `training`"):
        listed(tmp_path / "x.json")


def test_all_parts_of_nnunet_without_a_description_are_scans(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b_0000.nii.gz", "labelsTs/b.nii.gz")
    touch(tmp_path, "imagesVa/c_0000.nii.gz")
    assert {n: label for n, label in labels(tmp_path).items() if label} == {"a": "a.nii.gz", "b": "b.nii.gz"}
    assert len(fit(tmp_path)) == 3


# ---- contrasts ----


def joined(given: str) -> dict[str, list[str]]:
    return {scan.name: [path.name for path in scan.paths] for scan in fit(given)}


def test_contrasts_of_brats_are_joined_in_the_order_asked_for(tmp_path):
    root = FAKES["BraTS 2023"].write(tmp_path)
    (root / "BraTS-GLI-00002-000/BraTS-GLI-00002-000-t2f.nii.gz").unlink()
    found = joined(f"folder:{root},channels=t2f+t1n")
    first = "BraTS-GLI-00000-000"
    assert found[f"{first}/{first}"] == [f"{first}-t2f.nii.gz", f"{first}-t1n.nii.gz"]
    assert len(found) == 2
    (missing,) = [scan.unfit for scan in listed(f"folder:{root},channels=t2f+t1n") if "has no" in scan.unfit]
    assert "BraTS-GLI-00002-000' has no t2f (expected: t2f, t1n); add the file" in missing
    scan = fit(f"folder:{root},channels=t2f+t1n")[0]
    assert (scan.patient, scan.contrasts, scan.label.name) == ("BraTS-GLI-00000", ("t2f", "t1n"), f"{first}-seg.nii.gz")
    assert len(fit(f"folder:{root},channel=all")) == 2
    assert all(len(scan.paths) == 4 for scan in fit(f"folder:{root},channels=all"))
    with pytest.raises(DataError, match=r"has no contrast 't1'; did you mean 't1[cn]'\? \(known: t1c, t1n, t2f, t2w\)"):
        listed(f"folder:{root},channels=t1")
    with pytest.raises(DataError, match="its contrasts have names, not numbers"):
        listed(f"folder:{root},channel=2")


def test_the_cine_of_acdc_is_used_when_asked_for(tmp_path):
    root = FAKES["ACDC"].write(tmp_path)
    (scan,) = fit(f"folder:{root},channels=4d")
    assert (scan.path.name, scan.patient) == ("patient001_4d.nii.gz", "patient001")
    assert any("the whole cine, 4-D; channels=4d uses it" in scan.unfit for scan in listed(root))


@pytest.mark.parametrize("folder", ["images/", ""])
def test_words_of_names_are_channels(tmp_path, folder):
    names = [f"{folder}p{i}_{c}.nii.gz" for i in (1, 2) for c in ("T1", "t1_ce", "FLAIR")]
    touch(tmp_path, *names, f"{folder}p3_T1.nii.gz", f"{folder}notes_x.nii.gz")
    if folder:
        touch(tmp_path, "labels/p1.nii.gz")
    text = f"folder:{tmp_path},channels=flair+t1"
    assert joined(text) == {f"p{i}": [f"p{i}_FLAIR.nii.gz", f"p{i}_T1.nii.gz"] for i in (1, 2)}
    reasons = " ".join(scan.unfit for scan in listed(text))
    assert "its case 'p3' has no channel flair (expected: flair, t1)" in reasons
    assert "none of the words flair, t1 is in its name" in reasons
    if folder:
        assert labels(text)["p1"] == "p1.nii.gz"


def test_channels_and_channel_are_not_both_given(tmp_path):
    for text, said in {
        "channel=1,channels=t1": "both `channel` and `channels`",
        "channels=t1+": "expected names",
    }.items():
        with pytest.raises(UsageError, match=said):
            dataset_of(f"folder:{tmp_path},{text}")


def test_suffixes_of_bids_are_channels_by_session(tmp_path):
    touch(tmp_path, *(f"sub-{i}/ses-1/anat/sub-{i}_ses-1_{c}.nii.gz" for i in (1, 2) for c in ("T1w", "FLAIR")))
    touch(tmp_path, "sub-3/anat/sub-3_T1w.nii.gz", "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz")
    touch(tmp_path, "sub-1/ses-2/anat/sub-1_ses-2_acq-space_FLAIR.nii.gz")
    touch(tmp_path, "derivatives/x/sub-1/ses-1/anat/sub-1_ses-1_space-T1w_dseg.nii.gz")
    text = f"bids:{tmp_path},suffix=T1w+FLAIR"
    assert joined(text) == {
        "sub-1_ses-1_T1w+FLAIR": ["sub-1_ses-1_T1w.nii.gz", "sub-1_ses-1_FLAIR.nii.gz"],
        "sub-1_ses-2_T1w+FLAIR": ["sub-1_ses-2_T1w.nii.gz", "sub-1_ses-2_acq-space_FLAIR.nii.gz"],
        "sub-2_ses-1_T1w+FLAIR": ["sub-2_ses-1_T1w.nii.gz", "sub-2_ses-1_FLAIR.nii.gz"],
    }
    assert {scan.patient for scan in fit(text)} == {"sub-1", "sub-2"}
    assert "has no image FLAIR; add it, or use T1w" in " ".join(scan.unfit for scan in listed(text))
    assert labels(text)["sub-1_ses-1_T1w+FLAIR"] == "sub-1_ses-1_space-T1w_dseg.nii.gz"
    assert dataset_of(text).layout() == "BIDS, 3 subjects, T1w+FLAIR"


def test_the_table_in_the_documents_has_a_row_for_every_public_set():
    table = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    assert [layout.name for layout in SETS if f"| {layout.name} |" not in table] == []

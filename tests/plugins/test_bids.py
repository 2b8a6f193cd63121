"""BIDS data sets: which images are scans, whose they are, and which label map belongs to them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers.small import SMALL, ball, write_scan
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import Scan


def listed(text: str) -> list[Scan]:
    return list_scans(dataset_of(f"bids:{text}"), Path("unused"))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two subjects, one of them with two sessions, and label maps of two pipelines."""
    root = tmp_path / "set"
    touch(
        root,
        "dataset_description.json",
        "participants.tsv",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_run-1_T1w.nii",
        "sub-02/ses-2/anat/sub-02_ses-2_run-1_T1w.nii.gz",
        "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz",
        "derivatives/manual/sub-02/ses-2/anat/sub-02_ses-2_run-1_desc-all_dseg.nii.gz",
        "derivatives/manual/sub-02/ses-2/anat/sub-02_ses-2_run-1_space-MNI152NLin6Asym_desc-all_dseg.nii.gz",
        "derivatives/manual/sub-02/ses-2/anat/sub-02_ses-2_run-2_desc-all_dseg.nii.gz",
    )
    return root


def test_images_are_found_by_suffix_with_patients_and_without_sidecars(tree):
    scans = listed(str(tree))
    assert [(scan.name, scan.patient, scan.modality) for scan in scans] == [
        ("sub-01_T1w", "sub-01", "T1w"),
        ("sub-02_ses-1_run-1_T1w", "sub-02", "T1w"),
        ("sub-02_ses-2_run-1_T1w", "sub-02", "T1w"),
    ]
    assert [scan.name for scan in listed(f"{tree},suffix=bold")] == ["sub-01_task-rest_bold"]


def test_a_label_map_belongs_to_the_image_with_the_same_entities_on_the_same_grid(tree):
    labels = [scan.label and scan.label.relative_to(tree / "derivatives" / "manual") for scan in listed(str(tree))]
    assert [label and str(label) for label in labels] == [
        "sub-01/anat/sub-01_dseg.nii.gz",
        None,
        "sub-02/ses-2/anat/sub-02_ses-2_run-1_desc-all_dseg.nii.gz",
    ]


def test_of_two_pipelines_one_must_be_chosen(tree):
    touch(tree, "derivatives/auto/sub-01/anat/sub-01_space-orig_desc-aseg_dseg.nii.gz")
    with pytest.raises(DataError, match=r"has 2 label maps, .*auto.* and .*manual.*; choose by labels="):
        listed(str(tree))
    assert "auto" in str(listed(f"{tree},labels=auto")[0].label)
    assert "manual" in str(listed(f"{tree},labels=manual")[0].label)
    assert "auto" in str(listed(f"{tree},desc=aseg")[0].label)
    with pytest.raises(DataError, match=r"no folder 'manul'; did you mean 'manual'\? \(there are: auto, manual\)"):
        listed(f"{tree},labels=manul")


def test_of_two_segmentations_one_is_chosen_by_its_entity(tree):
    manual = "derivatives/manual/sub-02/ses-2/anat/sub-02_ses-2_run-1"
    (tree / f"{manual}_desc-all_dseg.nii.gz").unlink()
    touch(tree, f"{manual}_seg-lobes_dseg.nii.gz", f"{manual}_seg-tissue_dseg.nii.gz")
    with pytest.raises(DataError, match=r"has 2 label maps, .*; choose by seg=NAME, or use none with labels=none$"):
        listed(str(tree))
    assert str(listed(f"{tree},seg=tissue")[2].label).endswith("seg-tissue_dseg.nii.gz")
    (tree / "seg-lobes_dseg.tsv").write_text("index\tname\n1\tfrontal\n")
    (tree / "seg-tissue_dseg.tsv").write_text("index\tname\n1\tgray\n")
    assert dataset_of(f"bids:{tree},seg=tissue").classes() == {"gray": (1,)}


@pytest.mark.parametrize(
    "name", ["label-L_mask", "T1w_label-SC_seg", "T1w_seg-manual", "label-L_desc-lesion_mask", "msk"]
)
def test_label_maps_that_are_not_called_dseg_are_found_if_they_are_of_one_kind(tmp_path, name):
    for i in (1, 2):
        touch(tmp_path, f"sub-{i}/anat/sub-{i}_T1w.nii.gz", f"sub-{i}/anat/sub-{i}_T2w.nii.gz")
        touch(
            tmp_path, f"derivatives/l/sub-{i}/anat/sub-{i}_{name}.nii.gz", f"derivatives/l/sub-{i}/sub-{i}_{name}.json"
        )
        touch(tmp_path, f"derivatives/l/sub-{i}/anat/sub-{i}_label-GM_probseg.nii.gz")
    assert [scan.label and scan.label.name for scan in listed(str(tmp_path))] == [
        f"sub-{i}_{name}.nii.gz" for i in (1, 2)
    ]
    if name.startswith("T1w"):
        assert [scan.label for scan in listed(f"{tmp_path},suffix=T2w")] == [None, None]


def test_of_several_kinds_of_label_maps_one_is_chosen_and_who_needs_none_goes_on(tmp_path):
    for i in (1, 2):
        touch(tmp_path, f"sub-{i}/anat/sub-{i}_T1w.nii.gz")
        touch(
            tmp_path,
            *(f"derivatives/l/sub-{i}/anat/sub-{i}_{name}.nii.gz" for name in ("desc-brain_mask", "label-L_mask")),
        )
    *scans, note = listed(str(tmp_path))
    assert [(scan.label, scan.unfit) for scan in scans] == [(None, "")] * 2
    assert note.unfit == (
        f"{tmp_path}/derivatives: has label maps with several endings, desc-brain_mask (2), label-L_mask (2); "
        "choose one by maps=ENDING"
    )
    assert [scan.label.name for scan in listed(f"{tmp_path},maps=label-L_mask") if scan.label] == [
        f"sub-{i}_label-L_mask.nii.gz" for i in (1, 2)
    ]
    with pytest.raises(
        DataError, match=r"no label map named …_label-R_mask; did you mean 'label-L_mask'\? \(there are: desc"
    ):
        listed(f"{tmp_path},maps=label-R_mask")
    touch(tmp_path, "derivatives/l/sub-1/anat/sub-1_dseg.nii.gz")
    assert [scan.label and scan.label.name for scan in listed(str(tmp_path))] == ["sub-1_dseg.nii.gz", None]


def test_who_needs_no_labels_need_not_choose_any(tree):
    touch(tree, "derivatives/auto/sub-01/anat/sub-01_dseg.nii.gz")
    with pytest.raises(DataError, match=r"by labels=FOLDER \(below derivatives\), or use none with labels=none$"):
        listed(str(tree))
    assert [scan.label for scan in listed(f"{tree},labels=none")] == [None, None, None]
    (tree / "derivatives" / "manual" / "dseg.tsv").write_text("index\tname\n1\tgray\n")
    assert dataset_of(f"bids:{tree},labels=none").classes() == {}


def test_of_two_images_that_a_label_map_may_belong_to_the_one_of_its_shape_gets_it(tmp_path):
    for name, slices in (("T1w", 10), ("T2w", 5), ("PDw", 10)):
        for file in ("sub-1", "sub-2"):
            write_scan(tmp_path / file / "anat" / f"{file}_{name}.nii.gz", slices)
    write_scan(tmp_path / "derivatives" / "m" / "sub-1" / "anat" / "sub-1_dseg.nii.gz", 10)
    write_scan(tmp_path / "derivatives" / "m" / "sub-2" / "anat" / "sub-2_space-T2w_dseg.nii.gz", 10)
    found = {name: [bool(scan.label) for scan in listed(f"{tmp_path},suffix={name}")] for name in ("T1w", "T2w", "PDw")}
    # what names its image is taken by its word, so that its reader says what is wrong with it
    assert found == {"T1w": [True, False], "T2w": [False, True], "PDw": [True, False]}


def test_class_names_come_from_the_table_and_contradicting_tables_say_nothing(tree):
    spec = dataset_of(f"bids:{tree}")
    assert spec.classes() == {}
    table = tree / "derivatives" / "manual" / "dseg.tsv"
    table.write_text("index\tname\tcolor\n0\tbackground\t#000\n2\tright\t#111\n1\tleft\t#222\n3\tleft\t#222\n")
    assert spec.classes() == {"left": (1, 3), "right": (2,)}
    (tree / "desc-all_dseg.tsv").write_text("index\tname\n1\tliver\n")
    assert spec.classes() == {}
    assert dataset_of(f"bids:{tree},desc=other").classes() == {"left": (1, 3), "right": (2,)}
    table.write_text("number,name\n1,left\n")
    with pytest.raises(DataError, match=r"dseg\.tsv: has no columns index and name"):
        dataset_of(f"bids:{tree},desc=other").classes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ",suffix=T1",
            r"has no image named …_T1; did you mean 'T1w'\? \(there are: T1w \(3\), T2w \(1\), bold \(1\)\)",
        ),
        (",datatype=dwi", r"has no image named …_T1w in dwi/ \(there are: none\)"),
        (",desc=al", r"has no label map with desc-al; did you mean 'all'\? \(there are: all\); omit desc="),
        (",seg=liver", r"has no label map with seg-liver \(there are: none\); omit seg="),
        ("/sub-01", r"is not a BIDS data set: it has no folders such as sub-01"),
        ("/nowhere", r"no such folder"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(tree, options, said):
    with pytest.raises(DataError, match=said) as error:
        listed(f"{tree}{options}")
    assert "\n" not in str(error.value)


def test_a_path_instead_of_a_name_is_refused(tree):
    with pytest.raises(UsageError, match="labels"):
        listed(f"{tree},labels=../elsewhere")


def test_content_that_was_not_fetched_is_named_and_left_out(tree):
    link = tree / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    link.unlink()
    link.symlink_to(tree / ".git" / "annex" / "object")
    scans = listed(str(tree))
    assert "datalad get" in scans[0].unfit
    assert not any(scan.unfit for scan in scans[1:])


def test_two_files_of_one_name_are_refused(tree):
    touch(tree, "sub-01/anat/sub-01_T1w.nii")
    with pytest.raises(DataError, match="has two images sub-01_T1w"):
        listed(str(tree))


def test_a_run_and_a_fine_tuning_take_a_bids_data_set(tmp_path, ssmtl):
    root = tmp_path / "brains"
    for i in range(4):
        image, label = ball(10, seed=i)
        name = f"sub-{i}/anat/sub-{i}"
        for file, array in ((f"{name}_T1w", image), (f"derivatives/manual/{name}_dseg", label)):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([0.8, 0.8, 2.0, 1.0])), root / f"{file}.nii.gz")
    write_scan(root / "sub-0" / "anat" / "sub-0_T2w.nii.gz")
    (root / "dseg.tsv").write_text("index\tname\n10\tbig\n20\tsmall\n")
    made = ssmtl(
        *("run", "--data", f"bids:{root},suffix=T1w", "--size", 32, "--steps", 2, "--backbone", SMALL),
        *("--task", "reconstruct_next:t=1", "--out", "pre", "--json"),
    )
    assert made.returncode == 0, made.stderr
    tuned = ssmtl(
        *("finetune", "--from", "pre", "--data", f"bids:{root},suffix=T1w", "--steps", 2, "--test-scans", 1),
        *("--out", "tuned", "--json", "--no-surface"),
    )
    assert tuned.returncode == 0, tuned.stderr
    assert list(json.loads(tuned.stdout)["classes"]) == ["big", "small"]

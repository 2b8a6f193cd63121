"""What the dataset should do; and the checks that every dataset passes."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ssmtl_toolkit import DataError, pretrain
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.testing import Case, cases

from my_plugin import MyPlugin


def listed(root: Path) -> list[Scan]:
    return MyPlugin(root=root).scans(root / "cache", installed_readers())


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_example(folder: Path) -> MyPlugin:
    """Two patients with small scans, one of them labelled."""
    rng = np.random.default_rng(0)
    for name in ("anna/ct", "ben/2024/ct"):
        image = rng.normal(100, 20, (24, 20, 12)).astype(np.int16)
        image[8:16, 6:14] += 200
        file = folder / f"{name}.nii.gz"
        file.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(image, np.diag([0.8, 0.8, 3.0, 1.0])), file)
    label = np.zeros((24, 20, 12), np.uint8)
    label[8:16, 6:14] = 1
    nib.save(nib.Nifti1Image(label, np.diag([0.8, 0.8, 3.0, 1.0])), folder / "anna" / "ct_seg.nii.gz")
    return MyPlugin(root=folder)


def test_the_patient_is_the_folder_and_the_label_lies_beside_the_scan(tmp_path: Path) -> None:
    touch(tmp_path, "ben/ct.nii.gz", "anna/b/mr.nii", "anna/a/ct.nii.gz", "anna/a/ct_seg.nii.gz", "anna/.hidden/x.nii")
    found = [(scan.name, scan.patient, scan.label) for scan in listed(tmp_path)]
    assert found == [
        ("anna/a/ct", "anna", tmp_path / "anna/a/ct_seg.nii.gz"),
        ("anna/b/mr", "anna", None),
        ("ben/ct", "ben", None),
    ]


def test_what_belongs_to_no_patient_or_no_scan_is_skipped_with_a_reason(tmp_path: Path) -> None:
    touch(tmp_path, "anna/ct.nii", "anna/mr_seg.nii", "lost.nii")
    assert {scan.name: bool(scan.unfit) for scan in listed(tmp_path)} == {
        "anna/ct": False,
        "anna/mr_seg": True,
        "lost": True,
    }


def test_slices_in_a_folder_of_their_own_are_one_scan(tmp_path: Path) -> None:
    touch(tmp_path, "anna/t1/1.png", "anna/t1/2.png", "anna/t2/1.png", "anna/t2/2.png")
    assert [(scan.name, scan.patient) for scan in listed(tmp_path)] == [("anna/t1", "anna"), ("anna/t2", "anna")]


def test_a_folder_that_is_missing_or_empty_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        listed(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no scan found"):
        listed(tmp_path)


def test_it_can_be_trained_on_by_its_name(tmp_path: Path) -> None:
    write_example(tmp_path / "scans")
    run = pretrain(
        data=f"my_plugin:{tmp_path / 'scans'}",
        backbone="unet:encoder=plain,width=8",
        tasks=["reconstruct_next:t=2"],
        size=32,
        steps=2,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert run.summary["scans"]["used"] == 2


@pytest.mark.parametrize("case", cases("my_plugin", example=write_example), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()

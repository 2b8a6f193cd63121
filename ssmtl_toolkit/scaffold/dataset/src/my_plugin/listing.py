"""Finds the scans below a folder: whose they are, and which label map belongs to which."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ssmtl_toolkit import DataError
from ssmtl_toolkit.data.finding import Found, find
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable

LABEL = "_seg"


def list_scans(root: Path, readers: Readers) -> list[Scan]:
    """List the scans in the order of their names: everything drawn at random later depends on this order.

    Raises:
        DataError: the root is missing, cannot be read or holds no scan.
    """
    if not root.is_dir():
        raise DataError(f"{printable(root)}: no such folder; give the folder that holds the patients' folders")
    # `find` handles scans that are a folder, as in DICOM, folders with several scans, and links that lead in circles.
    by_name = {_name(found, root): found for found in find(root, readers)}
    scans = [
        _scan(name, by_name)
        for name in by_name
        if not (name.endswith(LABEL) and name.removesuffix(LABEL) in by_name)  # it becomes that scan's label
    ]
    if not scans:
        raise DataError(f"{printable(root)}: no scan found in it; expected files such as PATIENT/ct.nii.gz")
    return scans


def _scan(name: str, by_name: Mapping[str, Found]) -> Scan:
    found, label = by_name[name], by_name.get(name + LABEL)
    # Scans of one patient stay together when the data are split into training and test: a patient in both would make
    # the test worthless.
    patient, slash, _ = name.partition("/")
    # Nothing is skipped silently: the user sees the reason.
    reason = ""
    if name.endswith(LABEL):
        reason = "a label map without its scan; put the scan beside it"
    elif not slash:
        reason = "is not in a patient's folder; move it into one"
    unfit = found.unfit or (reason and f"{printable(found.holder)}: {reason}")
    return Scan(found.path, name, patient, label=label.path if label else None, unfit=unfit)


def _name(found: Found, root: Path) -> str:
    """Return a scan's name in tables and files: its path below the root, without the suffix (.nii.gz as a whole)."""
    path = found.holder.relative_to(root)
    if not found.holder.is_dir():
        path = path.with_name(Path(path.name.removesuffix(".gz")).stem)
    return printable((path / found.part).as_posix())

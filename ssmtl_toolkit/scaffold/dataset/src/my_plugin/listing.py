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
    """The scans in the order of their names: all that is drawn later depends on the order, so it must not vary.

    Raises:
        DataError: the root is missing, cannot be read or holds no scan.
    """
    if not root.is_dir():
        raise DataError(f"{printable(root)}: no such folder; give the folder that holds the patients' folders")
    # `find` knows of scans that are a folder, as in DICOM, of folders with several, and of links that lead in circles.
    found = {_name(one, root): one for one in find(root, readers)}
    scans = [
        _scan(name, found)
        for name in found
        if not (name.endswith(LABEL) and name.removesuffix(LABEL) in found)  # it is given as that scan's label
    ]
    if not scans:
        raise DataError(f"{printable(root)}: no scan found in it; expected files such as PATIENT/ct.nii.gz")
    return scans


def _scan(name: str, found: Mapping[str, Found]) -> Scan:
    one, label = found[name], found.get(name + LABEL)
    # Scans of one patient stay together when they are parted into training and test: a patient who is in both would
    # make the test worthless.
    patient, slash, _ = name.partition("/")
    # What is odd is not passed over in silence: the user is told of it as the reason why a file is left out.
    odd = ""
    if name.endswith(LABEL):
        odd = "a label map without its scan; put the scan beside it"
    elif not slash:
        odd = "lies in no patient's folder; move it into one"
    unfit = one.unfit or (odd and f"{printable(one.holder)}: {odd}")
    return Scan(one.path, name, patient, label=label.path if label else None, unfit=unfit)


def _name(one: Found, root: Path) -> str:
    """What a scan is called in tables and files: its path below the root, without the ending (.nii.gz as a whole)."""
    path = one.holder.relative_to(root)
    if not one.holder.is_dir():
        path = path.with_name(Path(path.name.removesuffix(".gz")).stem)
    return printable((path / one.part).as_posix())

"""Where the voxels of a NIfTI file lie by its header: affine, spacing in mm, and the axis of its slices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ssmtl_nifti.header import Header
from ssmtl_toolkit.data.geometry import shear, usable
from ssmtl_toolkit.data.source import FileError

_MM = {1: ("meters", 1000.0), 3: ("microns", 0.001)}  # xyzt_units; 0 (unknown) and 2 are taken as mm
_MS = {8: 1000.0, 16: 1.0, 24: 0.001}  # its seconds, milliseconds and microseconds


def geometry(header: Header, notes: list[str]) -> tuple[NDArray[np.float64], tuple[float, float, float]]:
    """Choose the affine (sform, then qform, then zooms) and the spacing (zooms, then affine), in mm."""
    zooms = np.asarray(header.fields["pixdim"][1:4], np.float64)
    measured = bool(np.isfinite(zooms).all() and (zooms > 0).all())
    affine = _affine(header, zooms if measured else None, notes)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not measured:
        notes.append(f"its spacing {_mm(zooms)} is impossible; the affine's {_mm(lengths)} is used")
        zooms = lengths
    elif (abs(zooms / lengths - 1) > 0.01).any():
        notes.append(f"its spacing {_mm(zooms)} and the affine's {_mm(lengths)} differ; the former is used")
    unit, scale = _MM.get(int(header.fields["xyzt_units"]) & 7, ("mm", 1.0))
    if unit != "mm":
        notes.append(f"its unit is {unit}, converted to mm")
    spacing = tuple(float(z) for z in zooms * scale)
    return np.diag([scale, scale, scale, 1.0]) @ affine, (spacing[0], spacing[1], spacing[2])


def frame_ms(header: Header) -> float:
    """The ms from one volume to the next; 0 if the header does not say, or has no unit of time."""
    step = float(header.fields["pixdim"][4]) if header.volumes > 1 else 0.0
    scale = _MS.get(int(header.fields["xyzt_units"]) & 0x38, 0.0)
    return step * scale if np.isfinite(step) and step > 0 else 0.0


def _affine(header: Header, zooms: NDArray[np.float64] | None, notes: list[str]) -> NDArray[np.float64]:
    fields = header.fields
    if fields["pixdim"][0] != -1:
        fields["pixdim"][0] = 1  # the standard: anything but -1 means 1; nibabel would refuse it
    coded = {
        name: _form(get)
        for name, get in (("sform", fields.get_sform), ("qform", fields.get_qform))
        if 1 <= int(fields[f"{name}_code"]) <= 5
    }
    usable = {name: form for name, form in coded.items() if form is not None}
    if not coded and zooms is not None:
        notes.append("has no orientation (no sform, no qform); its axes are assumed to be right, front, up")
        return np.diag([*zooms, 1.0])
    if not usable:
        what = f"invalid {' and '.join(coded)}" if coded else "neither orientation nor spacing"
        raise FileError(f"has no usable affine ({what}: NaN, zero or singular); repair its header")
    name, affine = next(iter(usable.items()))
    notes.extend(f"its {broken} is invalid; the {name} is used" for broken in coded.keys() - usable.keys())
    if len(usable) == 2:
        _compare_forms(usable["sform"], usable["qform"], header.shape, notes)
    if sheared := shear(affine):
        notes.append(sheared)
    return affine


def _form(get: Callable[[], Any]) -> NDArray[np.float64] | None:
    """Return the affine if it is finite and can be inverted."""
    try:
        affine = np.asarray(get(), np.float64)
    except (HeaderDataError, ValueError):
        return None
    return affine if usable(affine) else None


def _compare_forms(
    sform: NDArray[np.float64], qform: NDArray[np.float64], shape: tuple[int, int, int], notes: list[str]
) -> None:
    """Note how far the two disagree about the scan's corners, if by more than a tenth of a voxel."""
    corners = np.array([[i, j, k, 1.0] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])])
    apart = np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max()
    if apart > 0.1 * np.linalg.norm(sform[:3, :3], axis=0).min():
        notes.append(f"its qform and sform disagree by up to {apart:.3g} (in its unit); the sform is used")


def _mm(lengths: NDArray[np.float64]) -> str:
    return " x ".join(f"{x:.4g}" for x in lengths)

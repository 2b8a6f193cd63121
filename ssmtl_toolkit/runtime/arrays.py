"""Volumes that are already in memory, such as numpy arrays or a MONAI dataset, as data for every command."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tomli_w
import xxhash
from numpy.typing import NDArray

from ssmtl_toolkit.data.users import use_cache
from ssmtl_toolkit.disk import half_of, writable
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.scans import default_cache
from ssmtl_toolkit.specs import DatasetSpec
from ssmtl_toolkit.text import printable

_MANIFEST = "manifest.toml"
_SAME_KIND = {np.dtype(np.bool_): np.uint8, np.dtype(np.float16): np.float32, np.dtype(np.longdouble): np.float64}


@dataclass(frozen=True)
class _Item:
    """One volume: channels (C, I, J, K), the label map (I, J, K) if there is one, and what it is called."""

    image: NDArray[Any]
    label: NDArray[Any] | None
    affine: NDArray[np.float64]
    name: str
    patient: str

    def write(self, folder: Path, digest: Any) -> dict[str, Any]:
        """Write a NIfTI file for each channel and the label map; return a row of the manifest."""
        row: dict[str, Any] = {"name": self.name, "patient": self.patient}
        files = []
        for number, channel in enumerate(self.image):
            suffix = f"_{number:04d}" if len(self.image) > 1 else ""
            files.append(_write(folder / "images" / f"{self.name}{suffix}.nii", channel, self.affine, digest))
        row["image"] = [str(file.relative_to(folder)) for file in files]
        if self.label is not None:
            file = _write(folder / "labels" / f"{self.name}.nii", self.label, self.affine, digest)
            row["label"] = str(file.relative_to(folder))
        return row


def from_arrays(
    volumes: Any,
    *,
    spacing: Sequence[float] | None = None,
    affine: Any = None,
    axes: str = "ijk",
    labels: Iterable[Any] | None = None,
    names: Sequence[str] | None = None,
    patients: Sequence[str] | None = None,
    classes: Mapping[str, int] | None = None,
    folder: str | Path | None = None,
) -> DatasetSpec:
    """Write volumes as NIfTI files, once, and return the dataset that they are: for `data=`, `predict` and others.

    >>> data = from_arrays([array, other], spacing=(0.8, 0.8, 3.0))
    >>> data = from_arrays(monai_dataset, axes="cijk")

    Args:
        volumes: the volumes in order: a list, or anything with a length and indices, such as a torch or MONAI dataset.
            Each is an array or tensor, or a pair of image and label map, or a mapping with the key `image` and any of
            `label`, `spacing`, `affine`, `name`, `patient`. A MONAI tensor brings its own affine and file name.
        spacing: mm between voxels along i, j and k; then i counts to the right, j to the front and k upwards.
        affine: (4, 4) instead, voxel indices (i, j, k) to mm in RAS+.
        axes: what the axes of an array count, in its order: a permutation of `ijk`, and `c` where it has channels.
        labels: a label map for each volume, on the same axes; without channels, or with one.
        names: a name for each; by default that of its file if it has one, else array-0000 and so on.
        patients: whose each is; by default each is a patient.
        classes: what the values of the label maps mean, {name: value}.
        folder: where to write; by default in the user's cache, under a digest of the contents.

    Raises:
        UsageError: naming the volume, and what is wrong with it.
        SsmtlError: the folder cannot be written.
    """
    reading = _Reading(spacing, affine, _checked_axes(axes), names, patients)
    target = Path(folder) if folder is not None else default_cache() / "arrays"
    if folder is None:
        use_cache(default_cache())
    if folder is not None and target.exists() and any(target.iterdir()):
        raise UsageError(f"{printable(target)}: is not empty; choose another folder")
    writing = target if folder is not None else half_of(target / "volumes")
    try:
        with writable(target):
            digest = _write_all(reading, volumes, labels, classes, writing)
            if folder is None:
                target = target / digest
                if target.exists():
                    shutil.rmtree(writing)
                else:
                    writing.rename(target)
    finally:
        if folder is None:
            shutil.rmtree(writing, ignore_errors=True)
    return registry().find(DatasetSpec, "manifest").model_validate({"file": (target / _MANIFEST).absolute()})


def _write_all(
    reading: _Reading, volumes: Any, labels: Iterable[Any] | None, classes: Mapping[str, int] | None, folder: Path
) -> str:
    """Write all volumes and their manifest; return a digest of both."""
    digest = xxhash.xxh3_128()
    given = list(_each(volumes))
    apart: list[Any] = [None] * len(given) if labels is None else list(_each(labels))
    for what, values in (("label maps", apart), ("names", reading.names), ("patients", reading.patients)):
        if values is not None and len(values) != len(given):
            raise UsageError(f"there are {len(given)} volumes and {len(values)} {what}; give one for each")
    if not given:
        raise UsageError("there are no volumes; give at least one")
    rows: list[dict[str, Any]] = []
    for i, (volume, label) in enumerate(zip(given, apart, strict=True)):
        item = reading.item(i, volume, label)
        if any(row["name"] == item.name for row in rows):
            raise UsageError(f"volume {i}: is called {item.name!r} as one before it; give other names")
        rows.append(item.write(folder, digest))
    manifest = {"scan": rows, **({"classes": dict(classes)} if classes else {})}
    text = tomli_w.dumps(manifest)
    digest.update(text.encode())
    (folder / _MANIFEST).write_text(text, encoding="utf-8")
    return str(digest.hexdigest())


@dataclass(frozen=True)
class _Reading:
    """How volumes are to be understood."""

    spacing: Sequence[float] | None
    affine: Any
    axes: str
    names: Sequence[str] | None
    patients: Sequence[str] | None

    def item(self, i: int, given: Any, label: Any) -> _Item:
        """Understand one volume."""
        parts: Mapping[str, Any] = given if isinstance(given, Mapping) else {"image": given}
        if isinstance(given, tuple) and len(given) == 2:
            parts = {"image": given[0], "label": given[1]}
        if "image" not in parts:
            raise UsageError(f"volume {i}: is a mapping without the key 'image' (it has {', '.join(map(str, parts))})")
        image = self._array(f"volume {i}", parts["image"])
        if "c" not in self.axes:
            image = image[None]
        label = parts.get("label") if label is None else label
        name = self._name(i, parts)
        patient = str(self.patients[i] if self.patients is not None else parts.get("patient", name))
        return _Item(image, self._label(i, label, image), self._placed(i, parts), name, patient)

    def _array(self, what: str, given: Any) -> NDArray[Any]:
        """Return an array with its axes in the order (c,) i, j, k."""
        array = _plain(given)
        if array.dtype.kind not in "biuf":
            raise UsageError(f"{what}: holds {array.dtype}; give an array or tensor of real numbers")
        if array.ndim != len(self.axes) or 0 in array.shape:
            hint = "; of channels and voxels, as MONAI has them, axes='cijk'" if array.ndim == 4 else ""
            raise UsageError(f"{what}: has shape {array.shape}, and axes={self.axes!r} names {len(self.axes)}{hint}")
        wanted = sorted(self.axes)  # c before i, j, k
        return array.transpose([self.axes.index(axis) for axis in wanted])

    def _label(self, i: int, given: Any, image: NDArray[Any]) -> NDArray[Any] | None:
        if given is None:
            return None
        array = _plain(given)
        if "c" in self.axes and array.ndim == 3:  # without channels
            inner = replace(self, axes=self.axes.replace("c", ""))
            label = inner._array(f"label map {i}", array)
        else:
            label = self._array(f"label map {i}", array)
        if label.ndim == 4:
            if len(label) != 1:
                raise UsageError(f"label map {i}: has {len(label)} channels; give one with a value for each class")
            label = label[0]
        if label.shape != image.shape[1:]:
            raise UsageError(f"label map {i}: has {label.shape} voxels, its volume has {image.shape[1:]}")
        return label

    def _placed(self, i: int, parts: Mapping[str, Any]) -> NDArray[np.float64]:
        """The affine: of the volume itself, else the one given for all."""
        own = parts.get("affine", getattr(parts["image"], "affine", None))
        affine, spacing = (own, None) if own is not None else (self.affine, parts.get("spacing", self.spacing))
        if affine is None and spacing is None:
            raise UsageError(f"volume {i}: how large are its voxels? give spacing=(i, j, k) in mm, or affine=")
        matrix = _plain(affine) if affine is not None else np.diag([*map(float, spacing or ()), 1.0])
        matrix = matrix.astype(np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) <= 0:
            raise UsageError(f"volume {i}: its spacing or affine cannot be used; give three mm above 0, or (4, 4)")
        return matrix

    def _name(self, i: int, parts: Mapping[str, Any]) -> str:
        if self.names is not None:
            name = str(self.names[i])
        elif "name" in parts:
            name = str(parts["name"])
        else:
            file = getattr(parts["image"], "meta", {}).get("filename_or_obj", "")
            name = Path(str(file)).name.partition(".")[0] or f"array-{i:04d}"
        if name != Path(name).name or name.startswith(".") or printable(name) != name:
            raise UsageError(f"volume {i}: {name!r} cannot be the name of a file; give a plain name")
        return name


def _checked_axes(axes: str) -> str:
    if sorted(axes.lower()) not in (list("ijk"), list("cijk")):
        raise UsageError(f"axes is {axes!r}; give a permutation of ijk, with c where the channels are, such as 'cijk'")
    return axes.lower()


def _each(values: Any) -> Iterator[Any]:
    """Go through a list or a dataset; of an array alone nobody can tell which axis counts volumes."""
    if hasattr(values, "dtype") or isinstance(values, str | bytes | Mapping):
        raise UsageError("give a list of volumes, [array], not an array, a text or a mapping by itself")
    if hasattr(values, "__getitem__") and hasattr(values, "__len__"):
        return (values[i] for i in range(len(values)))
    if not isinstance(values, Iterable):
        raise UsageError(f"expected a list of volumes or a dataset, got {type(values).__name__}")
    return iter(values)


def _plain(given: Any) -> NDArray[Any]:
    """A numpy array of a type that NIfTI has, whatever it was."""
    if hasattr(given, "detach"):  # a tensor
        given = given.detach().cpu()
    array = np.asarray(given)
    return array.astype(_SAME_KIND.get(array.dtype, array.dtype))


def _write(file: Path, voxels: NDArray[Any], affine: NDArray[np.float64], digest: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    array = np.asfortranarray(voxels)
    if array.dtype in (np.int64, np.uint64):
        low, high = int(array.min()), int(array.max())
        array = array.astype(np.int32 if low >= -(2**31) and high < 2**31 else np.float64)
    nib.Nifti1Image(array, affine, dtype=array.dtype).to_filename(file)
    digest.update(file.read_bytes())
    return file

"""Label maps: the class index of each voxel of a scan, checked against the scan's grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ssmtl_toolkit.data.classes import IGNORE, Classes, Others
from ssmtl_toolkit.data.grid import check_grid, turned
from ssmtl_toolkit.data.masks import join_masks
from ssmtl_toolkit.data.named import Merged, merged
from ssmtl_toolkit.data.placing import placed_on
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.slicing import Cut, EmptyFrames, WhichVolume
from ssmtl_toolkit.data.volume import DIRECTIONS, Stack, Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import listed, printable

NO_CLASS = "has no voxel of any class"  # a note

_INT32 = np.iinfo(np.int32)
_WHOLE = 1e-3  # how far from a whole number a scaled or float label may be
_SHOWN = 5
_MANY = 64  # different values in a scan, more than interpolated labels have


def label_values(volume: Volume, where: str) -> NDArray[np.int32]:
    """Return the voxels of a label map (I, J, K) as whole numbers.

    Raises:
        DataError: naming `where`: it has several channels, or voxels are NaN, fractional (beyond 0.001), or do not fit
            into 32 bits.
    """
    if volume.channels > 1:
        raise DataError(f"{where}: has {volume.channels} channels, a label map has one; give one label for each voxel")
    array: NDArray[Any] = volume.by_channel[0]
    lost = volume.replaced + int(array.dtype.kind == "f" and np.count_nonzero(~np.isfinite(array)))
    if lost:
        raise DataError(f"{where}: {lost} voxels of this label map are NaN or infinite; export the labels again")
    if not (_INT32.min <= array.min() and array.max() <= _INT32.max):
        raise DataError(
            f"{where}: its values go from {array.min():g} to {array.max():g}, too large for labels; is it a label map?"
        )
    if array.dtype.kind != "f":
        return array.astype(np.int32, copy=False)
    out = np.empty_like(array, np.int32)
    for k in range(array.shape[-1]):
        part = array[..., k]
        whole = np.rint(part)
        wrong = np.abs(part - whole) > _WHOLE
        if wrong.any():
            raise DataError(_fractional(array, where))
        out[..., k] = whole
    return out


def _fractional(array: NDArray[Any], where: str) -> str:
    wrong = array[np.abs(array - np.rint(array)) > _WHOLE]
    examples = ", ".join(f"{value:g}" for value in np.unique(wrong)[:_SHOWN])
    if len(np.unique(np.rint(wrong))) > _MANY:
        return (
            f"{where}: looks like a scan, not a label map: {len(wrong)} of its voxels are not whole numbers "
            f"({examples}, …); give the label map of it"
        )
    return (
        f"{where}: {len(wrong)} voxels of this label map are not whole numbers ({examples}, …): it looks interpolated "
        f"or is a map of probabilities; give the labels themselves, resampled by nearest neighbour if at all"
    )


def read_label(
    scan: Scan, readers: Readers, image: Volume, classes: Classes | None, volume: WhichVolume = None
) -> Volume:
    """Read the labels of a scan: its label map, or the masks of its structures as one.

    Every command reads labels by this. Pictures, which do not say where they lie, are put onto the grid of the scan.

    Args:
        scan: with labels.
        readers: what reads the files.
        image: the scan as read, or what lies on its grid.
        classes: which values the classes have; files that name classes may number them otherwise. None: values are
            returned as the file has them.
        volume: which volume of a 4-D scan `image` is; of a 4-D label map with as many volumes it is the same.

    Raises:
        DataError: naming the file and what is wrong with it, or the scan has no labels.
    """
    if scan.label is None:
        raise DataError(f"{printable(scan.path)}: has no label map")
    if isinstance(volume, int):
        _check_volumes(scan, readers)
    if scan.masks:
        label = stored_label(scan, readers, volume)
    else:
        label = readers.read_label(scan.label, image, classes, volume)
    if label.placed or scan.label == scan.path:
        return label
    return placed_on(label, image if image.files else readers.read(scan.path), printable(scan.label))


def one_of_several(scan: Scan, readers: Readers, volume: WhichVolume) -> bool:
    """Whether the labels of a scan for this `volume` are one frame of a 4-D label map."""
    paths = [path for path in scan.label_paths if readers.label_rank(path) is None] if isinstance(volume, int) else []
    return any(readers.header(path).volumes > 1 for path in paths)


def _check_volumes(scan: Scan, readers: Readers) -> None:
    """Refuse label maps with another number of volumes than their scan: the same index would mean another volume.

    Raises:
        DataError: naming the file.
    """
    for path in scan.label_paths:
        labels = 1 if readers.label_rank(path) is not None else readers.header(path).volumes
        if labels > 1 and labels != (images := readers.header(scan.path).volumes):
            raise DataError(
                f"{printable(path)}: has {labels} volumes, its scan has {images}; give a label map with as many, or "
                f"of a single volume"
            )


def stored_label(scan: Scan, readers: Readers, volume: WhichVolume = None) -> Volume:
    """Read the labels of a scan as they are stored, where only their values matter; of 4-D ones that `volume`.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    assert scan.label is not None
    index = volume if isinstance(volume, int) else None
    if not scan.masks:
        return readers.read(scan.label, index, uneven=True)
    where = printable(scan.label)
    try:
        return join_masks(scan.masks, lambda path: readers.read(path, index))
    except DataError as error:
        raise DataError(str(error) if where in str(error) else f"{where}: {error}") from error


@dataclass(frozen=True)
class Labels:
    """The labels of one scan: class indices (I, J, K) on the file's own grid, and what is worth a note about them.

    In time they are (I, J, K, T).

    `index` is `IGNORE` where nobody annotated.
    """

    index: NDArray[np.uint8]
    notes: tuple[str, ...]


def read_labels(
    label: Volume,
    image: Volume,
    classes: Classes,
    where: str,
    *,
    axis: Cut = "acquisition",
    annotated: Sequence[int] | None = None,
    ignore_affine: bool = False,
    others: Others = "refuse",
    empty_frames: EmptyFrames = "ignore",
    one_of_several: bool = False,
) -> Labels:
    """Turn the label map of `image` into class indices on the same grid.

    Args:
        label: the label map as read.
        image: the scan that it belongs to.
        classes: which values mean what.
        where: the label file, for messages.
        axis: the axis along which the scan is cut into slices, for `annotated`.
        annotated: the slices that somebody labelled, from 0 in the file's own order along that axis, in time frames;
            None: all.
        ignore_affine: accept that the affines differ.
        others: what to do with values assigned to no class.
        empty_frames: what frames without any label are, unless `annotated` lists those that are annotated.
        one_of_several: `label` is one frame of a 4-D label map.

    Raises:
        DataError: naming `where`: the grids differ, the voxels are no labels, or `annotated` is outside of the scan.
    """
    valued = read_values(
        label,
        image,
        where,
        axis=axis,
        annotated=annotated,
        ignore_affine=ignore_affine,
        empty_frames=empty_frames,
        one_of_several=one_of_several,
    )
    index, unknown = classes.to_index(valued.values, where, others)
    if valued.unannotated is not None:
        index = np.where(valued.unannotated, np.uint8(IGNORE), index)
    notes = [*valued.notes, *about_unknown(unknown)]
    if not ((index > 0) & (index != IGNORE)).any():
        notes.append(NO_CLASS)
    return Labels(index, tuple(notes))


def about_unknown(values: Sequence[int]) -> list[str]:
    """A note on label values that are assigned to no class, if there are any."""
    if not values:
        return []
    return [f"label values assigned to no class count as background: {listed(map(str, values), _SHOWN)}"]


@dataclass(frozen=True)
class Valued:
    """A label map on the grid of its scan.

    Attributes:
        values: (I, J, K), in time (I, J, K, T), as the file has them.
        unannotated: which voxels nobody annotated, of a shape that broadcasts to theirs; None: all are annotated.
    """

    values: NDArray[np.int32]
    unannotated: NDArray[np.bool_] | None
    notes: tuple[str, ...]


def read_values(
    label: Volume,
    image: Volume,
    where: str,
    *,
    axis: Cut = "acquisition",
    annotated: Sequence[int] | None = None,
    ignore_affine: bool = False,
    empty_frames: EmptyFrames = "ignore",
    one_of_several: bool = False,
) -> Valued:
    """Check the label map of `image`; takes and raises what `read_labels` does."""
    label = label if ignore_affine else turned(label, image)
    grid = check_grid(image, label, where, ignore_affine)
    values, notes = label_values(label, where), [*label.notes, *([grid] if grid else [])]
    unannotated = None
    if annotated is not None:
        unannotated = _unannotated(values, annotated, _file_axis(image, axis), where)
    elif empty_frames == "ignore" and (image.frames is not None or one_of_several):
        unannotated = without_label(values, notes)
    return Valued(values, unannotated, tuple(notes))


def file_order(image: Volume, wanted: Cut) -> NDArray[np.int64]:
    """For each slice of `Stack.of(image, wanted)` its number in the file's own order, as `Scan.annotated` counts."""
    stack = Stack.of(image, wanted)
    if stack.frames is not None:
        return np.arange(len(stack.slices)) % stack.frames
    rows = np.broadcast_to(np.arange(stack.grid[0])[:, None, None], stack.grid)
    in_file = np.moveaxis(stack.back(rows), _file_axis(image, wanted), 0)[:, 0, 0]
    return np.argsort(in_file)


def _file_axis(image: Volume, wanted: Cut) -> int:
    """Return which of I, J, K (3: the frames) the slices of `Stack.of(image, wanted)` follow along."""
    if image.frames is not None:
        return 3
    world = nib.orientations.axcodes2ornt(DIRECTIONS[image.axis(wanted)])[0, 0]
    return int(np.flatnonzero(nib.orientations.io_orientation(image.affine)[:, 0] == world)[0])


def _unannotated(values: NDArray[Any], annotated: Sequence[int], axis: int, where: str) -> NDArray[np.bool_]:
    count = values.shape[axis]
    wrong = [i for i in annotated if not 0 <= i < count]
    if wrong:
        raise DataError(
            f"{where}: slice {wrong[0]} is listed as annotated, but the axis of the cut has {count} slices "
            f"(0 to {count - 1}); fix the list of annotated slices or choose another --axis"
        )
    unannotated = np.ones(count, bool)
    unannotated[list(annotated)] = False
    shape = [1] * values.ndim
    shape[axis] = count
    return unannotated.reshape(shape)


def without_label(values: NDArray[Any], notes: list[str]) -> NDArray[np.bool_] | None:
    """Which frames of (I, J, K, T), or the only one (I, J, K), have no label, with a note; None: all have.

    Cine are often labelled at the end of diastole and of systole only.

    Returns:
        (1, 1, 1, T), or (1, 1, 1).
    """
    empty = ~(values != 0).any(axis=(0, 1, 2), keepdims=True)[0, 0, 0]
    if not empty.any():
        return None
    notes.append(
        f"{int(empty.sum())} of {empty.size} frames have no label and count as not annotated (--empty-frames "
        f"background: as background)"
    )
    return np.asarray(empty[None, None, None])


def find_classes(maps: Iterable[tuple[str, Iterable[int]]], ignore: int | None) -> tuple[Classes, str]:
    """Make a class of each value in label maps, for data that do not define what their values mean.

    Args:
        maps: for each its name in messages, and the values in it.
        ignore: the value that means "nobody annotated this".

    `volume`: which volume of 4-D ones.

    Returns:
        The classes, and how many of the maps show each, in words.

    Raises:
        DataError: there is nothing but background, or a negative value, which is hardly a class.
    """
    shown: Counter[int] = Counter()
    first: dict[int, str] = {}
    number = 0
    for where, values in maps:
        number += 1
        for value in values:
            shown[value] += 1
            first.setdefault(value, where)
    classes = Classes.of_values(shown, ignore)
    if not len(classes):
        raise DataError(f"the label maps of these {number} scans hold nothing but background; check the labels")
    for value in (label.values[0] for label in classes.classes):
        if value < 0:
            raise DataError(
                f"{first[value]}: has the label value {value} (in {shown[value]} of {number} scans); if it means not "
                f"annotated, say so with --ignore-value={value}, or name the classes with --classes"
            )
    entries = [_shown_in(label.values[0], shown[label.values[0]], number, first) for label in classes.classes]
    hint = "; --ignore-value 255 if that means not annotated" if shown[255] and ignore is None else ""
    return classes, f"label classes by their values: {', '.join(entries)}; --classes names or chooses them{hint}"


def named_classes(scans: Iterable[Scan], readers: Readers) -> Merged:
    """Make a class of each name in the label files of scans, as `merged` does.

    Raises:
        DataError: a label file cannot be read, or contradicts the others.
    """
    return merged((scan.label for scan in scans if scan.label is not None and not scan.masks), readers.classes)


def _shown_in(value: int, scans: int, total: int, first: Mapping[int, str]) -> str:
    """In how many scans a value is; if in one only, in which."""
    where = f": {first[value]}" if scans == 1 < total else ""
    return f"{value} (in {scans} of {total} scans{where})"

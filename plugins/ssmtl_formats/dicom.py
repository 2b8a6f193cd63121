"""From a DICOM series to a `Volume`: headers and pixels by pydicom, JPEG by Pillow or SimpleITK, our own checks."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssmtl_formats.names import INSTALL, dicom_files
from ssmtl_toolkit.data.geometry import lengths
from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.source import FileError, naming_file
from ssmtl_toolkit.data.values import sanitise_voxels, volume_index
from ssmtl_toolkit.data.volume import Header, Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import listed, printable

if TYPE_CHECKING:
    from ssmtl_formats.headers import Frame
    from ssmtl_formats.pixels import Pixels
    from ssmtl_formats.series import Series


def parts_of(path: Path, *, films: bool = False) -> dict[str, Path]:
    """Return the series of a folder that are scans, by name; a file stands for its own series.

    A series in several folders belongs to the folder above them. What cannot be read counts as one scan, so that
    `read_dicom` reports what is wrong.

    Raises:
        DataError: none of the series is a scan; the message says what they are.
    """
    if not path.is_dir() or not _installed():
        return {"": path}
    from ssmtl_formats.series import nothing
    from ssmtl_formats.spread import spread

    try:
        all_series = _series_of(path, films)
    except DataError:
        return {"": path}
    fit = [series for series in all_series if not series.unfit]
    if not fit:
        raise DataError(f"{printable(path)}: holds no series of slices: {nothing(all_series)}")
    if len(fit) == 1:
        return {"": path}
    if below := [series for series in fit if series.folders and path not in series.folders]:
        names = listed((f"{series.name} over {spread(series.folders)}" for series in below), 3)
        raise DataError(f"{printable(path)}: holds several series in parts ({names}); put all files into one folder")
    return {series.name: next(file for file in series.files if file.parent == path) for series in fit}


def _is_sequence(series: Series) -> bool:
    """Whether it has several images at each position; also if that cannot be told, so that reading it says why."""
    from ssmtl_formats.stacking import volumes_of

    try:
        return len(volumes_of([frame for frame in series.frames if not frame.unfit], [], films=True)) > 1
    except FileError:
        return True


def files_of(path: Path, *, films: bool = False) -> tuple[Path, ...]:
    """Return the files of the series that `path` refers to, or all files of the folder if that is not clear."""
    folder = path if path.is_dir() else path.parent
    all_series: tuple[Series, ...] = ()
    if _installed():
        from ssmtl_formats.series import chosen

        try:
            all_series = _series_of(folder, films)
            return chosen(path, all_series).files
        except (DataError, FileError):
            pass
    files = (*dicom_files(folder), *(file for series in all_series for file in series.files))
    return tuple(dict.fromkeys(files)) or (path,)


def read_dicom(path: Path, volume: int | None, *, films: bool = False) -> Volume:
    """Read the series in folder `path`, or the one that file `path` belongs to, voxels (column, row, slice).

    Order, spacing and affine come from the positions of the slices; the values are scaled slice by slice. With `films`
    images at one position are volumes of one slice.

    Raises:
        DataError: naming the file or folder, what is wrong, what was got and what to do.
    """
    with naming_file(path):
        volumes, notes = _volumes(path, films)
        frames = volumes[volume_index(len(volumes), volume)]
        return _read(frames, 0.0, notes)


def read_all_volumes(path: Path, *, films: bool = False) -> list[Volume]:
    """Read all volumes of a series, each as `read_dicom` does; with `films` they are to be frames in time.

    Raises:
        DataError: as `read_dicom`; or `films` differ in more than time.
    """
    with naming_file(path):
        volumes, notes = _volumes(path, films)
        from ssmtl_formats.pixels import Pixels

        ms = _frame_ms(volumes, films, notes)
        files = {frame.file for frames in volumes for frame in frames}
        rows, columns = volumes[0][0].size
        check_memory((columns, rows, sum(map(len, volumes))), np.dtype(np.int32), scaled=True)
        pixels = Pixels(keep=len(files) < sum(map(len, volumes)))
        return [_read(frames, ms, list(notes), pixels) for frames in volumes]


def _frame_ms(volumes: Sequence[Sequence[Frame]], films: bool, notes: list[str]) -> float:
    """The ms between volumes, if they are to be frames in time; else 0."""
    from ssmtl_formats.times import check_in_time, frame_ms

    if not films or len(volumes) == 1:
        return 0.0
    check_in_time(volumes)
    return frame_ms(volumes, notes)


def _volumes(path: Path, films: bool) -> tuple[list[list[Frame]], list[str]]:
    """The frames of each volume of the series that `path` refers to, and what is odd about it."""
    if not path.exists():
        raise FileNotFoundError(2, "No such file or directory")
    check_installed(path)
    from ssmtl_formats.series import chosen
    from ssmtl_formats.spread import spread
    from ssmtl_formats.stacking import volumes_of

    all_series = _series_of(path if path.is_dir() else path.parent, films)
    series = chosen(path, all_series)
    notes = _skipped(path, all_series)
    notes += [f"its series lies in {spread(series.folders)}"] if series.folders else []
    return volumes_of([_fit(frame) for frame in series.frames], notes, films=films), notes


def _series_of(folder: Path, films: bool) -> tuple[Series, ...]:
    """All series of a folder; with `films` those too whose images have no positions, but sequences only, if any."""
    from ssmtl_formats.series import films_among
    from ssmtl_formats.spread import whole_series_of

    found = whole_series_of(folder)
    if not films:
        return found
    found = films_among(found)
    single = [series for series in found if not series.unfit and not _is_sequence(series)]
    if all(series.unfit or series in single for series in found):
        return found
    return tuple(replace(series, unfit="a single volume") if series in single else series for series in found)


def _read(frames: Sequence[Frame], ms: float, notes: list[str], pixels: Pixels | None = None) -> Volume:
    """Decode the frames of one volume."""
    from ssmtl_formats.stacking import grid

    placed = grid(frames, notes)
    notes += dict.fromkeys(frame.note for frame in frames if frame.note)
    array, replaced = _voxels(frames, notes, pixels)
    spacing, names = lengths(placed.affine), tuple(frame.file.name for frame in frames)
    files = names if len(set(names)) == len(names) else ()
    return Volume(
        array,
        placed.affine,
        spacing,
        2,
        tuple(notes),
        replaced,
        positions=placed.positions,
        files=files,
        frame_ms=ms,
    )


def holds_parts(folder: Path) -> bool:
    """Whether several folders below this one hold one series together."""
    if not _installed():
        return False
    from ssmtl_formats.spread import spread_below

    return bool(spread_below(folder))


def read_dicom_header(path: Path, *, films: bool = False) -> Header:
    """Say what the headers of a series say, all but its pixels.

    Raises:
        DataError: as `read_dicom`.
    """
    with naming_file(path):
        volumes, notes = _volumes(path, films)
        frames, ms = volumes[0], _frame_ms(volumes, films, notes)
        from ssmtl_formats.stacking import grid

        placed = grid(frames, notes)
    shape = (frames[0].size[1], frames[0].size[0], len(frames))
    spacing = lengths(placed.affine)
    return Header(
        shape,
        placed.affine,
        spacing,
        2,
        tuple(notes),
        volumes=len(volumes),
        positions=placed.positions,
        frame_ms=ms,
    )


def check_installed(path: Path) -> None:
    """Refuse to read DICOM without pydicom.

    Raises:
        DataError: it is not installed.
    """
    if not _installed():
        raise DataError(f"{printable(path)}: is DICOM, for which pydicom is needed: {INSTALL}")


def referred(label: Path, scans: Sequence[Path]) -> Path | None:
    """The one of `scans` whose series the label map in file `label` refers to; None if it does not, or is damaged."""
    if not _installed():
        return None
    from ssmtl_formats.labels import scan_of

    with contextlib.suppress(FileError, DataError, OSError):
        return scan_of(label, scans)
    return None


def _installed() -> bool:
    try:
        return importlib.util.find_spec("pydicom") is not None
    except ValueError:  # it has been blocked in sys.modules
        return False


def _fit(frame: Frame) -> Frame:
    if frame.unfit:
        raise FileError(f"holds {frame.unfit} among the slices of its series: {printable(frame.file.name)}; remove it")
    return frame


def _skipped(path: Path, all_series: Sequence[Series]) -> list[str]:
    other = [series for series in all_series if series.unfit]
    if not path.is_dir() or not other:
        return []
    return [f"beside the slices it holds {', '.join(dict.fromkeys(series.unfit for series in other))}, skipped"]


def _voxels(frames: Sequence[Frame], notes: list[str], pixels: Pixels | None) -> tuple[NDArray[Any], int]:
    """Decode and scale all slices into one array (column, row, slice)."""
    from ssmtl_formats.pixels import Pixels

    scalings = {frame.scaling for frame in frames}
    whole = all(slope == 1 and inter.is_integer() for slope, inter in scalings)
    shape = (frames[0].size[1], frames[0].size[0], len(frames))
    check_memory(shape, np.dtype(np.int32), scaled=True)
    stored: NDArray[Any] = np.empty((0, 0, 0), np.int32)
    padded = False
    pixels = pixels or Pixels()
    first: dict[Path, int] = {}
    for k, frame in enumerate(frames):
        first.setdefault(frame.file, k)
    for k in sorted(range(len(frames)), key=lambda k: first[frames[k].file]):  # file by file, to decode each once
        frame = frames[k]
        with naming_file(frame.file):
            plane = pixels.of(frame)
        padded |= frame.padding is not None and bool((plane == frame.padding).any())
        slope, inter = frame.scaling
        with np.errstate(all="ignore"):  # `sanitise_voxels` finds overflows
            kind = _kind(plane, slope, inter, whole)
            if not stored.size:
                stored = np.empty(shape, kind, order="F")
            elif (wider := np.result_type(stored, kind)) != stored.dtype:
                check_memory(shape, wider, scaled=True)
                stored = stored.astype(wider)
            stored[..., k] = (plane * np.float64(slope) + inter).T if scalings != {(1.0, 0.0)} else plane.T
    if padded:
        notes.append("holds the scanner's padding value outside of its field of view; --window clips it")
    if frames[0].inverted:
        notes.append("is to be displayed inverted (MONOCHROME1); its values are kept as they are")
    array, replaced = sanitise_voxels(stored, notes)
    return _smallest(array), replaced


def _kind(plane: NDArray[Any], slope: float, inter: float, whole: bool) -> np.dtype[Any]:
    """Return the type that holds the scaled values of a slice; over 32 bits, values are later narrowed with a note."""
    ends = [float(end) * slope + inter for end in (np.fmin.reduce(plane, None), np.fmax.reduce(plane, None))]
    if plane.dtype.kind != "f" and whole:
        wide, most = np.dtype(np.int32), max(map(abs, ends))
        return wide if most < 2**31 else np.dtype(np.int64 if most < 2**62 else np.float64)
    return np.dtype(np.float64 if any(abs(end) > np.finfo(np.float32).max for end in ends) else np.float32)


def _smallest(array: NDArray[Any]) -> NDArray[Any]:
    """Store integers in 16 bits if they fit."""
    if array.dtype == np.int32 and array.min() >= -(2**15) and array.max() < 2**15:
        return array.astype(np.int16)
    return array

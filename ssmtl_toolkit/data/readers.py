"""Reads a file by the first reader that matches it, and says of every fault which file it was."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.frames import header_in_time, label_in_time, read_in_time, with_note
from ssmtl_toolkit.data.grid import check_channel, turned
from ssmtl_toolkit.data.memory import check_memory
from ssmtl_toolkit.data.named import renumbered
from ssmtl_toolkit.data.slicing import WhichVolume
from ssmtl_toolkit.data.source import SeveralVolumesError, naming_file
from ssmtl_toolkit.data.uneven import unevenness
from ssmtl_toolkit.data.volume import Header, Volume
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.foreign import by_the_user, explained, foreign, in_one_line, staying, words_of
from ssmtl_toolkit.specs import ReaderSpec, Scan, named
from ssmtl_toolkit.text import printable

_INDEX = "is an index of DICOM files; give the folder that it is in"
_FOREIGN = {
    ".mnc": "is MINC, which is not read; convert it to .nii.gz (mnc2nii)",
    ".par": "is Philips PAR/REC, which is not read; convert it to .nii.gz (parrec2nii)",
    ".rec": "is Philips PAR/REC, which is not read; convert it to .nii.gz (parrec2nii)",
    ".img": "is the voxels of a pair; give the .hdr file beside it",
    ".img.gz": "is the voxels of a pair; give the .hdr file beside it",
    ".raw": "is the voxels of a pair; give the .mhd or .nhdr file beside it",
    **dict.fromkeys((".png", ".jpg", ".jpeg"), "is one slice; give the folder with all slices of the scan"),
    **dict.fromkeys((".tif", ".tiff"), "is TIFF of one page, one slice; give the folder with all slices of the scan"),
    **dict.fromkeys((".bmp", ".gif", ".webp", ".jp2"), "is a picture of a format that is not read; save all as PNG"),
    ".npy": "is a bare array without spacing; save it as .nii.gz",
    ".npz": "is bare arrays without spacing; save them as .nii.gz",
    ".h5": "is HDF5, which is not read; convert it to .nii.gz",
    **dict.fromkeys((".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"), "is an archive; unpack it and give the folder"),
    **dict.fromkeys((".bz2", ".xz", ".zst"), "is packed in a way that is not read; unpack it"),
    **dict.fromkeys((".yaml", ".yml"), "is YAML, and no scan; list scans in a manifest (.csv, .toml) or a MONAI .json"),
    **dict.fromkeys((".txt", ".md", ".pdf", ".xlsx", ".docx"), "is a document, and no scan; give a scan or a folder"),
    ".brik": "is AFNI, which is not read; convert it to .nii.gz (3dAFNItoNIFTI)",
    ".head": "is AFNI, which is not read; convert it to .nii.gz (3dAFNItoNIFTI)",
}


def _is_for(reader: ReaderSpec, path: Path) -> bool:
    try:
        return bool(reader.matches(path))
    except BaseException:  # named only now: this is asked of every reader and file of a folder
        with foreign(f"{printable(path)}: {named(reader)}, asked whether it is for this,"):
            raise


MOST_CHANNELS = 64
"""Volumes of a 4-D file that may be channels; more are a sequence in time, or directions of diffusion."""


class Readers:
    """Readers in order: the first that matches a file or folder reads it.

    Those `in_time` read all volumes of each 4-D scan or label map as frames (`Volume.frames`), and nothing else.
    """

    def __init__(self, specs: Iterable[ReaderSpec], *, in_time: bool = False) -> None:
        self.specs = tuple(spec.in_time() if in_time else spec for spec in specs)
        self.in_time = in_time

    def match(self, path: Path) -> ReaderSpec | None:
        """The reader for `path` by its name; None: there is none.

        Raises:
            SsmtlError: a reader fails to say whether it is for this; naming both.
        """
        return next((reader for reader in self.specs if _is_for(reader, path)), None)

    def can_read(self, path: Path) -> bool:
        """Whether some reader is for `path`, by its name."""
        return self.match(path) is not None

    def of(self, path: Path) -> ReaderSpec:
        """The reader for `path` by its name.

        Raises:
            DataError: there is none.
        """
        with staying(f"{printable(path)}: a reader, asked whether it is for this,"):
            reader = self.match(path)
        if reader is None:
            raise DataError(f"{printable(path)}: {_foreign(path)}")
        return reader

    def read(self, path: Path, volume: int | None = None, *, uneven: bool = False) -> Volume:
        """Read the scan or label map at `path`; of a 4-D file the volume with index `volume`.

        Args:
            path: what a reader matches.
            volume: which volume of a 4-D file.
            uneven: accept unevenly spaced slices; the caller uses `Volume.positions`.

        Raises:
            DataError: naming the file and what is wrong with it, also if the reader itself failed.
        """
        read = read_with(self.of(path), path, volume, in_time=self.in_time)
        if read.positions and not uneven:
            raise DataError(
                f"{printable(path)}: {unevenness(read.affine, read.slice_axis, read.positions)}; resample it evenly, "
                f"or export the whole series, or its parts as series"
            )
        return read

    def read_scan(self, scan: Scan, volume: WhichVolume = None) -> Volume:
        """Read a scan, all its channels, as `read` does with `volume`.

        `volume` may also be `all`: the volumes of 4-D files are channels. Slices may be unevenly spaced: `Sliced.of`
        refuses those that no preparation makes even.

        Raises:
            DataError: naming the file and what is wrong with it, or two files whose grids differ.
        """
        sources = [(path, self.of(path)) for path in scan.paths]
        return read_channels(sources, volume, in_time=self.in_time)

    def read_label(self, path: Path, image: Volume, classes: Classes | None, volume: WhichVolume = None) -> Volume:
        """Read the label map at `path` of the scan that was read as `image`, its volume with index `volume` if 4-D.

        If the file names its classes, its voxels get the values that these names have in `classes`; None: they keep
        those of the file.

        Raises:
            DataError: naming the file and what is wrong with it, or a name that contradicts `classes`.
        """
        reader = self.of(path)
        with _naming(reader, path):
            label = self._label(reader, path, image, volume)
            return label if classes is None else renumbered(label, reader.classes(path), classes, path)

    def _label(self, reader: ReaderSpec, path: Path, image: Volume, volume: WhichVolume) -> Volume:
        """The label map as this reader reads it for its scan."""
        if self.in_time:
            return label_in_time(reader, path, image)
        try:
            return reader.read_label(path, image)
        except SeveralVolumesError:
            if not isinstance(volume, int):
                raise
            return reader.read(path, volume)

    def classes(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """What the values of the label file at `path` mean, if it says so: for each of its classes the values there.

        Raises:
            DataError: naming the file and what is wrong with it.
        """
        reader = self.of(path)
        with _naming(reader, path):
            return dict(reader.classes(path))

    def label_rank(self, path: Path) -> int | None:
        """The place among all readers of that for `path`, if its format is for label maps only; None: it is not."""
        if not any(reader.only_labels and _is_for(reader, path) for reader in self.specs):  # as of nearly all files
            return None
        reader = self.match(path)
        return self.specs.index(reader) if reader is not None and reader.only_labels else None

    def scan_of(self, label: Path, scans: Sequence[Path]) -> Path | None:
        """Which of `scans` a label map refers to; None: it does not say, or none of them."""
        with foreign(f"{printable(label)}: a reader, asked for the scan of this label map,"):
            return self.of(label).scan_of(label, scans)

    def header(self, path: Path) -> Header:
        """What the header of the scan or label map at `path` says of its voxels; slices may be unevenly spaced.

        Raises:
            DataError: as `read`.
        """
        return header_with(self.of(path), path, in_time=self.in_time)

    def scan_header(self, scan: Scan) -> Header:
        """What the headers of a scan's files say of its voxels, all its channels.

        Raises:
            DataError: naming the file and what is wrong with it, or two files whose grids differ.
        """
        return joined_headers([(path, self.header(path)) for path in scan.paths])

    def digest(self, path: Path, memo: DigestMemo) -> str:
        """sha256 of the files that are read for `path`; `memo` knows those of earlier calls.

        Raises:
            DataError: one of them cannot be read.
        """
        return digest_with(self.of(path), path, memo)

    def digest_scan(self, scan: Scan, memo: DigestMemo) -> str:
        """sha256 of the files that are read for a scan, which `memo` may know; of several, of their digests in order.

        Raises:
            DataError: one of them cannot be read.
        """
        return joined_digests([self.digest(path, memo) for path in scan.paths])


def read_channels(
    sources: Sequence[tuple[Path, ReaderSpec]], volume: WhichVolume = None, *, in_time: bool = False
) -> Volume:
    """Read files, each by its reader, as the channels of one volume on the grid of the first of them.

    Of 4-D files the volume with index `volume` is taken, or, with `all`, each of them as a channel, or `in_time` each
    as a frame.

    Raises:
        DataError: naming the file and what is wrong with it, or two files whose grids differ.
    """
    if in_time:
        read = [(path, with_note(read_with(reader, path, in_time=True))) for path, reader in sources]
    else:
        read = [(path, one) for path, reader in sources for one in _volumes(reader, path, volume)]
    if len(read) == 1:
        return _noted(read[0][1])
    volumes, (start, first) = [one for _, one in read], read[0]
    notes = list(first.notes)
    for i, (path, one) in enumerate(read[1:], start=1):
        volumes[i] = other = turned(one, first)
        moved = check_channel(first, other, printable(path), printable(start))
        new = [f"{printable(path.name)}: {note}" for note in (*other.notes, *([moved] if moved else []))]
        notes += [note for note in new if path != start or note.partition(": ")[2] not in first.notes]
    channels, kind = sum(one.channels for one in volumes), np.result_type(*(one.array for one in volumes))
    with naming_file(sources[0][0]):
        check_memory((*first.sizes, channels), kind)
        joined = np.empty((*first.sizes, channels), kind, order="F")
    np.concatenate([one.array.reshape(*first.sizes, -1) for one in volumes], axis=-1, out=joined)
    made = replace(first, array=joined, notes=tuple(notes), replaced=sum(one.replaced for one in volumes))
    return _noted(made)


def _noted(read: Volume) -> Volume:
    """The same volume, with a note if its slices are unevenly spaced."""
    if not read.positions:
        return read
    note = f"{unevenness(read.affine, read.slice_axis, read.positions)}; files on its grid have their mean distance"
    return replace(read, notes=(*read.notes, note))


def _volumes(reader: ReaderSpec, path: Path, volume: WhichVolume) -> list[Volume]:
    """The volume that is meant, or all of a 4-D file, one after the other; the file is decoded once.

    Raises:
        DataError: it has more volumes than a network takes channels.
    """
    if volume != "all":
        return [read_with(reader, path, volume)]
    try:
        return [read_with(reader, path)]
    except SeveralVolumesError as error:
        if error.volumes > MOST_CHANNELS:
            raise DataError(
                f"{printable(path)}: has {error.volumes} volumes, more than the {MOST_CHANNELS} channels that are "
                f"possible; choose one, --volume 0 to {error.volumes - 1}"
            ) from None
        with _naming(reader, path):
            return list(reader.read_all(path, error.volumes))


def joined_headers(headers: Sequence[tuple[Path, Header]]) -> Header:
    """The header of a scan whose channels are these files, on the grid of the first of them.

    Raises:
        DataError: naming two files whose grids differ.
    """
    (path, first), *others = headers
    for other_path, other in others:
        check_channel(first.empty(), turned(other.empty(), first.empty()), printable(other_path), printable(path))
    notes = [f"{printable(p.name)}: {note}" for p, header in others for note in header.notes]
    channels = sum(header.channels for _, header in headers)
    return replace(first, channels=channels, notes=(*first.notes, *notes))


def read_with(reader: ReaderSpec, path: Path, volume: int | None = None, *, in_time: bool = False) -> Volume:
    """Read one scan or label map by this reader; takes and raises what `Readers.read` does, slices even or not."""
    with _naming(reader, path):
        read = read_in_time(reader, path) if in_time else reader.read(path, volume)
        if not isinstance(read, Volume):
            raise TypeError(f"read() gives {type(read).__name__}, not a Volume")
        if read.array.dtype.kind == "f" and not np.isfinite([read.array.min(), read.array.max()]).all():
            raise ValueError("read() gives voxels that are not finite; replace them, as sanitise_voxels does")
        return read


def header_with(reader: ReaderSpec, path: Path, *, in_time: bool = False) -> Header:
    """Read the header of one scan or label map by this reader; raises what `Readers.read` does."""
    with _naming(reader, path):
        header = reader.header(path)
        if not isinstance(header, Header):
            raise TypeError(f"header() gives {type(header).__name__}, not a Header")
        return header_in_time(header) if in_time else header


@contextlib.contextmanager
def _naming(reader: ReaderSpec, path: Path) -> Iterator[None]:
    """Name the file, and the reader if it is to blame, in whatever goes wrong inside."""
    name = printable(path)
    try:
        yield
    except SeveralVolumesError:
        raise
    except DataError as error:
        words = words_of(error) or in_one_line(error)
        raise DataError(words if name in words else f"{name}: {words}") from error
    except OSError as error:
        raise DataError(f"{name}: {_unreadable(error)}") from error
    except BaseException as error:  # a fault of the reader's own, which must not hide which file it was
        if isinstance(error, SsmtlError) or by_the_user(error):
            raise
        if not isinstance(error, Exception):
            raise SsmtlError(f"{name}: {named(reader)} failed: {explained(error)}") from error
        problem = f"{named(reader)} failed with {in_one_line(error)}"
        raise DataError(f"{name}: {problem}; omit it or report it to the reader's authors") from error


def digest_with(reader: ReaderSpec, path: Path, memo: DigestMemo) -> str:
    """sha256 of the file that the reader reads for `path`; of several, of their digests in order.

    Raises:
        DataError: one of them cannot be read.
    """
    try:
        with foreign(f"{printable(path)}: {named(reader)}, asked for its files,", passing=OSError):
            files = reader.files(path)
        found = [memo(f) if f.is_file() or f.is_dir() else "not a regular file" for f in files]
    except OSError as error:
        raise DataError(f"{printable(path)}: {_unreadable(error)}") from error
    return joined_digests(found)


def joined_digests(digests: Sequence[str]) -> str:
    """One digest for several; a single one stays as it is."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("+".join(digests).encode()).hexdigest()


def _foreign(path: Path) -> str:
    """Say what a file is that no reader reads, and what to do."""
    name = path.name.lower()
    if path.is_dir():
        return "is a folder, and no scan by itself; give a file, or a folder of DICOM, PNG, JPEG or TIFF slices"
    if name.startswith(("dicomdir", "dirfile")):
        return _INDEX
    known = next((what for ending, what in _FOREIGN.items() if name.endswith(ending)), "")
    return known or "no installed reader reads such a file; convert it to .nii.gz"


def _unreadable(error: OSError) -> str:
    """Give the system's message, or the library's if the error is its own."""
    return f"cannot be read: {printable(error.strerror or str(error))}; check it and its permissions"

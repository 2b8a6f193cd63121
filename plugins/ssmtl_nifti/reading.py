"""From the bytes of a NIfTI file to a `Volume`: nothing that a header says is believed before it is checked."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.names import printable

_CHUNK = 1 << 20
_BLANK = bytes(_CHUNK)
_DEFLATE = 1032  # deflate cannot pack tighter than 1032:1, so a header that claims more is lying
_SLACK = 1 << 20  # bytes that may follow the last voxel
_EXTENSIONS = 1000  # records whose sizes are followed; more would be a way to keep us busy

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_NARROWED = ("uint32", "int64", "uint64", "float64")  # torch has little use for uint32
_NO_IMAGE = {0: "unknown", 1: "1-bit", 32: "complex64", 128: "RGB", 1536: "float128", 1792: "complex128"}
_NO_IMAGE |= {2048: "complex256", 2304: "RGBA"}
_KINDS: dict[int, tuple[Any, bytes, bytes]] = {
    348: (nib.Nifti1Header, b"n+1\0", b"ni1\0"),
    540: (nib.Nifti2Header, b"n+2\0", b"ni2\0"),
}
_MM = {1: ("meters", 1000.0), 3: ("microns", 0.001)}  # xyzt_units; 0 (unknown) and 2 are taken as mm

_FOREIGN = (
    (b"version https://git-lfs", "a git-LFS pointer, not the scan itself; run git lfs pull"),
    (b"<", "a web page or XML, not a scan; download it again"),
    (b"\x00\x05\x16\x07", "macOS's AppleDouble data, not a scan; delete it"),
    (b"\x80", "a Python pickle by its first byte, not a scan, and was not opened; save it as NIfTI"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"BZh", "packed by bzip2; unpack it"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd; unpack it"),
    (b"\x89HDF", "HDF5 (MINC 2 or other), not NIfTI; convert it to NIfTI"),
)
_AGAIN = "copy or download it again"


class _FileError(Exception):
    """What is wrong with the file, without its name."""


@dataclass(frozen=True)
class _Header:
    fields: nib.Nifti1Header
    single: bool  # the voxels follow in the same file
    shape: tuple[int, int, int]
    volumes: int
    dtype: np.dtype[Any]
    start: int  # where the voxels begin
    slope: float  # scl_slope and scl_inter; 1 and 0 where they say nothing
    inter: float

    @property
    def scaled(self) -> bool:
        return (self.slope, self.inter) != (1.0, 0.0)

    @property
    def bytes(self) -> int:
        """Of one volume."""
        return math.prod(self.shape) * self.dtype.itemsize


class _Source:
    """The bytes of a regular file, unpacked when it is gzip whatever its name, with a count of them."""

    def __init__(self, path: Path) -> None:
        # stat before open: opening a fifo would wait for a writer for ever
        if not stat.S_ISREG(path.stat().st_mode):
            raise _FileError("is not a regular file (a folder, pipe or device); give the scan's own file")
        self._file = path.open("rb")
        self.size = os.fstat(self._file.fileno()).st_size
        self.zipped = self._file.read(2) == b"\x1f\x8b"
        self._file.seek(0)
        self._stream = gzip.GzipFile(fileobj=self._file) if self.zipped else self._file
        self.limit = self.size * _DEFLATE if self.zipped else self.size
        self.position = 0

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def peek(self, count: int) -> bytes:
        """Read up to `count` first bytes without counting them."""
        data = self._stream.read(count)
        self._stream.seek(0)
        return data

    def take(self, count: int) -> bytes:
        data = self._stream.read(count)
        self.position += len(data)
        if len(data) < count:
            raise _FileError(f"is cut short: it ends after {self.position} bytes; {_AGAIN}")
        return data

    def skip_to(self, position: int) -> None:
        if not self.zipped:
            self._stream.seek(position)
            self.position = position
        while self.position < position:
            self.take(min(_CHUNK, position - self.position))

    def fill(self, count: int) -> NDArray[np.uint8]:
        """Read the next `count` bytes, without paying memory for blank ones: bombs are made of those."""
        data = np.zeros(count, np.uint8)
        for at in range(0, count, _CHUNK):
            piece = self.take(min(_CHUNK, count - at))
            if len(piece) < _CHUNK or piece != _BLANK:
                data[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        return data

    def finish(self, end: int) -> int:
        """Go to the end, where gzip compares its checksum, and return how many bytes follow `end`."""
        if not self.zipped:
            self.position = max(self.size, self.position)
        while self.position <= end + _SLACK and (piece := self._stream.read(_CHUNK) if self.zipped else b""):
            self.position += len(piece)
        if self.position > end + _SLACK:
            raise _FileError(f"goes on for over 1 MiB after the {end} bytes that its header claims; {_AGAIN}")
        return self.position - end


def read_nifti(path: Path, volume: int | None) -> Volume:
    """Read one 3-D scan; `volume` chooses from a 4-D file and is ignored where there is but one.

    Integers stay as they are up to 32 bits; scaled voxels and floats are float32.

    Raises:
        DataError: naming the file, what is wrong, what was got and what to do.
    """
    notes: list[str] = []
    with _blaming(path):
        with _Source(path) as source:
            if source.zipped != path.name.lower().endswith(".gz"):
                notes.append("is gzip under another name" if source.zipped else "is not gzip as its name says")
            header = _read_header(source)
            if header.single:
                raw = _read_voxels(source, header, volume, notes)
            else:
                source.finish(source.position)
        if not header.single:
            image = _image_beside(path)
            with _blaming(image), _Source(image) as source:
                raw = _read_voxels(source, header, volume, notes)
        with np.errstate(all="ignore"):  # overflow and NaN are looked for, not warned of
            array = _values(raw, header, notes)
            affine, spacing = _geometry(header, notes)
    return Volume(array, affine, spacing, _slice_axis(header, spacing), tuple(notes))


@contextlib.contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into one `DataError` line that begins with the file's name."""
    try:
        yield
        return
    except _FileError as error:
        said = str(error)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        said = f"is damaged or cut short: gzip says {printable(str(error))!r}; {_AGAIN}"
    except OSError as error:
        said = f"cannot be read: {error.strerror or error}; check the path, its links and its permissions"
    except MemoryError:
        said = "does not fit into memory; close other programs or take a smaller scan"
    except ValueError as error:  # such as a NUL in the path
        said = f"cannot be read: {printable(str(error))}; check the path and the file"
    raise DataError(f"{printable(path)}: {said}")


def _read_header(source: _Source) -> _Header:
    """Read the header and check every field that the voxels depend on, before any memory is taken for them."""
    size, order = _recognise(source.peek(540))
    header_class, plus, pair = _KINDS[size]
    fields = header_class(source.take(size), endianness=order, check=False)
    magic = fields["magic"].item().ljust(4, b"\0")[:4]
    if magic not in (plus, pair):
        kind = "Analyze 7.5" if not magic.strip(b"\0") else "damaged or another format"
        raise _FileError(f"is not NIfTI but {kind}: its magic is {magic!r}, not {plus!r}; convert it to NIfTI")
    shape, volumes = _shape(fields)
    start = float(fields["vox_offset"])
    least = size + 4 if magic == plus else 0
    if not (math.isfinite(start) and start >= least and start.is_integer()):
        raise _FileError(f"has an impossible vox_offset {start:g}, at least {least} is needed; {_AGAIN}")
    slope, inter = _scaling(fields)
    return _Header(fields, magic == plus, shape, volumes, _voxel_type(fields, order), int(start), slope, inter)


def _recognise(head: bytes) -> tuple[int, str]:
    """Tell the header's length, which is its first field and so shows the byte order too."""
    if not head:
        raise _FileError(f"is empty; {_AGAIN}")
    for order in "<>":
        if len(head) >= 4 and (size := struct.unpack_from(order + "i", head)[0]) in _KINDS:
            if len(head) < size:
                raise _FileError(f"is cut short: {len(head)} bytes, the header alone has {size}; {_AGAIN}")
            return size, order
    for first, what in _FOREIGN:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(first):
            raise _FileError(f"is {what}")
    if head[128:132] == b"DICM":
        raise _FileError("is DICOM, not NIfTI; convert it (dcm2niix)")
    raise _FileError(f"is not NIfTI: it begins with {head[:4]!r}, not with the header's length 348 or 540; {_AGAIN}")


def _shape(fields: nib.Nifti1Header) -> tuple[tuple[int, int, int], int]:
    """Return (I, J, K) and the number of volumes."""
    count, *dims = (int(n) for n in fields["dim"])
    if not 1 <= count <= 7:
        raise _FileError(f"has an impossible number of dimensions, dim[0] = {count}; {_AGAIN}")
    dims = dims[:count]
    if min(dims) < 1:
        raise _FileError(f"has no voxels: its size is {_by(dims)}; export the scan again")
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    if len(dims) < 3:
        raise _FileError(f"has {len(dims)} dimensions ({_by(dims)}); a scan of slices needs 3")
    if len(dims) > 4:
        raise _FileError(f"has {len(dims)} dimensions ({_by(dims)}: a warp or vectors); give a 3-D scan")
    return (dims[0], dims[1], dims[2]), math.prod(dims[3:])


def _by(dims: list[int]) -> str:
    return " x ".join(map(str, dims))


def _voxel_type(fields: nib.Nifti1Header, order: str) -> np.dtype[Any]:
    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    if code not in _TYPES:
        what = _NO_IMAGE.get(code, "unknown")
        raise _FileError(f"has voxels of type {code} ({what}); convert it to integers or float32, one value per voxel")
    dtype = np.dtype(order + _TYPES[code])
    if bits != 8 * dtype.itemsize:
        raise _FileError(f"contradicts itself: voxels of type {dtype.name} with bitpix {bits}; {_AGAIN}")
    return dtype


def _scaling(fields: nib.Nifti1Header) -> tuple[float, float]:
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or math.isnan(slope):  # the standard's and nibabel's way to say "not scaled"
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(inter)):
        raise _FileError(f"cannot be scaled by slope {slope:g} and intercept {inter:g}; export the scan again")
    return slope, inter


def _read_voxels(source: _Source, header: _Header, volume: int | None, notes: list[str]) -> NDArray[Any]:
    """Read one volume (I, J, K), big- or little-endian and unscaled, and the rest of the file for its checksum."""
    end = header.start + header.bytes * header.volumes
    if end > source.limit:
        packed = f", and gzip cannot pack more than {_DEFLATE}:1" if source.zipped else ""
        raise _FileError(f"is cut short, or its header lies: it claims {end} bytes of {source.size}{packed}; {_AGAIN}")
    index = _chosen(header, volume)
    _check_memory(header)
    cramped = header.single and not _check_extensions(source, header)
    source.skip_to(header.start + index * header.bytes)
    data = source.fill(header.bytes)
    if surplus := source.finish(end):
        if cramped:
            raise _FileError(f"announces header extensions, but its vox_offset leaves no room for them; {_AGAIN}")
        notes.append(f"{surplus} bytes after the last voxel are ignored")
    return data.view(header.dtype).reshape(header.shape, order="F")


def _chosen(header: _Header, volume: int | None) -> int:
    if header.volumes == 1:
        return 0
    if volume is None:
        raise _FileError(f"is 4-D with {header.volumes} volumes; give --volume i, 0 to {header.volumes - 1}")
    if not 0 <= volume < header.volumes:
        raise _FileError(f"has no volume {volume}; give --volume 0 to {header.volumes - 1}")
    return volume


def _check_memory(header: _Header) -> None:
    """Refuse what would take more than half of the machine's memory, read and scaled."""
    copied = header.scaled or header.dtype.name in _NARROWED
    needed = header.bytes + copied * 4 * math.prod(header.shape)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 1 << 34  # Windows does not tell
    if needed > memory // 2:
        gib = f"{needed / 2**30:.1f} GiB of memory, more than half of this machine's {memory / 2**30:.1f}"
        raise _FileError(f"needs {gib}; take a larger machine or crop the scan ({_by(list(header.shape))})")


def _check_extensions(source: _Source, header: _Header) -> bool:
    """Follow the sizes of the records between header and voxels, and tell whether there is room for those announced.

    A wrong size means that one cannot trust where the voxels begin.
    """
    if not source.take(4)[0]:
        return True
    for count in range(_EXTENSIONS):
        room = header.start - source.position
        if room < 16:
            return count > 0
        size = struct.unpack(header.fields.endianness + "i", source.take(4))[0]
        if not 8 <= size <= room:
            raise _FileError(f"has a header extension of {size} bytes where {room} are left; {_AGAIN}")
        source.skip_to(source.position + size - 4)
    return True


def _image_beside(header: Path) -> Path:
    """Find the .img or .img.gz of a header file."""
    stem = header.name.removesuffix(".gz").removesuffix(".GZ")
    if not stem.lower().endswith(".hdr"):
        raise _FileError("is the header of a .hdr/.img pair under another name; name it .hdr beside its .img")
    names = [stem[:-4] + suffix for suffix in (".img", ".img.gz", ".IMG", ".IMG.GZ")]
    for name in names:
        if header.with_name(name).exists():
            return header.with_name(name)
    raise _FileError(f"is a header without its voxels; put {printable(names[0])} beside it")


def _values(raw: NDArray[Any], header: _Header, notes: list[str]) -> NDArray[Any]:
    """Scale, narrow to 32 bits, and replace NaN and infinity by the smallest finite value."""
    if not raw.dtype.isnative:
        raw = raw.byteswap(inplace=True).view(raw.dtype.newbyteorder("="))
    low, high, lost = _survey(raw)
    if lost == raw.size:
        raise _FileError("has only NaN or infinite voxels: no image; export the scan again")
    _refuse_constant(low * header.slope + header.inter if header.scaled else low, low == high)
    array = _scale(raw, header) if header.scaled else _narrow(raw, int(low), int(high), notes)
    if array is not raw:
        low, high, lost_now = _survey(array)
        if lost_now > lost:
            raise _FileError(f"has {lost_now - lost} values too large for float32; rescale the scan")
        _refuse_constant(low, low == high)
    if lost:
        notes.append(f"NaN or infinite voxels: {lost}, taken as the smallest value {low:g}")
        array[~np.isfinite(array)] = low
    return array


def _survey(array: NDArray[Any]) -> tuple[Any, Any, int]:
    """Return the smallest and largest finite value, and how many are not finite."""
    low, high = array.min(), array.max()  # NaN spreads to both: with finite ends all is finite
    if np.isfinite(low) and np.isfinite(high):
        return low, high, 0
    finite = np.isfinite(array)
    lost = array.size - int(np.count_nonzero(finite))
    if lost == array.size:
        return low, high, lost
    return array.min(where=finite, initial=np.inf), array.max(where=finite, initial=-np.inf), lost


def _refuse_constant(value: Any, constant: bool) -> None:
    if constant:
        raise _FileError(f"is blank: all voxels are {value:g}: no image; export the scan again")


def _scale(raw: NDArray[Any], header: _Header) -> NDArray[np.float32]:
    """Compute `raw * slope + inter` in float64, rounded once; slice by slice to save memory."""
    array = np.empty(raw.shape, np.float32, order="F")
    for k in range(raw.shape[2]):
        array[..., k] = raw[..., k] * np.float64(header.slope) + header.inter
    return array


def _narrow(raw: NDArray[Any], low: int, high: int, notes: list[str]) -> NDArray[Any]:
    """Make int32 or float32 of the types that are wider, and of uint32."""
    if raw.dtype.name not in _NARROWED:
        return raw
    if raw.dtype.kind == "f":
        return raw.astype(np.float32)
    if low >= -(2**31) and high < 2**31:
        return raw.astype(np.int32)
    notes.append(f"its {raw.dtype.name} voxels go up to {high} and are rounded to float32")
    return raw.astype(np.float32)


def _geometry(header: _Header, notes: list[str]) -> tuple[NDArray[np.float64], tuple[float, float, float]]:
    """Choose the affine (sform, then qform, then zooms) and the spacing (zooms, then affine), in mm."""
    zooms = np.asarray(header.fields["pixdim"][1:4], np.float64)
    measured = bool(np.isfinite(zooms).all() and (zooms > 0).all())
    affine = _affine(header, zooms if measured else None, notes)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not measured:
        notes.append(f"its spacing {_mm(zooms)} is impossible, the affine's {_mm(lengths)} is used")
        zooms = lengths
    elif (abs(zooms / lengths - 1) > 0.01).any():
        notes.append(f"its spacing {_mm(zooms)} and the affine's {_mm(lengths)} differ; the former is used")
    unit, scale = _MM.get(int(header.fields["xyzt_units"]) & 7, ("mm", 1.0))
    if unit != "mm":
        notes.append(f"its unit is {unit}, converted to mm")
    spacing = tuple(float(z) for z in zooms * scale)
    return np.diag([scale, scale, scale, 1.0]) @ affine, (spacing[0], spacing[1], spacing[2])


def _affine(header: _Header, zooms: NDArray[np.float64] | None, notes: list[str]) -> NDArray[np.float64]:
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
        notes.append("says no orientation (no sform, no qform), its axes are taken as right, front, up")
        return np.diag([*zooms, 1.0])
    if not usable:
        what = f"invalid {' and '.join(coded)}" if coded else "neither orientation nor spacing"
        raise _FileError(f"has no usable affine ({what}: NaN, zero or singular); repair its header")
    name, affine = next(iter(usable.items()))
    notes.extend(f"its {broken} is invalid, the {name} is used" for broken in coded.keys() - usable.keys())
    if len(usable) == 2:
        _compare_forms(usable["sform"], usable["qform"], header.shape, notes)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if (cosine := abs(directions.T @ directions - np.eye(3)).max()) > 0.01:
        angle = math.degrees(math.acos(min(cosine, 1.0)))
        notes.append(f"its axes are sheared: two meet at {angle:.1f} degrees, not 90")
    return affine


def _form(get: Callable[[], Any]) -> NDArray[np.float64] | None:
    """Return the affine if it is finite and can be inverted."""
    try:
        affine = np.asarray(get(), np.float64)
    except (HeaderDataError, ValueError):
        return None
    volume = np.linalg.norm(affine[:3, :3], axis=0).prod()
    good = np.isfinite(affine).all() and volume > 0 and abs(np.linalg.det(affine[:3, :3])) > 1e-6 * volume
    return affine if good else None


def _compare_forms(
    sform: NDArray[np.float64], qform: NDArray[np.float64], shape: tuple[int, int, int], notes: list[str]
) -> None:
    """Note how far apart the two put the scan's corners, from a tenth of a voxel on."""
    corners = np.array([[i, j, k, 1.0] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])])
    apart = np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max()
    if apart > 0.1 * np.linalg.norm(sform[:3, :3], axis=0).min():
        notes.append(f"its qform and sform disagree by up to {apart:.3g} (in its unit); the sform is used")


def _mm(lengths: NDArray[np.float64]) -> str:
    return " x ".join(f"{x:.4g}" for x in lengths)


def _slice_axis(header: _Header, spacing: tuple[float, float, float]) -> int:
    """Return the axis that the header names, else one spaced over 1.5 times as wide as both others, else the last."""
    named = header.fields.get_dim_info()[2]
    if named is not None:
        return int(named)
    widest = int(np.argmax(spacing))
    others = max(s for axis, s in enumerate(spacing) if axis != widest)
    return widest if spacing[widest] > 1.5 * others else 2

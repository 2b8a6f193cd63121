"""The pixels of PNG, JPEG and TIFF, one value each, by Pillow; what it would change without a word is refused."""

from __future__ import annotations

import contextlib
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssmtl_formats.names import picture_format
from ssmtl_toolkit.data.source import AGAIN, FileError, naming_file

_GRAY = {"1": np.uint8, "L": np.uint8, "I": np.int32, "F": np.float32, **dict.fromkeys(("I;16", "I;16B"), np.uint16)}
_STRETCHED = {2: 85, 4: 17}  # Pillow stretches these few values to 0..255; we restore the stored ones
_MAX_PIXELS = 1 << 28  # of one slice
_BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION, _SAMPLE_FORMAT = 258, 259, 262, 270, 339  # TIFF tags
_JPEG = {6, 7}  # the compressions of TIFF that lose
_WHITE_IS_0 = 0
_SIGNED = 2
_DAMAGE = (SyntaxError, OSError, ValueError, EOFError, KeyError, struct.error, Image.DecompressionBombError, Warning)
_lock = threading.RLock()


class Page(NamedTuple):
    """A picture: a file, or a page of a TIFF file."""

    file: Path
    number: int = 0

    def __str__(self) -> str:
        return f"{self.file.name}, page {self.number}" if self.number else self.file.name


class Pictures:
    """Decodes pictures; the file of the last one stays open, because finding a page takes reading those before it."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._image: Image.Image | None = None

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._image is not None:
            self._image.close()
        self._file = self._image = None

    def pixels(self, page: Page, *, indexed: bool, colours: bool = False) -> NDArray[Any]:
        """Decode one picture to (rows, columns), with `colours` to (rows, columns, 3).

        With `indexed` the values of a palette are its indices.

        Raises:
            DataError: naming the file: it is damaged, too large, transparent, or has colours.
        """
        with naming_file(page.file), _damage(page.file):
            image = self._open(page)
            if image.width * image.height > _MAX_PIXELS:
                raise FileError(f"has {image.width} x {image.height} pixels, too many for a slice; crop it")
            image.load()
            return _values(image, _bits(image, page.file), indexed, colours)

    def size(self, page: Page) -> tuple[int, int]:
        """Width and height.

        Raises:
            DataError: naming the file: it is damaged.
        """
        with naming_file(page.file), _damage(page.file):
            return self._open(page).size

    def check(self, page: Page, *, colours: bool) -> None:
        """Refuse a picture with colours, unless they are wanted, or transparency; damage is left to `pixels` to report.

        Raises:
            FileError: it has several values per pixel.
        """
        with contextlib.suppress(*_DAMAGE):
            image = self._open(page)
            image.load()
            _values(image, _bits(image, page.file), True, colours)

    def _open(self, page: Page) -> Image.Image:
        if page.file != self._file or self._image is None or page.number == 0:
            self._close()
            kind = picture_format(page.file)
            if kind == "PNG":
                with Image.open(page.file, formats=[kind]) as image:
                    image.verify()  # compares the checksums, which loading does not
            self._file, self._image = page.file, Image.open(page.file, formats=[kind])
        self._image.seek(page.number)
        return self._image


@contextlib.contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Report damage in one way; of a damaged directory of TIFF Pillow only warns, and drops the pages after it."""
    try:
        with _strict() if picture_format(file) == "TIFF" else contextlib.nullcontext():
            yield
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FileError(f"is damaged or not a {picture_format(file)} ({type(error).__name__}); {AGAIN}") from None


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    with _lock, warnings.catch_warnings():  # filters are process-wide
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "(?i).*(corrupt|truncated)")
        yield


def size_of(file: Path) -> tuple[int, int]:
    """Width and height of a picture, or of the first page, by its header alone.

    Raises:
        FileError: it is damaged.
    """
    with _damage(file), Image.open(file, formats=[picture_format(file)]) as image:
        if min(image.size) < 1:
            raise ValueError("it has no pixels")
        return image.size


def pages_of(file: Path) -> int:
    """The number of pictures in a TIFF file.

    Raises:
        FileError: it is damaged, or its pages are not all slices: channels or times too.
    """
    with _damage(file), Image.open(file, formats=["TIFF"]) as image:
        _refuse_more_axes(str(_tags(image).get(_DESCRIPTION, "")))
        return int(getattr(image, "n_frames", 1))


def _refuse_more_axes(description: str) -> None:
    """Refuse what ImageJ and OME say has other axes than slices: their pages would be mixed."""
    found = dict(re.findall(r"^(channels|frames)=(\d+)", description, re.MULTILINE)) if "ImageJ=" in description else {}
    if "<OME" in description:
        found = dict(re.findall(r'Size([CT])="(\d+)"', description))
    names = {"C": "channels", "T": "times", "frames": "times"}
    if more := [f"{int(count)} {names.get(axis, axis)}" for axis, count in found.items() if int(count) > 1]:
        raise FileError(f"has {' and '.join(more)} in its pages, which are not slices; save one of them")


def is_lossy(file: Path) -> bool:
    """Whether a picture is compressed as JPEG, so that values differ from those that were stored.

    Raises:
        FileError: it is damaged.
    """
    if picture_format(file) != "TIFF":
        return picture_format(file) == "JPEG"
    with _damage(file), Image.open(file, formats=["TIFF"]) as image:
        return _tags(image).get(_COMPRESSION) in _JPEG


def palette_of(page: Page) -> tuple[tuple[int, ...], ...]:
    """The colours of a palette by index, () if a picture has none; damage is left to the decoder to report."""
    with (
        contextlib.suppress(*_DAMAGE),
        Image.open(page.file, formats=[picture_format(page.file)]) as image,
    ):
        image.seek(page.number)
        if image.mode == "P" and image.palette:
            flat = bytes(image.palette.palette)
            return tuple((flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3))
    return ()


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _bits(image: Image.Image, file: Path) -> int:
    """Bits per value: of PNG from its header, of TIFF from its tags; 8 of JPEG."""
    if picture_format(file) == "PNG":
        with file.open("rb") as stream:
            return stream.read(25).ljust(25, b"\0")[24]
    bits = _tags(image).get(_BITS, 8)
    return int(max(bits) if isinstance(bits, tuple) else bits)


def _values(image: Image.Image, bits: int, indexed: bool, colours: bool) -> NDArray[Any]:
    """Return the one value of each pixel: gray, equal colours or, with `indexed`, the index of a palette.

    With `colours`: its red, green and blue.
    """
    tags = _tags(image)
    if colours and image.mode in _GRAY:
        raise FileError("has no colours, and slices.toml says colours = true; omit that, or save it in colour")
    if image.mode in _GRAY:
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_0 and image.mode != "1":
            raise FileError("stores white as 0, which is read in different ways; save it with black as 0")
        array = np.asarray(image).astype(_GRAY[image.mode])
        if (
            tags
            and bits == 32
            and image.mode == "I"
            and tags.get(_SAMPLE_FORMAT, (1,))[0] != _SIGNED
            and array.min() < 0
        ):
            raise FileError("has values beyond 31 bits; save it with 16 bits")
        return array // _STRETCHED[bits] if bits in _STRETCHED else array
    if bits == 16:  # Pillow would keep 8 of them
        raise FileError("has colours or transparency of 16 bits; save it as gray")
    array = np.asarray(image.convert("RGBA" if "A" in image.mode or "transparency" in image.info else "RGB"))
    if array.shape[2] == 4 and (array[..., 3] != 255).any():
        raise FileError("is transparent in places; save it as gray")
    if colours:
        return array[..., :3]
    if image.mode == "P" and indexed:
        return np.asarray(image)
    if (array[..., :3] == array[..., :1]).all():
        return np.ascontiguousarray(array[..., 0])
    raise FileError(
        "has colours; a slice has one value per pixel: save it as gray, or set colours = true in slices.toml"
    )

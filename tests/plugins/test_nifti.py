"""The NIfTI reader: what is sound is read as nibabel reads it, what is odd is noted, what is damaged is refused."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.places import shared_data
from ssmtl_nifti import Nifti
from ssmtl_nifti.reading import read_nifti
from ssmtl_toolkit.data.prepare import prepare
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import printable

DATA = shared_data()
AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])
VOXELS = np.random.default_rng(0).normal(0, 300, (24, 20, 12)).astype(np.int16)


def nifti(array: Any = VOXELS, affine: Any = AFFINE, kind: type = nib.Nifti1Image) -> bytes:
    return kind(array, affine, dtype=array.dtype).to_bytes()  # type: ignore[no-any-return]


def patched(data: bytes, offset: int, fmt: str, *values: Any) -> bytes:
    out = bytearray(data)
    struct.pack_into("<" + fmt, out, offset, *values)
    return bytes(out)


def read(folder: Path, data: bytes, name: str = "scan.nii", volume: int | None = None) -> Volume:
    (folder / name).write_bytes(data)
    return read_nifti(folder / name, volume)


def refusal(folder: Path, data: bytes, name: str = "scan.nii", volume: int | None = None) -> str:
    """Return the one line that the user sees."""
    with pytest.raises(DataError) as caught:
        read(folder, data, name, volume)
    line = str(caught.value)
    assert printable(name) in line
    assert "\n" not in line
    assert "; " in line, "it must say what to do"
    return line


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail, instead of waiting for ever, where the reader hangs."""

    def stop(*_: object) -> None:
        pytest.fail(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --- names


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "UPPER.NII.GZ", "two.dots.nii", "a.hdr", "a.HDR.gz", "-x.nii"])
def test_names_of_nifti_files_are_matched(name: str) -> None:
    assert Nifti().matches(Path("folder") / name)


@pytest.mark.parametrize("name", ["a.img", "a.img.gz", "._a.nii.gz", ".a.nii", "noext", "a.gz", "nii", "a.nii.bak"])
def test_other_names_are_not_matched(name: str) -> None:
    assert not Nifti().matches(Path("folder") / name)


def test_the_spec_is_there_without_numpy() -> None:
    code = "import sys, ssmtl_nifti; print({'numpy', 'nibabel', 'torch'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("new\nline", r"new\nline"),
        ("\x1b[31m", r"\x1b[31m"),
        ("bad\udcff", r"bad\udcff"),
        ("心臓 μ", "心臓 μ"),
        ("\u202e", r"\u202e"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(name: str, shown: str) -> None:
    assert printable(Path(name)) == shown
    printable(name).encode()


def test_a_strange_file_name_is_read_and_its_refusal_can_be_printed(tmp_path: Path) -> None:
    name = "-new\nline \udcff.nii.gz"
    assert np.array_equal(read(tmp_path, gzip.compress(nifti()), name).array, VOXELS)
    refusal(tmp_path, b"", name).encode()


# --- what is sound


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "f4"])
def test_types_up_to_32_bits_are_read_as_they_are(tmp_path: Path, kind: type, dtype: str) -> None:
    wanted = (VOXELS % 100).astype(dtype)
    got = read(tmp_path, nifti(wanted, kind=kind))
    assert got.array.dtype == wanted.dtype
    assert np.array_equal(got.array, wanted)
    assert np.allclose(got.affine, AFFINE)
    assert got.spacing == pytest.approx((0.8, 0.8, 2.0))
    assert got.slice_axis == 2
    assert got.notes == ()


@pytest.mark.parametrize(("dtype", "got"), [("u4", "int32"), ("i8", "int32"), ("u8", "int32"), ("f8", "float32")])
def test_wider_types_become_32_bits(tmp_path: Path, dtype: str, got: str) -> None:
    wanted = abs(VOXELS).astype(dtype)
    array = read(tmp_path, nifti(wanted)).array
    assert array.dtype.name == got
    assert np.array_equal(array, wanted)


def test_64_bit_integers_that_do_not_fit_are_rounded_with_a_note(tmp_path: Path) -> None:
    wanted = VOXELS.astype(np.int64) << 40
    got = read(tmp_path, nifti(wanted))
    assert np.array_equal(got.array, wanted.astype(np.float32))
    assert "rounded to float32" in got.notes[0]


@pytest.mark.parametrize("dtype", ["i2", "f4", "f8"])
def test_big_endian_is_read(tmp_path: Path, dtype: str) -> None:
    wanted = VOXELS.astype(dtype)
    data = nib.Nifti1Image(wanted, AFFINE, nib.Nifti1Header(endianness=">"), dtype=wanted.dtype).to_bytes()
    assert data[:4] == b"\0\0\x01\x5c"
    got = read(tmp_path, data)
    assert got.array.dtype.isnative
    assert np.array_equal(got.array, VOXELS)
    assert np.allclose(got.affine, AFFINE)


def test_scaling_gives_the_rounded_exact_values(tmp_path: Path) -> None:
    got = read(tmp_path, patched(nifti(), 112, "2f", 0.37, -1024.5))
    wanted = (VOXELS * np.float64(np.float32(0.37)) - 1024.5).astype(np.float32)
    assert got.array.dtype == np.float32
    assert np.array_equal(got.array, wanted)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_slope_zero_or_nan_means_not_scaled(tmp_path: Path, slope: float) -> None:
    got = read(tmp_path, patched(nifti(), 112, "2f", slope, 5.0))
    assert got.array.dtype == np.int16
    assert np.array_equal(got.array, VOXELS)


def test_header_extensions_are_skipped(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS, AFFINE)
    image.header.extensions.extend(nib.nifti1.Nifti1Extension(6, b"x" * n) for n in (3, 500))
    assert np.array_equal(read(tmp_path, gzip.compress(image.to_bytes()), "scan.nii.gz").array, VOXELS)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
def test_a_pair_is_read_from_its_header(tmp_path: Path, kind: Any, pack: bool) -> None:
    kind(VOXELS, AFFINE).to_filename(tmp_path / "a.img")
    if pack:
        (tmp_path / "a.img.gz").write_bytes(gzip.compress((tmp_path / "a.img").read_bytes()))
        (tmp_path / "a.img").unlink()
    got = read_nifti(tmp_path / "a.hdr", None)
    assert np.array_equal(got.array, VOXELS)
    assert np.allclose(got.affine, AFFINE)


def test_a_pair_whose_image_is_cut_short_names_the_image(tmp_path: Path) -> None:
    nib.Nifti1Pair(VOXELS, AFFINE).to_filename(tmp_path / "a.hdr")
    os.truncate(tmp_path / "a.img", 1000)
    with pytest.raises(DataError, match=r"a\.img: is cut short"):
        read_nifti(tmp_path / "a.hdr", None)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii.gz.gz", "a.nii"])
def test_what_is_packed_twice_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(gzip.compress(nifti())))
    with pytest.raises(DataError, match="is packed by gzip twice; unpack it once"):
        Nifti().read(tmp_path / name)


def test_several_gzip_members_are_one_file(tmp_path: Path) -> None:
    data = nifti()
    packed = gzip.compress(data[:3000]) + gzip.compress(data[3000:])
    assert np.array_equal(read(tmp_path, packed, "scan.nii.gz").array, VOXELS)


def test_content_counts_not_the_name(tmp_path: Path) -> None:
    plain, packed = read(tmp_path, nifti(), "a.nii.gz"), read(tmp_path, gzip.compress(nifti()), "b.nii")
    assert np.array_equal(plain.array, VOXELS)
    assert np.array_equal(packed.array, VOXELS)
    assert plain.notes == ("is not gzip as its name says",)
    assert packed.notes == ("is gzip under another name",)


# --- damage


def test_a_flipped_bit_is_refused_or_harmless(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    packed = gzip.compress(nifti())
    refused = 0
    for _ in range(60):
        data = bytearray(packed)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            got = read(tmp_path, bytes(data), "scan.nii.gz")
        except DataError:
            refused += 1
        else:
            assert np.array_equal(got.array, VOXELS)
    assert refused >= 55


@pytest.mark.parametrize("where", range(0, 18, 2))
def test_a_flipped_bit_in_the_gzip_header_is_no_traceback(tmp_path: Path, where: int) -> None:
    packed = gzip.compress(nifti())
    for bit in range(8):
        data = bytearray(packed)
        data[where] ^= 1 << bit
        with suppress(DataError):
            assert np.array_equal(read(tmp_path, bytes(data), "scan.nii.gz").array, VOXELS)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, packed: bool) -> None:
    data = gzip.compress(nifti()) if packed else nifti()
    for length in [0, 1, 2, 3, 9, 100, 348, 352, len(data) // 2, len(data) - 8, len(data) - 1]:
        refusal(tmp_path, data[:length], "scan.nii.gz" if packed else "scan.nii")


def test_garbage_after_the_gzip_stream_is_refused(tmp_path: Path) -> None:
    assert "damaged" in refusal(tmp_path, gzip.compress(nifti()) + b"garbage", "scan.nii.gz")


def test_a_few_bytes_after_the_last_voxel_are_noted(tmp_path: Path) -> None:
    got = read(tmp_path, nifti() + bytes(10))
    assert np.array_equal(got.array, VOXELS)
    assert got.notes == ("10 bytes after the last voxel are ignored",)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_claims_terabytes_is_refused_at_once_in_little_memory(tmp_path: Path, packed: bool) -> None:
    data = patched(nifti(), 40, "8h", 3, 32767, 32767, 32767, 1, 1, 1, 1)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(data) if packed else data)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(DataError, match="claims 70362301923678 bytes"):
        read_nifti(path, None)
    assert time.perf_counter() - start < 0.5
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_more_than_half_of_the_memory_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    side = min(32767, int((memory * 0.6) ** (1 / 3)) + 1)
    path = tmp_path / "scan.nii"
    header = patched(nifti()[:352], 40, "8h", 3, side, side, side, 1, 1, 1, 1)
    path.write_bytes(patched(header, 70, "2h", 2, 8))
    os.truncate(path, 352 + side**3)  # sparse: it takes no room on the disk
    with at_most(5), pytest.raises(DataError, match="more than half of this machine"):
        read_nifti(path, None)


def test_unpacking_stops_when_the_stream_outgrows_its_header(tmp_path: Path) -> None:
    data = gzip.compress(nifti() + bytes(64 << 20))
    start = time.perf_counter()
    assert "continues for over 1 MiB" in refusal(tmp_path, data, "scan.nii.gz")
    assert time.perf_counter() - start < 0.5


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see the peak of memory")
def test_blank_voxels_do_not_take_memory(tmp_path: Path) -> None:
    data = patched(nifti(np.zeros((512, 512, 2), np.uint8))[:352], 40, "4h", 3, 512, 512, 256) + bytes(64 << 20)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzip.compress(data, 1))
    code = (
        "import re, sys, pathlib, ssmtl_nifti.reading as r\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])\n"
        "before = peak()\n"
        "volume = r.read_nifti(pathlib.Path(sys.argv[1]), None)\n"
        "print(peak() - before, volume.array.shape)"
    )
    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert "(512, 512, 256)" in out
    assert int(out.split()[0]) < 32 << 10  # KiB, where the voxels are 64 MiB


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"<html><body>404 Not Found</body></html>\n" * 20, "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n", "run git lfs pull"),
        (pickle.dumps({"a": 1}), "pickle"),
        (b"PK\x03\x04" + bytes(600), "zip"),
        (b"\x00\x05\x16\x07" + bytes(60), "AppleDouble"),
        (bytes(128) + b"DICM" + bytes(600), "DICOM"),
        (bytes(4096), "is not NIfTI"),
    ],
)
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_what_is_no_scan_is_named(tmp_path: Path, data: bytes, said: str, name: str) -> None:
    assert said in refusal(tmp_path, data, name)


@pytest.mark.parametrize(
    ("offset", "fmt", "values", "said"),
    [
        (0, "i", [999], "is not NIfTI"),
        (344, "4s", [b"xxx\0"], "its magic is"),
        (344, "4s", [b"\0\0\0\0"], "Analyze 7.5"),
        (344, "4s", [b"ni1\0"], "pair under another name"),
        (40, "h", [0], r"dim\[0\] = 0"),
        (40, "h", [9], r"dim\[0\] = 9"),
        (40, "4h", [3, 24, -20, 12], "no voxels"),
        (40, "4h", [3, 24, 20, 0], "no voxels"),
        (40, "4h", [2, 24, 240, 1], "2 dimensions"),
        (40, "6h", [5, 24, 20, 4, 1, 3], "5 dimensions"),
        (70, "2h", [9999, 16], "type 9999"),
        (70, "2h", [0, 0], "unknown"),
        (70, "2h", [1, 1], "1-bit"),
        (70, "2h", [32, 64], "complex64"),
        (70, "2h", [128, 24], "claims"),
        (70, "2h", [128, 8], "voxels of type RGB with bitpix 8"),
        (70, "2h", [1536, 128], "float128"),
        (72, "h", [64], "bitpix 64"),
        (108, "f", [0.0], "vox_offset 0"),
        (108, "f", [-352.0], "vox_offset -352"),
        (108, "f", [float("nan")], "vox_offset nan"),
        (108, "f", [float("inf")], "vox_offset inf"),
        (108, "f", [352.5], "vox_offset 352.5"),
        (108, "f", [1e30], "claims"),
        (112, "2f", [float("inf"), 0.0], "slope inf"),
        (112, "2f", [2.0, float("nan")], "intercept nan"),
        (112, "2f", [1e38, 0.0], "too large for float32"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, offset: int, fmt: str, values: list[Any], said: str) -> None:
    line = refusal(tmp_path, patched(nifti(), offset, fmt, *values))
    assert re.search(said, line), line


@pytest.mark.parametrize("size", [0x7FFFFFF0, 0, -16, 7, 32])
def test_an_extension_whose_size_lies_is_refused(tmp_path: Path, size: int) -> None:
    data = patched(patched(nifti(), 348, "4b", 1, 0, 0, 0), 108, "f", 368.0)
    record = struct.pack("<ii", size, 6) + bytes(8)
    assert "header extension" in refusal(tmp_path, data[:352] + record + data[352:])
    without_room = patched(data, 108, "f", 352.0)
    assert "no room" in refusal(tmp_path, without_room[:352] + record + without_room[352:])


def test_a_header_without_its_voxels_is_refused(tmp_path: Path) -> None:
    assert "put a.img beside it" in refusal(tmp_path, nib.Nifti1Pair(VOXELS, AFFINE).header.binaryblock, "a.hdr")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.nii.gz")
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "self.nii").symlink_to("self.nii")
    (tmp_path / "broken.nii").symlink_to("nowhere")
    (tmp_path / "zero.nii").symlink_to("/dev/zero")
    for name in ["fifo.nii.gz", "folder.nii.gz", "self.nii", "broken.nii", "zero.nii", "no\0name.nii", "n" * 300]:
        with at_most(2), pytest.raises(DataError):
            read_nifti(tmp_path / name, None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(nifti())
    (tmp_path / "scan.nii").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        read_nifti(tmp_path / "scan.nii", None)


# --- dimensions and values


@pytest.mark.parametrize(("names", "packed"), [("RGB", False), ("RGBA", False), ("RGB", True)])
def test_colours_are_channels(tmp_path: Path, names: str, packed: bool) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (7, 6, 5, len(names)), np.uint8)
    kind = np.dtype([(name, "u1") for name in names])
    file = tmp_path / ("scan.nii.gz" if packed else "scan.nii")
    nib.save(nib.Nifti1Image(np.ascontiguousarray(colours).view(kind)[..., 0], np.diag([2.0, 2, 3, 1])), file)
    assert np.array_equal(read_nifti(file, None).array, colours)


def test_an_alpha_that_is_the_same_everywhere_is_no_channel_and_equal_colours_are_gray(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (7, 6, 5, 4), np.uint8)
    colours[..., 3] = 255
    kind = np.dtype([(name, "u1") for name in "RGBA"])
    nib.save(nib.Nifti1Image(colours.view(kind)[..., 0], np.eye(4)), tmp_path / "a.nii")
    volume = read_nifti(tmp_path / "a.nii", None)
    assert np.array_equal(volume.array, colours[..., :3])
    assert "alpha is the same everywhere" in volume.notes[-1]
    colours[..., 1] = colours[..., 2] = colours[..., 0]
    nib.save(nib.Nifti1Image(colours.view(kind)[..., 0], np.eye(4)), tmp_path / "b.nii")
    assert np.array_equal(read_nifti(tmp_path / "b.nii", None).array, colours[..., 0])


@pytest.mark.parametrize("packed", [False, True])
def test_one_volume_of_a_4d_file_is_read(tmp_path: Path, packed: bool) -> None:
    array = np.random.default_rng(0).integers(0, 99, (7, 6, 5, 4), np.int16)
    data, name = (gzip.compress(nifti(array)), "a.nii.gz") if packed else (nifti(array), "a.nii")
    for i in range(4):
        assert np.array_equal(read(tmp_path, data, name, volume=i).array, array[..., i])
    assert "4 volumes; give --volume i, 0 to 3" in refusal(tmp_path, data, name)
    for i in (4, -1):
        assert f"no volume {i}; give --volume 0 to 3" in refusal(tmp_path, data, name, volume=i)


def test_trailing_axes_of_length_one_are_dropped_and_volume_does_not_matter(tmp_path: Path) -> None:
    for shape in ((24, 20, 12), (24, 20, 12, 1), (24, 20, 12, 1, 1)):
        assert read(tmp_path, nifti(VOXELS.reshape(shape)), volume=3).array.shape == (24, 20, 12)


def test_one_slice_is_read(tmp_path: Path) -> None:
    assert np.array_equal(read(tmp_path, nifti(VOXELS[..., :1])).array, VOXELS[..., :1])


@pytest.mark.parametrize("slope", [1.0, -2.0])
def test_nan_and_infinity_become_the_smallest_value_with_a_note(tmp_path: Path, slope: float) -> None:
    array = VOXELS.astype(np.float32)
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    got = read(tmp_path, patched(nifti(array), 112, "2f", slope, 0.0))
    wanted = array * slope
    smallest = wanted[np.isfinite(wanted)].min()
    assert np.array_equal(got.array, np.where(np.isfinite(wanted), wanted, smallest))
    assert got.notes == (f"NaN or infinite voxels: 3, taken as the smallest value {smallest:g}",)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_volume_without_a_finite_voxel_is_refused(tmp_path: Path, value: float) -> None:
    assert "only NaN" in refusal(tmp_path, nifti(np.full((8, 8, 8), value, np.float32)))


def test_a_blank_volume_is_read_as_a_label_may_be_and_refused_as_an_image(tmp_path: Path) -> None:
    blank = read(tmp_path, nifti(np.full((8, 8, 8), 7, np.float32)))
    with pytest.raises(DataError, match="all voxels are 7"):
        prepare(blank, Slicing(size=8))


def test_float64_beyond_float32_is_refused(tmp_path: Path) -> None:
    assert "too large for float32" in refusal(tmp_path, nifti(VOXELS * 1e300))


# --- geometry


def lying(sform: list[float] | None = None, qform: int = 0, data: bytes | None = None) -> bytes:
    """Return a scan with this sform's 12 numbers, and qform code."""
    out = patched(nifti() if data is None else data, 252, "2h", qform, 1 if sform else 0)
    return patched(out, 280, "12f", *sform) if sform else out


NAN = [float("nan")] * 12
ZERO = [0.0] * 12
SINGULAR = [1.0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 2, 0]


@pytest.mark.parametrize("sform", [NAN, ZERO, SINGULAR])
def test_an_impossible_sform_is_refused_unless_a_qform_helps(tmp_path: Path, sform: list[float]) -> None:
    assert "no usable affine" in refusal(tmp_path, lying(sform))
    got = read(tmp_path, lying(sform, qform=1))
    assert got.notes == ("its sform is invalid; the qform is used",)
    assert np.allclose(got.affine, AFFINE)


def test_an_impossible_qform_alone_is_refused(tmp_path: Path) -> None:
    assert "no usable affine" in refusal(tmp_path, patched(lying(qform=1), 256, "3f", 5.0, 5.0, 5.0))


def test_qfac_zero_means_one(tmp_path: Path) -> None:
    got = read(tmp_path, patched(lying(qform=1), 76, "f", 0.0))
    assert np.allclose(got.affine, AFFINE)
    assert got.notes == ()


def test_qfac_minus_one_turns_the_slices_round(tmp_path: Path) -> None:
    got = read(tmp_path, patched(lying(qform=1), 76, "f", -1.0))
    assert np.allclose(got.affine, np.diag([0.8, 0.8, -2.0, 1.0]))


def test_an_sform_of_unknown_code_is_no_orientation(tmp_path: Path) -> None:
    got = read(tmp_path, patched(lying([-5.0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 5, 0]), 254, "h", 99))
    assert np.allclose(got.affine, AFFINE)
    assert "no orientation" in got.notes[0]


def test_without_orientation_the_zooms_make_the_affine(tmp_path: Path) -> None:
    got = read(tmp_path, lying())
    assert np.allclose(got.affine, AFFINE)
    assert len(got.notes) == 1
    assert "no orientation" in got.notes[0]
    assert "neither orientation nor spacing" in refusal(tmp_path, patched(lying(), 76, "8f", 1, *[0.0] * 7))


@pytest.mark.parametrize(
    ("sform", "qform", "said"),
    [
        ([0.8, 0.05, 0, 0, 0, 0.8, 0, 0, 0, 0, 2, 0], 0, "sheared: two meet at 86.4 degrees"),
        ([0.8, 0, 0, 50, 0, 0.8, 0, 0, 0, 0, 2, 0], 1, "disagree by up to 50"),
        ([0.0008, 0, 0, 0, 0, 0.0008, 0, 0, 0, 0, 0.002, 0], 0, "differ"),
        ([0.8, 0, 0, 0, 0, 0.8, 0, 0, 0, 0, 2.03, 0], 0, "0.8 x 0.8 x 2 and the affine's 0.8 x 0.8 x 2.03 differ"),
    ],
)
def test_an_odd_affine_is_used_with_one_note(tmp_path: Path, sform: list[float], qform: int, said: str) -> None:
    got = read(tmp_path, lying(sform, qform))
    assert np.allclose(got.affine[:3], np.reshape(sform, (3, 4)))
    assert got.spacing == pytest.approx((0.8, 0.8, 2.0))
    assert len(got.notes) == 1
    assert said in got.notes[0]


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_zooms_give_way_to_the_affine(tmp_path: Path, bad: float) -> None:
    got = read(tmp_path, patched(nifti(), 76, "4f", 1.0, 0.8, 0.8, bad))
    assert got.spacing == pytest.approx((0.8, 0.8, 2.0))
    assert len(got.notes) == 1
    assert "is impossible" in got.notes[0]


@pytest.mark.parametrize(("code", "scale", "unit"), [(1, 1000.0, "meters"), (3, 0.001, "microns")])
def test_meters_and_microns_become_mm(tmp_path: Path, code: int, scale: float, unit: str) -> None:
    got = read(tmp_path, patched(nifti(affine=np.diag([0.8, 0.8, 2.0, 1.0]) + np.eye(4, k=3) * 9), 123, "b", code | 8))
    assert got.spacing == pytest.approx((0.8 * scale, 0.8 * scale, 2.0 * scale))
    assert np.allclose(got.affine, np.diag([0.8 * scale, 0.8 * scale, 2 * scale, 1]) + np.eye(4, k=3) * 9 * scale)
    assert got.notes == (f"its unit is {unit}, converted to mm",)


@pytest.mark.parametrize(
    ("zooms", "dim_info", "axis"),
    [
        ((1, 1, 1), 0, 2),
        ((3, 1, 1), 0, 0),
        ((1, 3, 1), 0, 1),
        ((1.4, 1, 1), 0, 2),
        ((1, 1, 3), 2 << 4, 1),
        ((1, 3, 1), 3 << 4, 2),
    ],
)
def test_the_slice_axis_is_named_by_the_header_or_spaced_widest(
    tmp_path: Path, zooms: tuple[float, float, float], dim_info: int, axis: int
) -> None:
    assert read(tmp_path, patched(nifti(affine=np.diag([*zooms, 1.0])), 39, "b", dim_info)).slice_axis == axis


def test_nothing_is_printed_or_warned(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    odd = patched(patched(nifti(), 76, "4f", 7.0, -1, 0, 1), 252, "2h", 99, 2)  # nibabel logs each of these
    read(tmp_path, patched(odd, 112, "2f", 1e30, 0.0))
    refusal(tmp_path, patched(nifti(), 112, "2f", 1e38, 0.0))
    assert capfd.readouterr() == ("", "")


# --- shared files, where they are

BAD_READ = {
    *("00_good.nii", "00_good.nii.gz", "11_plain_nifti_named_gz.nii.gz", "12_gz_named_nii.nii"),
    *("18_two_gz_members.nii.gz", "37_slope_nan_inter_nan.nii", "39_slope_zero.nii", "41_pixdim_zero.nii"),
    *("42_pixdim_negative.nii", "43_pixdim_nan.nii", "47_sform_sheared.nii", "48_sform_mm_as_m.nii"),
    *("49_qform_sform_disagree.nii", "50_no_qform_no_sform.nii", "52_big_endian.nii", "70_one_nan.nii", "71_inf.nii"),
    *("80_one_slice_3d.nii", "82_two_slices.nii", "84_4d_trailing_one.nii", "89_int64.nii"),
    *("93_label_mmwhs.nii.gz", "94_label_wrong_shape.nii.gz", "95_label_float_fraction.nii.gz"),
    *("96_label_negative.nii.gz", "97_label_other_affine.nii.gz"),
    "dir ünïcode 心臓 with space/vol μ (1).nii.gz",
    *("names/UPPER.NII.GZ", "names/two.dots.v1.nii.gz", "names/.hidden.nii.gz", "names/noext", "names/-dash.nii.gz"),
    *("names/new\nline.nii.gz", "names/surrogate/bad\udcff.nii.gz"),
    *("links/a.nii.gz", "links/same_volume.nii.gz", "links/hardlink.nii.gz"),
}
BAD_REFUSED = {
    *("86_rgb24.nii", "87_rgba32.nii"),  # blank channels
    *("01_empty.nii", "01_empty.nii.gz", "02_header_cut_at_100.nii", "03_header_only_352.nii", "04_data_cut_half.nii"),
    *("05_data_cut_one_byte.nii", "06_gz_cut_half.nii.gz", "07_gz_cut_last_8_crc.nii.gz", "08_gz_bitflip_mid.nii.gz"),
    *("09_gz_wrong_crc.nii.gz", "10_gz_trailing_garbage.nii.gz", "13_random_bytes.nii", "14_random_bytes.nii.gz"),
    *("15_text_html_error_page.nii.gz", "16_git_lfs_pointer.nii.gz", "17_pickle_named_nii.nii"),
    *("20_dims_huge_32767x3.nii", "21_dims_huge_32767x3.nii.gz", "22_dims_huge_float64_7d.nii", "23_dim0_is_0.nii"),
    *("24_dim0_is_9.nii", "25_dim_negative.nii", "26_dim_zero_slices.nii", "27_sizeof_hdr_wrong.nii"),
    *("28_magic_wrong.nii", "29_magic_ni1_pair_but_single.nii", "30_datatype_unknown_9999.nii", "31_datatype_0.nii"),
    *("32_bitpix_wrong.nii", "33_vox_offset_0.nii", "34_vox_offset_past_eof.nii", "35_vox_offset_negative.nii"),
    *("36_vox_offset_nan.nii", "38_slope_inf.nii", "40_slope_1e30_overflow.nii", "44_sform_all_zero.nii"),
    *("45_sform_nan.nii", "46_sform_singular.nii", "51_qform_bad_quaternion.nii", "53_extension_size_lies.nii"),
    *("54_extension_size_zero.nii", "60_gzbomb_1GiB_honest_dims.nii.gz", "61_gzbomb_1GiB_small_dims.nii.gz"),
    *("62_gzbomb_in_extension.nii.gz", "72_all_nan.nii", "73_constant.nii", "74_float32_max.nii", "81_2d.nii"),
    *("83_4d_two_frames.nii", "85_5d_vector.nii", "88_complex64.nii"),
    *("90_uint8_1x1x1.nii", "91_float128.nii", "92_bool_bit1.nii", "98_label_all_background.nii.gz"),
    *("names/._appledouble.nii.gz", "links/self.nii.gz", "links/broken.nii.gz", "links/isdir.nii.gz"),
    *("links/fifo.nii.gz", "links/devzero.nii"),
}


def outcome_of(path: Path) -> str:
    try:
        prepare(read_nifti(path, None), Slicing(size=8))
    except DataError as error:
        return str(error)
    return "read"


@pytest.mark.slow
def test_every_bad_scan_is_read_or_refused_as_stated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tool = DATA / "../tools/make_bad_scans.py"
    if not tool.is_file():
        pytest.skip(f"no {tool}")
    made = tmp_path / "bad"
    subprocess.run([sys.executable, tool, made], check=True, capture_output=True)
    capfd.readouterr()
    names = {str(p.relative_to(made)) for p in made.rglob("*") if not p.is_dir() or p.suffix == ".gz"}
    outcome: dict[str, bool] = {}
    for name in names:
        with at_most(60 if "honest" in name else 5):  # the honest bomb is one GiB to unpack
            said = outcome_of(made / name)
        assert "\n" not in said
        said.encode()
        outcome[name] = said == "read"
    assert capfd.readouterr() == ("", "")
    may_read = os.access(made / "noread/x.nii.gz", os.R_OK)  # root may
    assert outcome.pop("noread/x.nii.gz") is may_read
    assert {name for name, was_read in outcome.items() if was_read} == BAD_READ
    assert {name for name, was_read in outcome.items() if not was_read} == BAD_REFUSED


ODD_REFUSED = {
    "nibabel_tests/analyze.hdr": "Analyze 7.5",
    "nibabel_tests/nifti1.hdr": "put nifti1.img beside it",
    "sct_testing_data/t2/warp_template2anat.nii.gz": "5 dimensions",
}


@pytest.mark.slow
def test_every_odd_file_is_read_as_nibabel_reads_it_or_refused_as_stated() -> None:
    files = sorted(p for p in (DATA / "odd").rglob("*") if Nifti().matches(p))
    if not files:
        pytest.skip(f"no {DATA / 'odd'}")
    for path in files:
        name = str(path.relative_to(DATA / "odd"))
        if name in ODD_REFUSED:
            with pytest.raises(DataError, match=ODD_REFUSED[name]):
                read_nifti(path, 0)
            continue
        got, image = read_nifti(path, 0), nib.load(path)
        wanted = image.get_fdata()
        wanted = wanted[..., 0] if wanted.ndim == 4 else wanted
        wanted = wanted.astype(np.float32) if got.array.dtype == np.float32 else wanted
        finite = np.isfinite(wanted)
        assert np.array_equal(got.array[finite], wanted[finite]), name
        assert np.isfinite(got.array).all()
        assert np.array_equal(got.affine, image.affine), name
        assert len(got.notes) == ("fmri_tsnr" in name), got.notes  # it has 408 NaN
        assert got.notes == () or "408" in got.notes[0]


# --- from volume to slices and back


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    """Draw a volume in any orientation: turned freely, flipped, sheared a little, with any spacing."""
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    zooms = draw(st.tuples(*[st.floats(0.1, 10)] * 3))
    quaternion = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4)))
    if np.linalg.norm(quaternion) < 1e-2:
        quaternion = np.array([1.0, 0, 0, 0])
    turn = nib.quaternions.quat2mat(quaternion)
    order = draw(st.permutations(range(3)))
    flips = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    shear = np.eye(3) + np.eye(3, k=1) * draw(st.floats(-0.2, 0.2))
    affine = np.eye(4)
    affine[:3, :3] = (turn @ shear)[:, order] * flips * zooms
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return Volume(np.arange(np.prod(shape), dtype=np.int32).reshape(shape), affine, zooms, draw(st.integers(0, 2)))


@settings(deadline=None)
@given(volumes(), st.sampled_from(["axial", "coronal", "sagittal", "acquisition"]), st.data())
def test_slices_go_back_to_the_grid_and_stay_where_they_are_in_the_patient(
    volume: Volume, wanted: Any, data: st.DataObject
) -> None:
    stack = Stack.of(volume, wanted)
    assert np.array_equal(stack.back(stack.slices[:, 0]), volume.array)
    assert np.array_equal(stack.cut(volume.array), stack.slices[:, 0])
    index = tuple(data.draw(st.integers(0, n - 1)) for n in volume.array.shape)
    (there,) = np.argwhere(stack.slices[:, 0] == volume.array[index])
    assert np.allclose(stack.affine @ [*there, 1], volume.affine @ [*index, 1], atol=1e-6)
    assert stack.spacing == pytest.approx(np.linalg.norm(stack.affine[:3, :3], axis=0), rel=0.05)


@settings(deadline=None)
@given(volumes())
def test_acquisition_slices_follow_the_scanners_own_axis(volume: Volume) -> None:
    stack = Stack.of(volume, "acquisition")
    assert stack.slices.shape[0] == volume.array.shape[volume.slice_axis]
    assert stack.spacing[0] == volume.spacing[volume.slice_axis]


def test_a_written_scan_is_the_same_read_back(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    nib.Nifti1Image(VOXELS, AFFINE).to_filename(path)
    stack = Stack.of(Nifti().read(path), "axial")
    assert np.array_equal(stack.back(stack.slices[:, 0]), VOXELS)

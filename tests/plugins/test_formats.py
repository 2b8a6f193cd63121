"""Readers of NRRD, MetaImage, MGH and PNG slices, and every odd file: read right, or refused in one line."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from helpers.dicom_files import AFFINE, VOXELS, as_rle, write_series
from helpers.odd_files import ODD
from helpers.places import shared_data
from helpers.small import SMALL, ball, write_scan
from ssmtl_formats import MetaImage, Mgh, Nrrd, Slices
from ssmtl_nifti import Nifti
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def refused(path: Path, volume: int | None = None) -> str:
    """What is said of `path`, which must be one line that begins with its name."""
    with pytest.raises(DataError) as error:
        installed_readers().read(path, volume)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    return str(error.value).removeprefix(f"{path}: ")


def same(volume: Volume, voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE) -> None:
    assert volume.array.shape == voxels.shape
    assert np.array_equal(volume.array, voxels)
    assert np.abs(volume.affine - affine).max() < 1e-4
    assert volume.spacing == pytest.approx(tuple(np.linalg.norm(affine[:3, :3], axis=0)), abs=1e-4)


def itk(voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE) -> SimpleITK.Image:
    """The scan as ITK has it, made without any of our code."""
    made = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels.T))
    lps = LPS @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    made.SetSpacing(lengths.tolist())
    made.SetOrigin(lps[:3, 3].tolist())
    made.SetDirection((lps[:3, :3] / lengths).ravel().tolist())
    return made


def write_itk(file: Path, voxels: np.ndarray = VOXELS, packed: bool = False) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(itk(voxels), str(file), useCompression=packed)
    return file


# ---- what SimpleITK writes ----

TYPES = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@pytest.mark.parametrize("kind", TYPES)
def test_what_itk_writes_is_read_as_the_same_nifti_is(tmp_path, name, packed, kind):
    voxels = (VOXELS % 100).astype(kind)
    volume = installed_readers().read(write_itk(tmp_path / name, voxels, packed))
    nib.save(nib.Nifti1Image(voxels, AFFINE, dtype=kind), tmp_path / "truth.nii")
    truth = Nifti().read(tmp_path / "truth.nii")
    same(volume, truth.array, truth.affine)
    assert volume.array.dtype == truth.array.dtype
    assert volume.notes == ()
    assert volume.slice_axis == truth.slice_axis == 2


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd"])
def test_the_file_with_the_voxels_belongs_to_its_header(tmp_path, name):
    reader = Nrrd() if name == "a.nhdr" else MetaImage()
    header = write_itk(tmp_path / name)
    (raw,) = set(tmp_path.iterdir()) - {header}
    assert list(reader.files(header)) == [header, raw]
    raw.unlink()
    assert list(reader.files(header)) == [header]
    assert f"is a header without its voxels; put {raw.name} beside it" in refused(header)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_of_four_dimensions_one_volume_is_chosen(tmp_path, name):
    both = SimpleITK.JoinSeries([itk(), itk(VOXELS + 5)])
    SimpleITK.WriteImage(both, str(tmp_path / name))
    assert "is 4-D with 2 volumes; give --volume i, 0 to 1" in refused(tmp_path / name)
    assert "has no volume 2" in refused(tmp_path / name, 2)
    same(installed_readers().read(tmp_path / name, 1), VOXELS + 5)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_colours_and_pictures_are_refused(tmp_path, name):
    SimpleITK.WriteImage(SimpleITK.Compose([itk(), itk(), itk()]), str(tmp_path / name))
    assert "value" in refused(tmp_path / name) or "one number per voxel" in refused(tmp_path / name)
    SimpleITK.WriteImage(itk()[:, :, 0], str(tmp_path / name))
    assert "has 2 dimensions (20, 24); a scan of slices needs 3" in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_nan_is_replaced_and_counted(tmp_path, name):
    voxels = VOXELS.astype(np.float32)
    voxels[3, 4, 5] = np.nan
    volume = installed_readers().read(write_itk(tmp_path / name, voxels))
    assert volume.replaced == 1
    assert volume.array[3, 4, 5] == np.nanmin(voxels)


# ---- NRRD by hand ----


def nrrd(file: Path, data: bytes | None = None, drop: str = "", **fields: str) -> Path:
    """Write a NRRD file of VOXELS with these fields; names with _ for blanks, `drop` leaves one out."""
    said = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "20 24 9",
        "space_directions": " ".join(
            str(tuple(column)).replace(" ", "") for column in (LPS @ AFFINE)[:3, :3].T.tolist()
        ),
        "endian": "little",
        "encoding": "raw",
        "space_origin": str(tuple((LPS @ AFFINE)[:3, 3].tolist())),
    } | fields
    lines = [f"{name.replace('_', ' ')}: {value}" for name, value in said.items() if name != drop]
    head = "\n".join(["NRRD0005", "# a comment", *lines, "author:=Erika Mustermann: a free text", "", ""]).encode()
    file.write_bytes(head + (VOXELS.tobytes(order="F") if data is None else data))
    return file


def test_every_encoding_and_byte_order_of_nrrd_gives_the_same_voxels(tmp_path):
    raw = VOXELS.tobytes(order="F")
    same(Nrrd().read(nrrd(tmp_path / "a.nrrd")))
    same(Nrrd().read(nrrd(tmp_path / "b.nrrd", gzip.compress(raw), encoding="gz")))
    same(Nrrd().read(nrrd(tmp_path / "c.nrrd", gzip.compress(raw[:999]) + gzip.compress(raw[999:]), encoding="gzip")))
    same(Nrrd().read(nrrd(tmp_path / "d.nrrd", VOXELS.astype(">i2").tobytes(order="F"), endian="big")))
    (tmp_path / "e.raw").write_bytes(b"a line\nanother\n" + b"xyz" + raw)
    same(Nrrd().read(nrrd(tmp_path / "e.nhdr", b"", data_file="e.raw", line_skip="2", byte_skip="3")))
    same(Nrrd().read(nrrd(tmp_path / "f.nhdr", b"", data_file="e.raw", byte_skip="-1")))


def test_spaces_and_units_of_nrrd_are_turned_into_mm_to_the_right_front_and_top(tmp_path):
    columns = " ".join(str(tuple(column)) for column in AFFINE[:3, :3].T.tolist())
    ras = {"space_directions": columns, "space_origin": str(tuple(AFFINE[:3, 3].tolist()))}
    same(Nrrd().read(nrrd(tmp_path / "a.nrrd", space="right-anterior-superior", **ras)))
    same(Nrrd().read(nrrd(tmp_path / "b.nrrd", space="RAS", **ras)))
    metres = {
        "space_directions": " ".join(str(tuple(x / 1000 for x in column)) for column in AFFINE[:3, :3].T.tolist()),
        "space_origin": str(tuple((AFFINE[:3, 3] / 1000).tolist())),
    }
    volume = Nrrd().read(nrrd(tmp_path / "c.nrrd", space="RAS", space_units='"m" "m" "m"', **metres))
    same(volume)
    assert "converted to mm" in volume.notes[0]


def test_a_nrrd_without_orientation_is_taken_as_itk_takes_it(tmp_path):
    file = nrrd(tmp_path / "a.nrrd", drop="space")
    file.write_bytes(b"\n".join(line for line in file.read_bytes().split(b"\n", 9) if not line.startswith(b"space")))
    file.write_bytes(file.read_bytes().replace(b"endian", b"spacings: 0.5 0.6 2.5\nendian"))
    volume = Nrrd().read(file)
    same(volume, affine=np.diag([-0.5, -0.6, 2.5, 1.0]))
    assert volume.notes == ("has no orientation; its axes are assumed to be left, back, up",)
    file.write_bytes(file.read_bytes().replace(b"0.5 0.6 2.5", b"0.5 nan 2.5"))
    assert "has no usable spacing; 1 mm is assumed" in Nrrd().read(file).notes
    file.write_bytes(file.read_bytes().replace(b"0.5 nan 2.5", b"0.5 -.6 2.5"))
    assert "has no usable affine" in refused(file)


def test_a_list_of_volumes_may_be_any_axis_of_nrrd(tmp_path):
    both = np.stack([VOXELS, VOXELS + 5])
    where = nrrd(tmp_path / "x.nrrd").read_bytes().split(b"space directions: ")[1].split(b"\n")[0].decode()
    first = {
        "dimension": "4",
        "sizes": "2 20 24 9",
        "space_directions": f"none {where}",
        "kinds": "list domain domain domain",
    }
    same(Nrrd().read(nrrd(tmp_path / "a.nrrd", both.tobytes(order="F"), **first), 1), VOXELS + 5)
    words = where.split()
    for axis in (1, 2, 3):
        fields = {
            "dimension": "4",
            "sizes": " ".join(np.insert([20, 24, 9], axis, 2).astype(str)),
            "space_directions": " ".join([*words[:axis], "none", *words[axis:]]),
            "kinds": " ".join(np.insert(["domain"] * 3, axis, "list")),
        }
        moved = np.moveaxis(both, 0, axis)
        same(Nrrd().read(nrrd(tmp_path / "b.nrrd", moved.tobytes(order="F"), **fields), 1), VOXELS + 5)
    assert "is 4-D with 2 volumes" in refused(tmp_path / "b.nrrd")
    said = "has 2 values per voxel (vector); a scan has one"
    assert said in refused(
        nrrd(tmp_path / "c.nrrd", both.tobytes(order="F"), **first | {"kinds": "vector" + 3 * " domain"})
    )
    said = "cannot be read by ITK (ReadImageInformation: number of domain axes in the NRRD file (4) doesn't match"
    assert said in refused(
        nrrd(tmp_path / "d.nrrd", both.tobytes(order="F"), **first | {"kinds": "time" + 3 * " domain"})
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"type": "block"}, "cannot be read by ITK (_nrrdHeaderCheck: type is block"),
        ({"sizes": "20 24 90"}, "is cut short, or its header lies"),
        ({"sizes": "20 24 9 1"}, "seem to have more than expected 3 sizes"),
        ({"sizes": "20 24 8"}, "holds 960 bytes more than its header says: some size is wrong"),
        ({"sizes": "20 24 0"}, "axis 2 size is zero"),
        ({"sizes": "20 24 nine"}, "cannot be read by ITK"),
        ({"sizes": "2000000 2400000 900000", "encoding": "gzip"}, "is cut short, or its header lies"),
        ({"encoding": "ascii"}, "is encoded as 'ascii'; save it as raw or gzip"),
        ({"encoding": "gzip"}, "is damaged or cut short"),
        ({"encoding": "bzip2"}, "is encoded as 'bzip2'; save it as raw or gzip"),
        ({"endian": "middle"}, "couldn't parse endian"),
        ({"drop": "endian"}, "require endian info"),
        ({"drop": "sizes"}, "didn't see required field: sizes"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,0)"}, "has no usable affine"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,nan)"}, "cannot be read by ITK"),
        ({"space_directions": "(1,0) (0,1)"}, "parsed 2 values, but space dimension is 3"),
        ({"kinds": "RGB-color domain domain"}, "kind RGB-color requires size 3, but have 20"),
        ({"data_file": "../elsewhere.raw"}, "has its voxels elsewhere (../elsewhere.raw)"),
        ({"data_file": "/etc/passwd"}, "has its voxels elsewhere"),
        ({"data_file": "LIST"}, "has its voxels in several files"),
        ({"data_file": "slice%03d.raw 1 9 1"}, "has its voxels in several files"),
        ({"data_file": "gone.raw"}, "is a header without its voxels; put gone.raw beside it"),
        ({"space_units": '"furlong" "furlong" "furlong"'}, "has the units furlong; mm are needed"),
    ],
)
def test_a_nrrd_that_cannot_be_right_is_refused(tmp_path, fields, said):
    assert said in refused(nrrd(tmp_path / "a.nrrd", **fields))


# ---- MetaImage by hand ----


def meta(file: Path, data: bytes | None = None, drop: str = "", **fields: str) -> Path:
    lps = LPS @ AFFINE
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    said = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": " ".join(map(str, (lps[:3, :3] / lengths).T.ravel())),
        "Offset": " ".join(map(str, lps[:3, 3])),
        "ElementSpacing": " ".join(map(str, lengths)),
        "DimSize": "20 24 9",
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    } | fields
    said["ElementDataFile"] = said.pop("ElementDataFile")
    head = "".join(f"{name} = {value}\n" for name, value in said.items() if name != drop)
    file.write_bytes(head.encode() + (VOXELS.tobytes(order="F") if data is None else data))
    return file


def test_every_way_to_store_metaimage_gives_the_same_voxels(tmp_path):
    raw = VOXELS.tobytes(order="F")
    same(MetaImage().read(meta(tmp_path / "a.mha")))
    packed = zlib.compress(raw)
    said = {"CompressedData": "True", "CompressedDataSize": str(len(packed))}
    same(MetaImage().read(meta(tmp_path / "b.mha", packed, **said)))
    (tmp_path / "b.zraw").write_bytes(packed)
    same(MetaImage().read(meta(tmp_path / "b.mhd", b"", ElementDataFile="b.zraw", CompressedData="True")))
    same(MetaImage().read(meta(tmp_path / "b.mhd", b"", ElementDataFile="b.zraw", **said)))
    big = VOXELS.astype(">i2").tobytes(order="F")
    same(MetaImage().read(meta(tmp_path / "c.mha", big, BinaryDataByteOrderMSB="True")))
    (tmp_path / "d.raw").write_bytes(b"head" + raw)
    same(MetaImage().read(meta(tmp_path / "d.mhd", b"", ElementDataFile="d.raw", HeaderSize="-1")))
    same(MetaImage().read(meta(tmp_path / "e.mhd", b"", ElementDataFile="d.raw", HeaderSize="4")))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"DimSize": "20 24 90"}, "is cut short, or its header lies"),
        ({"DimSize": "20 24"}, "has DimSize '20 24', 3 numbers are needed"),
        ({"ElementType": "MET_STRING"}, "convert it to one number per voxel"),
        ({"ElementNumberOfChannels": "3"}, "has 3 values per voxel (vector); a scan has one: convert it"),
        ({"BinaryData": "False"}, "stores its voxels as text"),
        ({"CompressedData": "True"}, "is cut short, or its CompressedDataSize is wrong or missing"),
        ({"CompressedData": "True", "CompressedDataSize": "8640"}, "is damaged or cut short"),
        ({"CompressedData": "Yes"}, "has CompressedData 'Yes', True or False is needed"),
        ({"ElementSpacing": "1 1 0"}, "has no usable affine"),
        ({"ElementSpacing": "1 1"}, "has ElementSpacing '1 1', 3 numbers are needed"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 nan 1"}, "9 numbers are needed"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "has no usable affine"),
        ({"ElementSpacing": "1 1 -1"}, "has no usable affine"),
        ({"Offset": "1 2"}, "has Offset '1 2', 3 numbers are needed"),
        ({"DimSize": "20 24 -9"}, "3 numbers are needed"),
        ({"DimSize": "20 24 8"}, "holds 960 bytes more than its header says: some size is wrong"),
        ({"HeaderSize": "7"}, "has a HeaderSize"),
        ({"DistanceUnits": "furlong"}, "has the units furlong; mm are needed"),
        ({"ElementDataFile": "LIST"}, "has its voxels in several files"),
        ({"ElementDataFile": "../a.raw"}, "has its voxels elsewhere (../a.raw)"),
        ({"drop": "DimSize"}, "is not MetaImage: it has no line `DimSize = ...`"),
        ({"drop": "ElementDataFile"}, "is not MetaImage: it has no line `ElementDataFile = ...`"),
    ],
)
def test_a_metaimage_that_cannot_be_right_is_refused_and_metaio_prints_nothing(tmp_path, fields, said, capfd):
    assert said in refused(meta(tmp_path / "a.mha", **fields))
    assert capfd.readouterr() == ("", "")


def test_units_of_metaimage_and_what_it_leaves_out_are_noted(tmp_path):
    volume = MetaImage().read(meta(tmp_path / "a.mha", DistanceUnits="cm"))
    same(volume, affine=np.diag([10.0, 10.0, 10.0, 1.0]) @ AFFINE)
    assert volume.notes == ("its unit is cm, converted to mm",)
    assert (
        "has no usable spacing; 1 mm is assumed"
        in MetaImage().read(meta(tmp_path / "a.mha", drop="ElementSpacing")).notes
    )
    said = "has no orientation; its axes are assumed to be left, back, up"
    assert said in MetaImage().read(meta(tmp_path / "a.mha", drop="TransformMatrix")).notes


# ---- what SimpleITK passes over in silence ----


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
def test_packed_voxels_are_refused_wherever_they_are_cut_or_changed(tmp_path, name, capfd):
    raw = np.random.default_rng(0).integers(0, 99, VOXELS.shape).astype("<i2").tobytes(order="F")
    nrrds, packed = name.startswith("a.n"), gzip.compress(raw) if name.startswith("a.n") else zlib.compress(raw)
    beside = name.endswith(("hdr", "mhd"))

    def said(data: bytes) -> str:
        if nrrds:
            fields = {"encoding": "gzip"} | ({"data_file": "a.bin"} if beside else {})
        else:
            fields = {"CompressedData": "True", "CompressedDataSize": str(len(data))}
            fields |= {"ElementDataFile": "a.bin"} if beside else {}
        (tmp_path / "a.bin").write_bytes(data)
        return refused((nrrd if nrrds else meta)(tmp_path / name, b"" if beside else data, **fields))

    for cut in (1, 2, 4, 5, 8, 9, 12, 100, len(packed) // 2, len(packed) - 1):
        assert "cut short" in said(packed[:-cut])
    for at in (-1, -3, -6, len(packed) // 3, len(packed) // 2):
        changed = bytearray(packed)
        changed[at] ^= 0x41
        assert "is damaged or cut short" in said(bytes(changed))
    pack = gzip.compress if nrrds else zlib.compress
    assert "cut short" in said(pack(raw[:-1]))
    assert "holds 960 bytes more than its header says" in said(pack(raw + raw[:960]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd"])
def test_plain_voxels_beside_a_header_are_counted_in_their_own_file(tmp_path, name, capfd):
    header = write_itk(tmp_path / name)
    raw = tmp_path / "a.raw"
    raw.write_bytes(raw.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"a\.raw: is cut short, or its header lies: it claims 8640 bytes"):
        installed_readers().read(header)
    raw.write_bytes(raw.read_bytes() + b"1234")
    assert installed_readers().read(header).notes == ("3 bytes after the last voxel are ignored",)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_sheared_scan_keeps_its_shear(tmp_path, name):
    """As NIfTI's reader keeps it: nothing is made rectangular."""
    matrix = AFFINE.copy()
    matrix[:3, 1] += 0.2 * AFFINE[:3, 0]
    lps = LPS @ matrix
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    columns = " ".join(str(tuple(column)).replace(" ", "") for column in lps[:3, :3].T.tolist())
    if name == "a.nrrd":
        file = nrrd(tmp_path / name, space_directions=columns)
    else:
        turned = " ".join(map(str, (lps[:3, :3] / lengths).T.ravel()))
        file = meta(tmp_path / name, TransformMatrix=turned, ElementSpacing=" ".join(map(str, lengths)))
    nib.save(nib.Nifti1Image(VOXELS, matrix), tmp_path / "truth.nii")
    truth, volume = Nifti().read(tmp_path / "truth.nii"), installed_readers().read(file)
    same(volume, truth.array, truth.affine)
    assert volume.notes == tuple(note for note in truth.notes if "sheared" in note)
    assert len(volume.notes) == 1


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_complex_voxels_are_refused(tmp_path, name):
    part = SimpleITK.Cast(itk(), SimpleITK.sitkFloat32)
    SimpleITK.WriteImage(SimpleITK.RealAndImaginaryToComplex(part, part), str(tmp_path / name))
    assert any(text in refused(tmp_path / name) for text in ("has 2 values per voxel", "such as complex numbers"))


def test_damaged_headers_in_several_threads_do_not_end_the_process(tmp_path):
    """Where NrrdIO reports errors in two threads at once, it does."""
    nrrd(tmp_path / "a.nrrd", sizes="20 24 nine")
    nrrd(tmp_path / "b.nrrd", endian="middle")
    code = """if True:
        import sys
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path
        from ssmtl_formats import Nrrd
        def read(name):
            try: Nrrd().read(Path(sys.argv[1]) / name)
            except Exception as error: return str(error).count("\\n") == 0 and "cannot be read by ITK" in str(error)
        with ThreadPoolExecutor(4) as pool: print(all(pool.map(read, ["a.nrrd", "b.nrrd"] * 300)))
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_without_the_extra_one_line_says_how_to_get_it(tmp_path):
    write_itk(tmp_path / "a.nrrd")
    write_itk(tmp_path / "a.mhd")
    code = "import sys; sys.modules['SimpleITK'] = None\nfrom pathlib import Path\nimport ssmtl_formats as formats\n"
    code += "for reader, name in ((formats.Nrrd(), 'a.nrrd'), (formats.MetaImage(), 'a.mhd')):\n"
    code += "  path = Path(sys.argv[1]) / name\n  print(len(reader.files(path)))\n"
    code += "  try: reader.read(path)\n  except Exception as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    said = "for which SimpleITK is needed: pip install 'ssmtl-toolkit[formats]'"
    assert done.stdout.splitlines() == [
        *("1", f"{tmp_path / 'a.nrrd'}: is NRRD, {said}"),
        *("2", f"{tmp_path / 'a.mhd'}: is MetaImage, {said}"),
    ]


# ---- MGH ----


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
@pytest.mark.parametrize("kind", ["uint8", "int16", "int32", "float32"])
def test_mgh_is_read_as_nibabel_wrote_it(tmp_path, name, kind):
    voxels = (VOXELS % 100).astype(kind)
    nib.save(nib.MGHImage(voxels, AFFINE), tmp_path / name)
    volume = Mgh().read(tmp_path / name)
    same(volume, voxels)
    assert volume.notes == ()


def test_mgh_of_several_frames_wants_to_know_which_and_damage_is_refused(tmp_path):
    nib.save(nib.MGHImage(np.stack([VOXELS, VOXELS + 5], axis=3), AFFINE), tmp_path / "a.mgz")
    assert "is 4-D with 2 volumes" in refused(tmp_path / "a.mgz")
    same(Mgh().read(tmp_path / "a.mgz", 1), VOXELS + 5)
    whole = (tmp_path / "a.mgz").read_bytes()
    (tmp_path / "a.mgz").write_bytes(whole[:-9])
    assert "is damaged or cut short" in refused(tmp_path / "a.mgz", 0)
    (tmp_path / "a.mgh").write_bytes(gzip.decompress(whole)[:2000])
    assert "is cut short, or its header lies" in refused(tmp_path / "a.mgh", 0)


# ---- PNG slices ----


MANY = (np.arange(20 * 24 * 12).reshape(20, 24, 12) * 11 % 65536).astype(np.uint16)


def write_slices(folder: Path, voxels: np.ndarray = MANY, name: str = "slice{}.png") -> Path:
    """Write columns x rows x slices as PNG, slice 0 first by natural order."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(voxels.shape[2]):
        Image.fromarray(np.ascontiguousarray(voxels[..., k].T)).save(folder / name.format(k))
    return folder


def test_png_slices_are_in_natural_order_with_what_is_beside_them_said(tmp_path):
    folder = write_slices(tmp_path / "scan", MANY)
    volume = Slices().read(folder)
    same(volume, MANY, np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert "PNG has no positions: read as axial, 1 mm apart" in volume.notes[0]
    (folder / "slices.toml").write_text('spacing = [3.0, 0.7, 0.8]\naxis = "sagittal"\n')
    volume = Slices().read(folder)
    assert volume.spacing == (0.8, 0.7, 3.0)
    assert nib.aff2axcodes(volume.affine) == ("P", "I", "L")
    assert volume.axis("acquisition") == "sagittal"
    assert volume.notes == ()
    assert folder / "slices.toml" in Slices().files(folder)
    (folder / "slices.toml").write_text("spacing = [3.0, 0.7]\n")
    with pytest.raises(DataError, match=r"slices\.toml: spacing\.2: Field required; expected spacing = \[slices, rows"):
        Slices().read(folder)


def test_gray_is_what_all_colours_agree_on(tmp_path):
    gray = (MANY % 256).astype(np.uint8)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    same(Slices().read(write_slices(tmp_path / "gray", gray)), gray, affine)
    rgb = tmp_path / "rgb"
    rgb.mkdir()
    for k in range(12):
        Image.fromarray(gray[..., k].T).convert("RGB" if k % 2 else "RGBA").save(rgb / f"{k}.png")
    same(Slices().read(rgb), gray, affine)
    one = np.asarray(Image.open(rgb / "4.png")).copy()
    one[5, 5, 0] ^= 1
    Image.fromarray(one).save(rgb / "4.png")
    with pytest.raises(DataError, match=r"4\.png: has colours; a slice has one value per pixel"):
        Slices().read(rgb)


def test_colours_are_channels_if_slices_toml_says_so(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (9, 7, 4, 3), np.uint8)
    for k in range(4):
        Image.fromarray(colours[:, :, k].swapaxes(0, 1)).save(tmp_path / f"{k}.png")
    with pytest.raises(DataError, match=r"has colours.*set colours = true"):
        Slices().parts(tmp_path)
    (tmp_path / "slices.toml").write_text("colours = true\nspacing = [2.0, 1.0, 1.0]")
    assert Slices().parts(tmp_path) == {"": tmp_path}
    assert np.array_equal(Slices().read(tmp_path).array, colours)
    Image.fromarray(colours[:, :, 0, 0].T).save(tmp_path / "2.png")
    with pytest.raises(DataError, match=r"2\.png: has no colours, and slices\.toml says"):
        Slices().read(tmp_path)


def test_few_bits_and_palettes_give_the_values_as_stored(tmp_path):
    labels = (MANY % 4).astype(np.uint8)
    for bits in (2, 4, 8):
        folder = tmp_path / f"palette{bits}"
        folder.mkdir()
        for k in range(12):
            made = Image.fromarray(labels[..., k].T, "P")
            made.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
            made.save(folder / f"{k}.png", bits=bits)
        volume = Slices().read(folder)
        assert np.array_equal(volume.array, labels)
        assert "coloured palette" in volume.notes[1]
    folder = tmp_path / "bits"
    folder.mkdir()
    for k in range(12):
        Image.fromarray(labels[..., k].T > 1).save(folder / f"{k}.png")
    assert np.array_equal(Slices().read(folder).array, labels > 1)


def test_slices_that_do_not_fit_are_refused(tmp_path):
    folder = write_slices(tmp_path / "scan", MANY)
    Image.fromarray(MANY[:10, :, 0].T).save(folder / "slice3.png")
    assert "has slices of different sizes: slice3.png has 10 x 24 pixels, slice0.png 20 x 24" in refused(folder)
    (folder / "slice3.png").write_bytes((folder / "slice4.png").read_bytes()[:-60])
    with pytest.raises(DataError, match=r"slice3\.png: is damaged or not a PNG"):
        installed_readers().read(folder)


def test_pictures_beside_scans_or_a_prediction_are_no_scans(tmp_path):
    write_scan(tmp_path / "a" / "p1.nii.gz")
    write_slices(tmp_path / "a")
    write_slices(tmp_path / "b")
    (tmp_path / "b" / "prediction.json").write_text("{}")
    write_slices(tmp_path / "c", MANY[..., :1])
    write_slices(tmp_path / "d")
    assert [scan.name for scan in list_scans(dataset_of(str(tmp_path)), tmp_path)] == ["a/p1", "d"]


def test_figures_and_screenshots_are_left_out_instead_of_stopping(tmp_path):
    write_slices(tmp_path / "figures", MANY[..., :3])
    Image.fromarray(MANY[:9, :, 0].T).save(tmp_path / "figures" / "other.png")
    (tmp_path / "shots").mkdir()
    for k in range(3):
        Image.fromarray(np.full((9, 9, 3), [10, 20, 30], np.uint8)).save(tmp_path / "shots" / f"{k}.png")
    write_scan(tmp_path / "p1.nii.gz")
    scans = list_scans(dataset_of(str(tmp_path)), tmp_path)
    assert [(scan.name, scan.unfit.rpartition(": ")[2]) for scan in scans] == [
        ("figures", "not the slices of a scan"),
        ("p1", ""),
        ("shots", "save it as gray, or set colours = true in slices.toml"),
    ]


def test_images_and_labels_may_be_folders_of_slices_and_other_formats(tmp_path):
    write_slices(tmp_path / "images" / "p1.3", MANY)
    write_slices(tmp_path / "labels" / "p1.3", (MANY % 3).astype(np.uint8))
    write_series(tmp_path / "images" / "p2")
    write_itk(tmp_path / "labels" / "p2.nrrd", (VOXELS % 3).astype(np.uint8))
    scans = list_scans(dataset_of(str(tmp_path)), tmp_path)
    assert [(scan.name, scan.label and scan.label.name) for scan in scans] == [("p1.3", "p1.3"), ("p2", "p2.nrrd")]
    write_slices(tmp_path / "images")
    with pytest.raises(
        DataError, match=r"holds slices; put those of each scan into a folder of its own, .*images/CASE/"
    ):
        list_scans(dataset_of(str(tmp_path)), tmp_path)


# ---- whole commands ----


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_nnunet_and_decathlon_folders_may_have_these_formats(tmp_path, ending):
    for case in ("a", "b"):
        write_itk(tmp_path / "imagesTr" / f"{case}_0000{ending}")
        write_itk(tmp_path / "labelsTr" / f"{case}{ending}", (VOXELS % 2).astype(np.uint8))
    said: dict[str, Any] = {"file_ending": ending, "channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(said))
    scans = list_scans(dataset_of(str(tmp_path)), tmp_path)
    assert [(scan.name, scan.label and scan.label.name) for scan in scans] == [("a", f"a{ending}"), ("b", f"b{ending}")]
    listed = [{"image": f"./imagesTr/{c}_0000{ending}", "label": f"./labelsTr/{c}{ending}"} for c in "ab"]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": listed, "modality": {"0": "CT"}}))
    assert [scan.name for scan in list_scans(dataset_of(str(tmp_path)), tmp_path)] == ["a_0000", "b_0000"]
    (tmp_path / "dataset.json").write_text(json.dumps({**said, "file_ending": ".tif"}))
    with pytest.raises(DataError, match=r"its files end in '\.tif', and there is no reader for these"):
        list_scans(dataset_of(str(tmp_path)), tmp_path)


@pytest.mark.slow
def test_a_model_is_trained_used_and_scored_on_dicom_with_labels_in_another_order(tmp_path, ssmtl):
    """Labels as dcm2niix would store them, rows from front to back: the reverse of DICOM's own order."""
    data = tmp_path / "data"
    for i in range(3):
        image, label = ball(10, seed=i)
        write_series(data / "images" / f"p{i}", image.astype(np.int16), AFFINE)
        flipped = AFFINE @ np.array([[1.0, 0, 0, 0], [0, -1, 0, 31], [0, 0, 1, 0], [0, 0, 0, 1]])
        (data / "labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(label[:, ::-1], flipped), data / "labels" / f"p{i}.nii.gz")
    steps = ("--size", 32, "--steps", 3, "--backbone", SMALL, "--task", "reconstruct_next:t=1")
    done = [
        ssmtl("run", "--data", "data", *steps, "--out", "pre"),
        ssmtl("finetune", "--from", "pre", "--data", "data", "--steps", 3, "--test-scans", 1, "--out", "tuned"),
        ssmtl("predict", "--from", "tuned", "data/images", "--out", "pred", "--overlay"),
        ssmtl("evaluate", "--pred", "pred", "--label", "data/labels", "--no-surface", "--json"),
    ]
    assert [one.returncode for one in done] == [0, 0, 0, 0], [one.stderr for one in done]
    assert json.loads(done[3].stdout)["unpaired"] == {"predictions": 0, "labels": 0}
    written = nib.load(tmp_path / "pred" / "p1.nii.gz")
    assert np.abs(written.affine - AFFINE).max() < 1e-3
    assert written.shape == (32, 32, 10)
    perfect = ssmtl("evaluate", "--pred", "data/labels", "--label", "data/labels", "--no-surface", "--json")
    assert perfect.returncode == 0
    assert [scan.name for scan in list_scans(dataset_of(str(tmp_path / "pred")), tmp_path)] == [
        "p0",
        "p1",
        "p2",
    ]


def test_a_turned_label_map_scores_as_the_one_in_place(tmp_path, ssmtl):
    _, label = ball(10, seed=1)
    nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / "label.nii.gz")
    turned = nib.Nifti1Image(label, AFFINE).as_reoriented(np.array([[2, 1], [0, -1], [1, -1]]))
    nib.save(turned, tmp_path / "pred.nii.gz")
    assert turned.shape != label.shape
    done = ssmtl("evaluate", "--pred", "pred.nii.gz", "--label", "label.nii.gz", "--no-surface", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert '"dice": 1.0' in json.dumps(found)


# ---- every odd file ----


def fingerprint(volume: Volume) -> Any:
    array = volume.array.astype(float)
    weights = np.abs(array)
    centre = [np.average(np.arange(n), weights=weights.sum(tuple({0, 1, 2} - {i}))) for i, n in enumerate(array.shape)]
    return volume.spacing, array[..., 0].mean(), array[..., -1].mean(), centre


@pytest.fixture
def odd() -> Path:
    folder = shared_data() / "odd"
    if not folder.is_dir():
        pytest.skip("the real data is not here; set SSMTL_TEST_DATA")
    return folder


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_read_right_or_refused_in_one_line(odd, name):
    expected, path = ODD[name], odd / name
    if isinstance(expected, str):
        assert refused(path).startswith(expected)
        return
    volume = installed_readers().read(path, 0)
    assert volume.array.shape == expected[0]
    spacing, first, last, centre = fingerprint(volume)
    assert spacing == pytest.approx(expected[1], abs=6e-4)
    assert [first, last] == pytest.approx(expected[2:4], abs=6e-4)
    assert centre == pytest.approx(expected[4], abs=6e-3)


def test_every_odd_file_is_in_the_table(odd):
    files = {str(f.relative_to(odd)) for f in odd.rglob("*") if f.is_file() and f.name != "README.md"}
    dicom = "totalsegmentator_tests/example_ct_dicom"
    assert {dicom if name.startswith(dicom) else name for name in files} == set(ODD)


def test_images_and_labels_without_each_other_are_told(odd, tmp_path):
    scans = list_scans(dataset_of(str(odd / "unpaired_hippocampus")), tmp_path)
    assert [(scan.name, scan.label, bool(scan.unfit)) for scan in scans] == [
        ("hippocampus_118", None, False),
        ("hippocampus_010", None, True),
        ("hippocampus_281", None, True),
    ]


def test_the_real_dicom_series_lies_where_its_label_map_lies(odd):
    """A label map made by others from the same series: a wrong order or flip of slices would put it elsewhere."""
    from ssmtl_toolkit.data.grid import check_grid, turned

    folder = odd / "totalsegmentator_tests"
    scan = installed_readers().read(folder / "example_ct_dicom")
    label = turned(installed_readers().read(folder / "example_seg_dicom.nii.gz"), scan)
    assert check_grid(scan, label, "x") is None
    inside = scan.array[label.array > 0]
    assert np.median(inside) > 0 > np.median(scan.array[label.array == 0])
    bone = installed_readers().read(folder / "example_seg_dicom.nii.gz").array[:, ::-1]
    assert np.median(inside) > np.median(scan.array[bone == 0])


# ---- damage ----


def _damaged(whole: bytes, seed: int) -> bytes:
    """Cut at a random place, or change some bytes."""
    rng = random.Random(seed)
    if seed % 2:
        return whole[: rng.randrange(len(whole))]
    data = bytearray(whole)
    for _ in range(rng.randrange(1, 6)):
        data[rng.randrange(min(len(data), 4000) if seed % 4 else len(data))] = rng.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("name", ["a.nrrd", "p.nrrd", "a.mha", "p.mha", "a.mgh", "a.mgz", "rle", "plain", "png"])
def test_damage_is_refused_in_one_line_or_does_not_matter(tmp_path, name, capfd):
    small = (VOXELS[..., :4] % 100).astype(np.uint8)
    if name in ("rle", "plain"):
        folder = write_series(tmp_path / "scan", small, change=as_rle if name == "rle" else lambda data, k: data)
        target, path = folder / "IM2", folder
    elif name == "png":
        folder = write_slices(tmp_path / "scan", small)
        target, path = folder / "slice2.png", folder
    else:
        target = path = tmp_path / name
        if ".mg" in name:
            nib.save(nib.MGHImage(small, AFFINE), path)
        else:
            write_itk(path, small, packed=name.startswith("p"))
    whole = target.read_bytes()
    outcomes: set[str] = set()
    for seed in range(60):
        target.write_bytes(_damaged(whole, seed))
        reader = installed_readers().match(path)
        if reader is None:
            continue
        reader.files(path)
        try:
            reader.parts(path)
            assert reader.read(path).array.shape != ()
            said = ""
        except DataError as error:
            said = str(error)
        assert "\n" not in said
        assert said == "" or said.startswith(str(tmp_path))
        outcomes.add(said)
    assert len(outcomes) > 2
    assert capfd.readouterr() == ("", "")

"""Names of patients in the text fields of headers get into no output and no file."""

import gzip
import struct
from importlib.util import find_spec

import nibabel as nib
import numpy as np
import pytest

from helpers.dicom_files import write_series
from helpers.small import ball, blobs
from helpers.tried import COMPARED, EXPERIMENT, MIXES

NAME = "Mustermann-Geheim"
NETWORK = ("--backbone", "unet:encoder=plain,width=4", "--size", 32)
TRACKERS = ("csv", "tensorboard", *(name for name in ("wandb", "mlflow", "trackio") if find_spec(name)))
TRACK = tuple(word for name in TRACKERS for word in ("--track", name))
TRAIN = (*NETWORK, "--steps", 2, "--batch-size", 4)
AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])
NRRD = (
    f"NRRD0005\n# {NAME}\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 24 24 12\n"
    f"space directions: (1,0,0) (0,1,0) (0,0,2)\nendian: little\nencoding: raw\ncontent: {NAME}\n"
    f"space origin: (0,0,0)\nPatientName:={NAME}\n\n"
)
MHA = (
    f"ObjectType = Image\nNDims = 3\nName = {NAME}\nComment = {NAME}\nPatientName = {NAME}\nBinaryData = True\n"
    f"BinaryDataByteOrderMSB = False\nCompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
    f"ElementSpacing = 1 1 2\nDimSize = 24 24 12\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)


def of_a_patient(data, k):
    for field in ("PatientName", "PatientID", "SeriesDescription", "StudyDescription", "ImageComments", "ProtocolName"):
        setattr(data, field, NAME)
    data.private_block(0x0029, NAME, create=True).add_new(1, "LO", NAME)
    return data


def nifti(file, voxels):
    image = nib.Nifti1Image(voxels, AFFINE)
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[field] = NAME[:15].encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", NAME.encode()))
    nib.save(image, file)


def mgh(file, voxels):
    """With tags behind the voxels, as FreeSurfer writes command lines and names of subjects."""
    nib.save(nib.MGHImage(voxels, AFFINE), file)
    tag = f"mri_convert --subject {NAME}\0".encode()
    with file.open("ab") as stream:
        stream.write(struct.pack(">iq", 3, len(tag)) + tag)


def write_all(folder, seed, labels=False):
    """A scan in each format, with a name in each text field; or the label maps of them all."""
    folder.mkdir(parents=True, exist_ok=True)
    image, label = zip(*(ball(12, seed + i, size=24) for i in range(6)), strict=True)
    voxels = label if labels else [one.astype(np.int16) for one in image]
    nifti(folder / "a.nii.gz", voxels[0])
    nrrd, mha = (NRRD, MHA) if not labels else (NRRD.replace("short", "uint8"), MHA.replace("MET_SHORT", "MET_UCHAR"))
    (folder / "b.nrrd").write_bytes(nrrd.encode() + voxels[1].T.tobytes())
    (folder / "c.mha").write_bytes(mha.encode() + voxels[2].T.tobytes())
    mgh(folder / "d.mgh", voxels[3])
    nifti(folder / "e.nii", voxels[4])


def check(ssmtl, tmp_path, commands, least):
    for command in commands:
        done = ssmtl(*command)
        assert done.returncode == 0, done.stderr
        assert "Mustermann" not in done.stdout + done.stderr
    inputs = [tmp_path / "scans", tmp_path / "labelled"]
    files = [p for p in tmp_path.rglob("*") if p.is_file() and not any(p.is_relative_to(one) for one in inputs)]
    assert len(files) > least
    assert not [path for path in files if "Mustermann" in str(path) or b"Mustermann" in unpacked(path)]
    return files


def unpacked(file):
    content = file.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def test_names_in_headers_are_in_no_output_and_no_file(ssmtl, tmp_path):
    write_all(tmp_path / "scans", seed=0)
    write_series(tmp_path / "scans" / "series", blobs(12, seed=1), AFFINE, of_a_patient)
    commands = (
        ["data", "info", "scans", "--deep", "--json"],
        ["run", "--data", "scans", *TRAIN, *TRACK, "--out", "run"],
        ["report", "run"],
        ["export", "run", "--to", "torch"],
    )
    check(ssmtl, tmp_path, commands, least=10)


def test_names_in_headers_are_in_no_result_of_what_is_done_with_labels(ssmtl, tmp_path):
    write_all(tmp_path / "labelled" / "images", seed=0)
    write_all(tmp_path / "labelled" / "labels", seed=0, labels=True)
    write_all(tmp_path / "scans", seed=9)
    write_series(tmp_path / "scans" / "series", blobs(12, seed=1), AFFINE, of_a_patient)
    tune = ["--steps", 2, "--batch-size", 2, "--train-scans", 2, "--test-scans", 2, "--no-surface", "--report"]
    commands = (
        ["finetune", "--data", "labelled", *NETWORK, *tune, *TRACK, "--out", "ft"],
        ["report", "ft"],
        ["predict", "--from", "ft", "scans", "-o", "pred", "--overlay", "--probabilities"],
        ["predict", "--from", "ft", "labelled/images", "-o", "again"],
        ["evaluate", "--pred", "again", "--label", "labelled/labels", "--csv", "scores.csv", "--overlay", "pictures"],
        ["export", "ft", "--to", "torch"],
    )
    files = check(ssmtl, tmp_path, commands, least=20)
    assert {path.name.partition(".")[2] for path in files if path.is_relative_to(tmp_path / "pred")} >= {"nii.gz"}


@pytest.mark.slow
def test_names_in_headers_are_in_no_report_of_comparisons_and_no_table_of_slices(ssmtl, tmp_path, monkeypatch):
    monkeypatch.setenv("SSMTL_REPORT", "1")
    write_all(tmp_path / "labelled" / "images", seed=0)
    write_all(tmp_path / "labelled" / "labels", seed=0, labels=True)
    write_all(tmp_path / "scans", seed=9)
    write_series(tmp_path / "scans" / "series", blobs(12, seed=1), AFFINE, of_a_patient)
    (tmp_path / "experiment.toml").write_text(EXPERIMENT)
    commands = (
        ["data", "info", "labelled"],
        ["data", "prepare", "scans", "--size", 32],
        ["data", "split", "labelled", "--test-scans", 1, "--out", "split.json"],
        ["experiment", "experiment.toml", "--data", "labelled", "--out", "rows"],
        ["fewshot", "labelled", "--method", "ssmtl", "--t", 1, *COMPARED.split(), "--out", "few"],
        ["affinity", "labelled", *MIXES.split(), *COMPARED.split(), "--out", "mixes"],
    )
    check(ssmtl, tmp_path, commands, least=40)
    (run,) = (tmp_path / "rows" / "pretrain").iterdir()
    commands = [["data", "suggest", "scans", "--from", run, "--slices", 3, "--out", "suggested.csv"]]
    files = check(ssmtl, tmp_path, commands, least=40)
    assert {".html", ".json", ".md", ".png", ".csv"} <= {path.suffix for path in files}


def bad_series(folder, **fields):
    def change(data, k):
        for field, value in fields.items():
            setattr(data, field, value)
        return of_a_patient(data, k)

    return write_series(folder, blobs(6, seed=1), AFFINE, change)


def edited(folder, change):
    file = bad_series(folder) / "IM3"
    file.write_bytes(change(file.read_bytes()))


def instead(content, tag, value):
    """The value of an element, explicit little endian, replaced by as many bytes of another."""
    at = content.index(tag)
    length = struct.unpack("<H", content[at + 6 : at + 8])[0]
    return content[: at + 8] + (value.encode() * 9)[:length] + content[at + 8 + length :]


@pytest.mark.filterwarnings("ignore")  # of pydicom, which writes what is bad
def test_names_in_the_headers_of_scans_that_cannot_be_read_are_in_no_message(ssmtl, tmp_path):
    bad = tmp_path / "bad"
    for field in ("SpecificCharacterSet", "PhotometricInterpretation", "SeriesInstanceUID", "PatientPosition"):
        bad_series(bad / field, **{field: NAME})
    edited(bad / "cut", lambda content: content[: len(content) // 2])
    edited(bad / "cut-header", lambda content: content[: content.index(b"PN") + 12])
    edited(bad / "number", lambda content: content.replace(b"\x10\0\x10\0PN", b"\x10\0\x10\0DS"))
    edited(bad / "charset", lambda content: content.replace(NAME.encode(), NAME.encode()[:-2] + b"\xff\xfe"))
    tags = {"spacing": b"\x28\0\x30\0DS", "position": b"\x20\0\x32\0DS", "orientation": b"\x20\0\x37\0DS"}
    for name, tag in tags.items():
        edited(bad / name, lambda content, tag=tag: instead(content, tag, NAME))
    for i, field in enumerate(("type: short", "sizes: 24 24 12", "encoding: raw", "endian: little", "dimension: 3")):
        for j, broken in enumerate((f"{field.partition(':')[0]}: {NAME}", f"{NAME}: 1", NAME)):
            (bad / f"{i}{j}.nrrd").write_bytes(NRRD.replace(field, broken).encode() + bytes(24 * 24 * 24))
    for i, field in enumerate(("MET_SHORT", "24 24 12", "1 1 2", "NDims = 3", "CompressedData = False", "Image\n")):
        broken = f"{field.partition(' = ')[0]} = {NAME}" if " = " in field else NAME
        (bad / f"{i}.mha").write_bytes(MHA.replace(field, broken).encode() + bytes(24 * 24 * 24))
    write_all(bad / "whole", seed=0)
    for file in (bad / "whole").iterdir():
        (bad / f"cut-{file.name}").write_bytes(file.read_bytes()[:200])
    for command in (["data", "info", "bad", "--deep", "--json"], ["run", "--data", "bad", *TRAIN, "--out", "run"]):
        done = ssmtl(*command)
        assert done.returncode == 3, done.stderr
        assert f"{bad.name}/" in done.stdout + done.stderr
        assert "Mustermann" not in done.stdout + done.stderr

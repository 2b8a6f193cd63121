"""Names of patients in the text fields of headers get into no output and no file."""

import nibabel as nib
import numpy as np

from helpers.dicom_files import write_series
from helpers.small import blobs

NAME = "Mustermann-Geheim"
AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])
NRRD = (
    f"NRRD0005\n# {NAME}\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 24 20 12\n"
    f"space directions: (1,0,0) (0,1,0) (0,0,2)\nendian: little\nencoding: raw\ncontent: {NAME}\n"
    f"space origin: (0,0,0)\nPatientName:={NAME}\n\n"
)
MHA = (
    f"ObjectType = Image\nNDims = 3\nName = {NAME}\nComment = {NAME}\nPatientName = {NAME}\nBinaryData = True\n"
    f"BinaryDataByteOrderMSB = False\nCompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\n"
    f"ElementSpacing = 1 1 2\nDimSize = 24 20 12\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)


def of_a_patient(data, k):
    for field in ("PatientName", "PatientID", "SeriesDescription", "StudyDescription", "ImageComments", "ProtocolName"):
        setattr(data, field, NAME)
    data.private_block(0x0029, NAME, create=True).add_new(1, "LO", NAME)
    return data


def test_names_in_headers_are_in_no_output_and_no_file(ssmtl, tmp_path):
    folder = tmp_path / "scans"
    image = nib.Nifti1Image(blobs(12), AFFINE)
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[field] = NAME[:15].encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", NAME.encode()))
    write_series(folder / "series", blobs(12, seed=1), AFFINE, of_a_patient)
    nib.save(image, folder / "a.nii.gz")
    (folder / "b.nrrd").write_bytes(NRRD.encode() + blobs(12, seed=2).T.astype("<i2").tobytes())
    (folder / "c.mha").write_bytes(MHA.encode() + blobs(12, seed=3).T.astype("<i2").tobytes())
    train = ["--backbone", "unet:encoder=plain,width=4", "--size", 32, "--steps", 2, "--batch-size", 4, "--out", "run"]
    for command in (
        ["data", "info", "scans", "--deep", "--json"],
        ["run", "--data", "scans", *train],
        ["report", "run"],
        ["export", "run", "--to", "torch"],
    ):
        done = ssmtl(*command)
        assert done.returncode == 0, done.stderr
        assert "Mustermann" not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(folder)]
    assert len(files) > 10
    assert not [path for path in files if b"Mustermann" in path.read_bytes() or "Mustermann" in str(path)]

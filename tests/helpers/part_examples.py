"""For each bundled reader and dataset something to try it on, written below a folder."""

import nibabel as nib
import numpy as np
import SimpleITK
from PIL import Image

from helpers.dicom_files import AFFINE as OBLIQUE
from helpers.dicom_files import VOXELS, write_series
from helpers.label_files import rtstruct, sources, write_seg
from helpers.small import write_pair, write_scan
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import DatasetSpec

RNG = np.random.default_rng(0)
ARRAY = RNG.normal(size=(9, 8, 7)).astype("f4")
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def nifti(folder):
    nib.save(nib.Nifti1Image(ARRAY, AFFINE), folder / "x.nii.gz")
    return folder / "x.nii.gz"


def mgh(folder):
    nib.save(nib.MGHImage(ARRAY, AFFINE), folder / "x.mgz")
    return folder / "x.mgz"


def itk(suffix):
    def write(folder):
        image = SimpleITK.GetImageFromArray(ARRAY)
        image.SetSpacing((1.0, 1.0, 2.0))
        SimpleITK.WriteImage(image, str(folder / f"x.{suffix}"))
        return folder / f"x.{suffix}"

    return write


def dicom(folder):
    write_series(folder / "series")
    return folder / "series"


def dicom_seg(folder):
    masks = np.zeros((*VOXELS.shape, 2), np.uint8)
    masks[3:9, 4:9, 2:5, 0], masks[12:15, 4:9, 3, 1] = 1, 1
    return write_seg(folder / "seg.dcm", sources(), masks, ["liver", "tumour"]), _scan()


def structures(folder):
    square = np.array([[3.4, 4.4, 2], [9.4, 4.4, 2], [9.4, 9.4, 2], [3.4, 9.4, 2]])
    return rtstruct(
        folder / "rs.dcm", {"liver": [square, square + np.array([0, 0, 1])], "tumour": [square / [2, 2, 1]]}
    ), _scan()


def _scan():
    return Volume(VOXELS, OBLIQUE, tuple(np.linalg.norm(OBLIQUE[:3, :3], axis=0).tolist()))


def slices(folder):
    (folder / "png").mkdir()
    for i in range(4):
        Image.fromarray(RNG.integers(0, 255, (9, 8), dtype=np.uint8)).save(folder / "png" / f"slice{i}.png")
    return folder / "png"


def dataset(text):
    """A function that writes two labelled scans, a manifest and a BIDS tree below a folder, and gives the dataset."""

    def write(folder):
        for name in ("a", "b"):
            write_pair(folder / "pairs", name)
            write_scan(folder / "bids" / f"sub-{name}" / "anat" / f"sub-{name}_T1w.nii.gz")
            write_scan(folder / "mmwhs" / f"ct_train_100{'ab'.index(name)}_image.nii.gz")
        (folder / "scans.csv").write_text("image,label\npairs/images/a.nii.gz,pairs/labels/a.nii.gz\n")
        (folder / "bids" / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
        return registry().resolve(DatasetSpec, text.format(folder=folder))

    return write


EXAMPLES = {
    ("reader", "nifti"): nifti,
    ("reader", "mgh"): mgh,
    ("reader", "nrrd"): itk("nrrd"),
    ("reader", "metaimage"): itk("mha"),
    ("reader", "dicom"): dicom,
    ("reader", "dicom_seg"): dicom_seg,
    ("reader", "rtstruct"): structures,
    ("reader", "slices"): slices,
    ("dataset", "folder"): dataset("folder:{folder}/pairs"),
    ("dataset", "manifest"): dataset("manifest:{folder}/scans.csv"),
    ("dataset", "bids"): dataset("bids:{folder}/bids"),
    ("dataset", "mmwhs"): dataset("mmwhs:{folder}/mmwhs"),
    ("dataset", "phantom"): dataset("phantom:patients=1"),
}

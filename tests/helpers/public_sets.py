"""Public data sets as they are laid out when downloaded, as trees of tiny files, and what should be found in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK
from PIL import Image

from helpers.dicom_files import write_series

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])
SHAPE = (8, 9, 6)


@dataclass(frozen=True)
class Fake:
    """A data set: its images by patient, the label map of each (or masks), and what is neither.

    `classes` are some of those expected, by name and value; `words` begin what `DatasetSpec.layout` says.
    """

    words: str
    patients: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    more: tuple[str, ...] = ()

    @property
    def images(self) -> list[str]:
        """All images."""
        return sorted(image for images in self.patients.values() for image in images)

    def label_files(self, image: str) -> tuple[str, ...]:
        """What is read for the labels of an image."""
        label = self.labels.get(image, ())
        return (label,) if isinstance(label, str) else label

    def write(self, root: Path) -> Path:
        """Write all of it."""
        for seed, image in enumerate(self.images):
            write_image(root / image, seed)
            for number, label in enumerate(self.label_files(image), start=1):
                write_label(root / label, int(not isinstance(self.labels[image], str)) * number)
        for name in self.more:
            write_label(root / name, 1) if name.endswith((".nii.gz", ".nii", ".mha")) else touch(root / name)
        return root


def touch(file: Path) -> None:
    """Write something that is no scan."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("id,group\n")


def write_volume(file: Path, array: np.ndarray) -> None:
    """Write a volume in the format of its suffix."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, AFFINE), file)
    else:
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing((1.0, 1.0, 3.0))
        SimpleITK.WriteImage(image, str(file))


def write_image(file: Path, seed: int) -> None:
    """Write noise: a volume, or a DICOM series where the name has no suffix."""
    voxels = np.random.default_rng(seed).normal(100, 30, SHAPE).astype(np.int16)
    if "." in file.name:
        write_volume(file, voxels)
    else:
        write_series(file, voxels, AFFINE, name="IMG-{:04d}.dcm", series=seed + 1)


def write_label(file: Path, number: int) -> None:
    """Write a label map with the values 1 and 2 or, with a number, a mask: a slab at that place."""
    array = np.zeros(SHAPE, np.uint8)
    if number:
        array[number % 6 : number % 6 + 2] = 1
    else:
        array[2:4], array[4:6] = 1, 2
    if "." in file.name:
        write_volume(file, array)
        return
    file.mkdir(parents=True, exist_ok=True)
    for k in range(SHAPE[2]):
        Image.fromarray(array[..., k].T * 63).save(file / f"IMG-{k + 1:04d}.png")


def _brats(patient: str, ending: str, names: tuple[str, ...], separator: str) -> tuple[str, ...]:
    return tuple(f"{patient}/{patient}{separator}{name}{ending}" for name in names)


_NEW, _OLD = ("t1c", "t1n", "t2f", "t2w"), ("flair", "t1", "t1ce", "t2")
_GLI = {
    p: _brats(p, ".nii.gz", _NEW, "-") for p in ("BraTS-GLI-00000-000", "BraTS-GLI-00000-001", "BraTS-GLI-00002-000")
}
_B20 = {p: _brats(p, ".nii", _OLD, "_") for p in ("BraTS20_Training_001", "BraTS20_Training_355")}
_B18 = {p: _brats(p, ".nii.gz", _OLD, "_") for p in ("Brats18_2013_0_1", "Brats18_TCIA02_135_1")}
_B21 = {p: _brats(p, ".nii.gz", _OLD, "_") for p in ("BraTS2021_00000", "BraTS2021_00002")}


def _seg(cases: Mapping[str, tuple[str, ...]], name: str) -> dict[str, str]:
    return {image: f"{case}/{name.format(case)}" for case, images in cases.items() for image in images}


def _pairs(patients: Mapping[str, str], image: str, label: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Patients, and the label of each image, from patterns on the number of a case."""
    named = {patient: (image.format(number),) for patient, number in patients.items()}
    return named, {image.format(number): label.format(number) for number in patients.values()}


FAKES: dict[str, Fake] = {
    "ACDC": Fake(
        "ACDC, 2 patients",
        {
            f"patient00{i}": tuple(f"training/patient00{i}/patient00{i}_frame{k}.nii.gz" for k in ("01", "12"))
            for i in (1, 2)
        },
        {
            f"training/patient00{i}/patient00{i}_frame{k}.nii.gz": (
                f"training/patient00{i}/patient00{i}_frame{k}_gt.nii.gz"
            )
            for i in (1, 2)
            for k in ("01", "12")
        },
        {"RV": 1, "myocardium": 2, "LV": 3},
        ("training/patient001/Info.cfg", "training/patient001/patient001_4d.nii.gz"),
    ),
    "M&Ms": Fake(
        "M&Ms, 2 patients",
        *_pairs(
            {"A0S9V9": "A0S9V9", "B2C2Z7": "B2C2Z7"},
            "OpenDataset/Training/Labeled/{0}/{0}_sa.nii.gz",
            "OpenDataset/Training/Labeled/{0}/{0}_sa_gt.nii.gz",
        ),
        {"LV": 1, "myocardium": 2, "RV": 3},
        ("OpenDataset/211230_M&Ms_Dataset_information_diagnosis_opendataset.csv",),
    ),
    "M&Ms-2": Fake(
        "M&Ms-2, 1 patient",
        {"001": tuple(f"dataset/001/001_{view}_{t}.nii.gz" for view in ("LA", "SA") for t in ("ED", "ES"))},
        {
            f"dataset/001/001_{view}_{t}.nii.gz": f"dataset/001/001_{view}_{t}_gt.nii.gz"
            for view in ("LA", "SA")
            for t in ("ED", "ES")
        },
        {"LV": 1, "RV": 3},
        ("dataset/001/001_SA_CINE.nii.gz",),
    ),
    "Sunnybrook": Fake(
        "Sunnybrook Cardiac Data, 2 patients",
        {
            f"SCD0000{i}01": tuple(f"SCD_IMAGES_01/SCD0000{i}01/{series}" for series in ("CINELAX_301", "CINESAX_300"))
            for i in (1, 2)
        },
        more=("SCD_ManualContours/SC-HF-I-01/contours-manual/IRCCI-expert/IM-0001-0048-icontour-manual.txt",),
    ),
    "MM-WHS": Fake(
        "MM-WHS, 2 patients",
        *_pairs(
            {"ct_train_1001": "ct_train_1001", "mr_train_1001": "mr_train_1001"},
            "all/{}_image.nii.gz",
            "all/{}_label.nii.gz",
        ),
        {"LV": 500, "myocardium": 205},
    ),
    "BraTS 2023": Fake(
        "BraTS (2023 and later), 2 patients, contrasts t1c, t1n, t2f, t2w",
        {
            "BraTS-GLI-00000": (*_GLI["BraTS-GLI-00000-000"], *_GLI["BraTS-GLI-00000-001"]),
            "BraTS-GLI-00002": _GLI["BraTS-GLI-00002-000"],
        },
        _seg(_GLI, "{}-seg.nii.gz"),
        {"enhancing tumour": 3},
    ),
    "BraTS 2020": Fake(
        "BraTS (2017 to 2021), 2 patients",
        _B20,
        {
            **_seg({"BraTS20_Training_001": _B20["BraTS20_Training_001"]}, "{}_seg.nii"),
            **_seg({"BraTS20_Training_355": _B20["BraTS20_Training_355"]}, "W39_1998.09.19_Segm.nii"),
        },
        {"enhancing tumour": 4},
    ),
    "BraTS 2018": Fake("BraTS (2017 to 2021), 2 patients", _B18, _seg(_B18, "{}_seg.nii.gz"), {"oedema": 2}),
    "BraTS 2021": Fake("BraTS (2017 to 2021), 2 patients", _B21, _seg(_B21, "{}_seg.nii.gz"), {"oedema": 2}),
    "BraTS 2015": Fake(
        "Virtual Skeleton Database (BraTS 2013 to 2015, ISLES 2015 to 2017), 1 patient, contrasts Flair, T1",
        {
            "brats_tcia_pat105_1": tuple(
                f"HGG/brats_tcia_pat105_1/VSD.Brain.XX.O.MR_{c}.{n}/VSD.Brain.XX.O.MR_{c}.{n}.mha"
                for c, n in (("Flair", 35664), ("T1", 35666))
            )
        },
        {
            f"HGG/brats_tcia_pat105_1/VSD.Brain.XX.O.MR_{c}.{n}/VSD.Brain.XX.O.MR_{c}.{n}.mha": (
                "HGG/brats_tcia_pat105_1/VSD.Brain_3more.XX.XX.OT.42283/VSD.Brain_3more.XX.XX.OT.42283.mha"
            ).replace("XX.XX.OT", "XX.O.OT")
            for c, n in (("Flair", 35664), ("T1", 35666))
        },
    ),
    "ISLES 2022": Fake(
        "ISLES 2022, 1 patient, contrasts FLAIR, adc, dwi",
        {
            "sub-strokecase0001": (
                "sub-strokecase0001/ses-0001/anat/sub-strokecase0001_ses-0001_FLAIR.nii.gz",
                "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_adc.nii.gz",
                "sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz",
            )
        },
        {
            f"sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_{c}.nii.gz": (
                "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz"
            )
            for c in ("adc", "dwi")
        },
        {"infarct": 1},
    ),
    "KiTS23": Fake(
        "KiTS21, KiTS23, 2 patients",
        *_pairs(
            {"case_00000": "case_00000", "case_00400": "case_00400"},
            "dataset/{}/imaging.nii.gz",
            "dataset/{}/segmentation.nii.gz",
        ),
        {"kidney": 1, "tumour": 2, "cyst": 3},
        ("dataset/case_00000/instances/kidney_instance-1_annotation-1.nii.gz", "dataset/kits23.json"),
    ),
    "KiTS21": Fake(
        "KiTS21, KiTS23, 1 patient",
        *_pairs({"case_00000": "case_00000"}, "{}/imaging.nii.gz", "{}/aggregated_MAJ_seg.nii.gz"),
        {"cyst": 3},
        (
            "case_00000/aggregated_AND_seg.nii.gz",
            "case_00000/aggregated_OR_seg.nii.gz",
            "case_00000/segmentations/cyst_instance-1_annotation-1.nii.gz",
        ),
    ),
    "KiTS19": Fake(
        "KiTS19, 1 patient",
        *_pairs({"case_00000": "case_00000"}, "data/{}/imaging.nii.gz", "data/{}/segmentation.nii.gz"),
        {"kidney": 1, "tumour": 2},
    ),
    "CT-ORG": Fake(
        "CT-ORG, 2 patients",
        *_pairs({"0": "0", "1": "1"}, "volumes 0-49/volume-{}.nii.gz", "labels and README/labels-{}.nii.gz"),
        {"liver": 1, "brain": 6},
    ),
    "LiTS": Fake(
        "LiTS, 3 patients",
        {
            "0": ("Training Batch 1/volume-0.nii",),
            "28": ("Training Batch 2/volume-28.nii",),
            "test-volume-0": ("Test/test-volume-0.nii",),
        },
        {
            "Training Batch 1/volume-0.nii": "Training Batch 1/segmentation-0.nii",
            "Training Batch 2/volume-28.nii": "Training Batch 2/segmentation-28.nii",
        },
        {"liver": 1, "tumour": 2},
    ),
    "BTCV": Fake(
        "BTCV (Synapse, abdomen), 3 patients",
        {
            **_pairs({"0001": "0001", "0002": "0002"}, "RawData/Training/img/img{}.nii.gz", "")[0],
            "0061": ("RawData/Testing/img/img0061.nii.gz",),
            "0002": ("RawData/Training/img/img0002.nii.gz", "RegData/Training-Training/img/0001/img0002-0001.nii.gz"),
        },
        {
            "RegData/Training-Training/img/0001/img0002-0001.nii.gz": (
                "RegData/Training-Training/label/0001/label0002-0001.nii.gz"
            ),
            **_pairs(
                {"1": "0001", "2": "0002"}, "RawData/Training/img/img{}.nii.gz", "RawData/Training/label/label{}.nii.gz"
            )[1],
        },
        {"spleen": 1, "left adrenal gland": 13},
    ),
    "FLARE22": Fake(
        "FLARE22, 2 patients",
        *_pairs(
            {"FLARE22_Tr_0001": "FLARE22_Tr_0001", "FLARE22_Tr_0002": "FLARE22_Tr_0002"},
            "images/{}_0000.nii.gz",
            "labels/{}.nii.gz",
        ),
        {"liver": 1, "left kidney": 13},
    ),
    "CHAOS": Fake(
        "CHAOS, CT, 1 patient",
        {
            "CHAOS, CT CT/1": ("Train_Sets/CT/1/DICOM_anon",),
            "CHAOS, MR MR/1": (
                "Train_Sets/MR/1/T1DUAL/DICOM_anon/InPhase",
                "Train_Sets/MR/1/T1DUAL/DICOM_anon/OutPhase",
                "Train_Sets/MR/1/T2SPIR/DICOM_anon",
            ),
        },
        {
            "Train_Sets/CT/1/DICOM_anon": ("Train_Sets/CT/1/Ground",),
            "Train_Sets/MR/1/T1DUAL/DICOM_anon/InPhase": "Train_Sets/MR/1/T1DUAL/Ground",
            "Train_Sets/MR/1/T1DUAL/DICOM_anon/OutPhase": "Train_Sets/MR/1/T1DUAL/Ground",
            "Train_Sets/MR/1/T2SPIR/DICOM_anon": "Train_Sets/MR/1/T2SPIR/Ground",
        },
        {"liver": 63, "right kidney": 126, "left kidney": 189, "spleen": 252},
    ),
    "TotalSegmentator v2": Fake(
        "TotalSegmentator, 2 patients, one mask file per structure",
        {f"s000{i}": (f"s000{i}/ct.nii.gz",) for i in (0, 1)},
        {
            f"s000{i}/ct.nii.gz": tuple(
                f"s000{i}/segmentations/{name}.nii.gz" for name in ("aorta", "kidney_left", "liver")
            )
            for i in (0, 1)
        },
        {"aorta": 1, "kidney_left": 2, "liver": 3},
        ("meta.csv",),
    ),
    "VerSe": Fake(
        "VerSe, 2 patients",
        {
            "sub-verse004": ("rawdata/sub-verse004/sub-verse004_ct.nii.gz",),
            "sub-verse401": tuple(f"rawdata/sub-verse401/sub-verse401_split-verse{n}_ct.nii.gz" for n in (253, 254)),
        },
        {
            "rawdata/sub-verse004/sub-verse004_ct.nii.gz": "derivatives/sub-verse004/sub-verse004_seg-vert_msk.nii.gz",
            **{
                f"rawdata/sub-verse401/sub-verse401_split-verse{n}_ct.nii.gz": (
                    f"derivatives/sub-verse401/sub-verse401_split-verse{n}_seg-vert_msk.nii.gz"
                )
                for n in (253, 254)
            },
        },
        {"C1": 1, "T1": 8, "L1": 20, "T13": 28},
        ("derivatives/sub-verse004/sub-verse004_seg-subreg_ctd.json",),
    ),
    "PROMISE12": Fake(
        "PROMISE12, 2 patients",
        {  # the test set counts its patients from 0 again, without label maps
            "Case00": ("TestData/Case00.mhd", "TrainingData/Case00.mhd"),
            "Case01": ("TrainingData/Case01.mhd",),
        },
        {f"TrainingData/Case0{i}.mhd": f"TrainingData/Case0{i}_segmentation.mhd" for i in (0, 1)},
        {"prostate": 1},
    ),
    "SPIDER": Fake(
        "SPIDER, 2 patients, contrasts t1, t2, t2_SPACE",
        {
            "1": ("images/1_t1.mha", "images/1_t2.mha"),
            "2": ("images/2_t1.mha", "images/2_t2.mha", "images/2_t2_SPACE.mha"),
        },
        {f"images/{n}.mha": f"masks/{n}.mha" for n in ("1_t1", "1_t2", "2_t1", "2_t2", "2_t2_SPACE")},
        {"spinal canal": 100, "discs": 201},
        ("overview.csv",),
    ),
    "a mask for each structure": Fake(
        "a folder for each patient, a mask for each structure, 2 patients, one mask file per structure",
        {f"clinic/{n}": (f"clinic/{n}/CT.nrrd",) for n in ("anna", "berta")},
        {
            f"clinic/{name}/CT.nrrd": tuple(f"clinic/{name}/masks/{s}.nrrd" for s in ("heart", "lung"))
            for name in ("anna", "berta")
        },
        {"heart": 1, "lung": 2},
    ),
    "masks in a folder for each image": Fake(
        "a folder of images, a folder with a mask for each structure for each of them, 2 patients",
        {f"p{i}": (f"images/p{i}.nii.gz",) for i in (1, 2)},
        {f"images/p{i}.nii.gz": tuple(f"labels/p{i}/p{i}_{s}.nii.gz" for s in ("heart", "lung")) for i in (1, 2)},
        {"heart": 1, "lung": 2},
    ),
    "BIDS": Fake(
        "BIDS images, 2 patients, contrasts FLAIR, T1w, phasediff",
        {
            "sub-01": (
                "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
                "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
                "sub-01/ses-2/anat/sub-01_ses-2_run-1_T1w.nii.gz",
                "sub-01/ses-2/anat/sub-01_ses-2_run-2_T1w.nii.gz",
            ),
            "sub-02": ("sub-02/anat/sub-02_T1w.nii.gz", "sub-02/fmap/sub-02_phasediff.nii.gz"),
        },
        more=(
            "derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_label-L_mask.nii.gz",
            "derivatives/fmriprep/sub-02/anat/sub-02_space-MNI_desc-preproc_T1w.nii.gz",
            "sourcedata/sub-02/anat/sub-02_T1w.nii.gz",
            "participants.tsv",
        ),
    ),
    "a file for each contrast": Fake(
        "a folder for each patient, a file for each contrast, 2 patients, contrasts FLAIR, T1",
        {f"heads/p{i}": (f"heads/p{i}/p{i}_FLAIR.nii.gz", f"heads/p{i}/p{i}_T1.nii.gz") for i in (1, 2)},
        {f"heads/p{i}/p{i}_{c}.nii.gz": f"heads/p{i}/p{i}_seg.nii.gz" for i in (1, 2) for c in ("FLAIR", "T1")},
    ),
}

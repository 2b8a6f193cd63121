"""Label maps beside scans, in public data sets as they are downloaded: which files are scans, and whose they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.small import write_scan
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import Scan


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def listed(given: Path | str) -> list[Scan]:
    return list_scans(dataset_of(str(given)), Path("unused"))


def taken(root: Path) -> list[str]:
    return [str(scan.path.relative_to(root)) for scan in listed(root) if not scan.unfit]


LAYOUTS = {
    "PROMISE12": (["Case00.mhd", "Case01.mhd"], ["Case00_segmentation.mhd", "Case01_segmentation.mhd"]),
    "KiTS19": (["case_00000/imaging.nii.gz"], ["case_00000/segmentation.nii.gz"]),
    "KiTS23": (
        ["case_00000/imaging.nii.gz"],
        ["case_00000/segmentation.nii.gz", "case_00000/instances/kidney_instance-1_annotation-1.nii.gz"],
    ),
    "KiTS21": (
        ["case_00000/imaging.nii.gz"],
        ["case_00000/aggregated_MAJ_seg.nii.gz", "case_00000/segmentations/cyst_1.nii.gz"],
    ),
    "LiTS": (["Training Batch 1/volume-0.nii", "volume-1.nii"], ["Training Batch 1/segmentation-0.nii"]),
    "CT-ORG": (["volume-0.nii.gz"], ["labels-0.nii.gz"]),
    "BTCV": (["RawData/Training/img/img0001.nii.gz"], ["RawData/Training/label/label0001.nii.gz"]),
    "TotalSegmentator v1": (["s0000/ct.nii.gz"], ["s0000/segmentations/liver.nii.gz", "s0000/segmentations/ct.nii.gz"]),
    "TotalSegmentator MRI": (["s0001/mri.nii.gz"], ["s0001/segmentations/spleen.nii.gz"]),
    "VerSe": (
        ["rawdata/sub-verse004/sub-verse004_ct.nii.gz"],
        ["derivatives/sub-verse004/sub-verse004_seg-vert_msk.nii.gz"],
    ),
    "ACDC": (
        ["training/patient001/patient001_4d.nii.gz", "training/patient001/patient001_frame01.nii.gz"],
        ["training/patient001/patient001_frame01_gt.nii.gz"],
    ),
    "BraTS": (["BraTS-GLI-0/BraTS-GLI-0-t1n.nii.gz"], ["BraTS-GLI-0/BraTS-GLI-0-seg.nii.gz"]),
    "BraTS 2015": (
        ["brats_2013_pat0001_1/VSD.Brain.XX.O.MR_Flair.54512/VSD.Brain.XX.O.MR_Flair.54512.mha"],
        ["brats_2013_pat0001_1/VSD.Brain_3more.XX.O.OT.54517/VSD.Brain_3more.XX.O.OT.54517.mha"],
    ),
    "ISLES 2022": (
        ["rawdata/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_dwi.nii.gz"],
        ["derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz"],
    ),
    "ATLAS": (
        ["sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym_T1w.nii.gz"],
        ["sub-r001s001/ses-1/anat/sub-r001s001_ses-1_space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask.nii.gz"],
    ),
    "fMRIPrep": (
        ["sub-01/anat/sub-01_desc-preproc_T1w.nii.gz", "sub-01/func/sub-01_task-mask_boldref.nii.gz"],
        [
            "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
            "sub-01/anat/sub-01_dseg.nii.gz",
            "sub-01/anat/sub-01_label-GM_probseg.nii.gz",
            "sub-01/anat/sub-01_desc-aparcaseg_dseg.nii.gz",
        ],
    ),
    "FreeSurfer": (
        ["bert/mri/T1.mgz", "bert/mri/norm.mgz", "bert/mri/orig/001.mgz"],
        [
            "bert/mri/aseg.mgz",
            "bert/mri/aparc+aseg.mgz",
            "bert/mri/aparc.a2009s+aseg.mgz",
            "bert/mri/wmparc.mgz",
            "bert/mri/lh.ribbon.mgz",
            "bert/mri/brainmask.mgz",
            "bert/mri/filled.mgz",
        ],
    ),
    "MM-WHS": (["ct_train/ct_train_1001_image.nii.gz"], ["ct_train/ct_train_1001_label.nii.gz"]),
    "Prostate158": (
        ["train/020/adc.nii.gz", "train/020/t2.nii.gz"],
        ["train/020/t2_anatomy_reader1.nii.gz", "train/020/adc_tumor_reader1.nii.gz", "train/020/empty.nii.gz"],
    ),
    "several tasks of the Decathlon": (
        ["Task02_Heart/imagesTr/la_003.nii.gz", "Task02_Heart/imagesTs/la_001.nii.gz"],
        ["Task02_Heart/labelsTr/la_003.nii.gz"],
    ),
    "FLARE21": (["TrainingImg/train_000_0000.nii.gz"], ["TrainingMask/train_000.nii.gz"]),
    "COVID-19-CT-Seg": (
        ["COVID-19-CT-Seg_20cases/coronacases_001.nii.gz"],
        ["Lung_Mask/coronacases_001.nii.gz", "Lung_and_Infection_Mask/coronacases_001.nii.gz"],
    ),
    "LUNA16": (
        ["subset0/1.3.6.1.4.1.14519.5.2.1.6279.6001.1.mhd"],
        ["seg-lungs-LUNA16/1.3.6.1.4.1.14519.5.2.1.6279.6001.1.mhd"],
    ),
    "MSSEG": (["01/Preprocessed_Data/FLAIR.nii.gz"], ["01/Masks/Consensus.nii.gz", "01/ManualSegmentation_1.nii.gz"]),
    "WMH": (["Utrecht/0/pre/FLAIR.nii.gz"], ["Utrecht/0/wmh.nii.gz"]),
    "folders in other words": (
        ["a/ct/p1.nii.gz", "b/scan/p2.nii.gz"],
        [
            "a/ground_truth/p1.nii.gz",
            "a/GT/p1.nii.gz",
            "b/Annotations/x/p2.nii.gz",
            "b/lesions_mask/2.nii.gz",
            "b/ct_train_labels/p2.nii.gz",
        ],
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_of_a_public_data_set_as_downloaded_exactly_the_images_are_scans(tmp_path, name):
    images, labels = LAYOUTS[name]
    touch(tmp_path, *images, *labels)
    cine = [image for image in images if image.endswith("_4d.nii.gz")]
    assert sorted([*taken(tmp_path), *cine]) == sorted(images)
    reasons = {str(scan.path.relative_to(tmp_path)): scan.unfit for scan in listed(tmp_path) if scan.unfit}
    own = {str(path.relative_to(tmp_path)) for scan in listed(tmp_path) for path in scan.label_paths}
    assert sorted([*reasons, *own]) == sorted([*labels, *cine])
    assert all("a label map by its name" in reasons[label] for label in labels if label not in own)


def test_the_ground_truth_of_chaos_is_a_folder_of_pictures_and_no_scan(tmp_path):
    for place in ("1/T1DUAL/DICOM_anon/InPhase", "1/T1DUAL/Ground"):
        folder = tmp_path / "MR" / place
        folder.mkdir(parents=True)
        for k in range(4):
            pixels = np.random.default_rng(k).integers(0, 255, (16, 16), np.uint8)
            Image.fromarray(pixels).save(folder / f"IMG-0002-0000{k}.png")
    assert taken(tmp_path) == ["MR/1/T1DUAL/DICOM_anon/InPhase"]


@pytest.mark.parametrize(
    "name",
    [
        "Segal_001",
        "maskell-T1",
        "gtx1080_ct",
        "unlabelled_01",
        "segmented_lungs_ct",
        "maskit",
        "T1w_masked",
        "SegTHOR_001",
        "iSeg-2019_subject-1-T1",
        "Roi_Et_004",
        "GT_001_T1",
        "scan_without_mask",
        "sub-mask01_T1w",
        "sub-01_acq-seg_bold",
        "COVID-19-CT-Seg_20cases/coronacases_001",
        "SegTHOR/train/Patient_01/Patient_01",
        "Liver_Segmentation_2017/p1/ct",
        "scans_with_labels/p1",
        "ct_and_mask/p1",
        "unlabeled/p1",
        "roi/p1",
    ],
)
def test_a_scan_whose_name_only_resembles_that_of_a_label_map_is_a_scan(tmp_path, name):
    touch(tmp_path, f"{name}.nii.gz", "liver/p1/ct.nii.gz")
    assert f"{name}.nii.gz" in taken(tmp_path)


def test_a_label_map_that_is_given_itself_is_taken_as_the_user_says(tmp_path):
    touch(tmp_path, "x_label.nii.gz", "labels/a.nii.gz")
    assert [scan.unfit for scan in listed(tmp_path / "x_label.nii.gz")] == [""]
    assert taken(tmp_path / "labels") == ["a.nii.gz"]


def test_label_maps_among_the_images_are_no_scans_unless_all_are_called_so(tmp_path):
    touch(tmp_path, "a/images/p1.nii.gz", "a/images/p1_mask.nii.gz", "b/images/roi_1.nii.gz", "b/images/roi_2.nii.gz")
    assert taken(tmp_path / "a") == ["images/p1.nii.gz"]
    assert taken(tmp_path / "b") == ["images/roi_1.nii.gz", "images/roi_2.nii.gz"]


def pairs(given: Path | str) -> dict[str, str | None]:
    return {scan.name: scan.label.name if scan.label else None for scan in listed(given) if not scan.unfit}


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/{}_t2.mha", "masks/{}_t2.mha"),
        ("images/p{}.nrrd", "labels/p{}.seg.nrrd"),
        ("images/p{}.nii.gz", "segmentations/p{}_seg.nii.gz"),
        ("Images/p{}.nii.gz", "Labels/p{}.nii.gz"),
        ("Images/Case_N{}.nii.gz", "Contours/Case_N{}.nii.gz"),
        ("img/img000{}.nii.gz", "label/label000{}.nii.gz"),
        ("images/p{}/ct.nii.gz", "annotations/p{}/ct.nii.gz"),
        ("imagesTr/c_{}_0000.nii.gz", "labelsTr/c_{}.nii.gz"),
    ],
)
def test_label_maps_are_paired_from_where_people_put_them(tmp_path, image, label):
    touch(tmp_path, *(name.format(i) for name in (image, label) for i in (1, 2)))
    scans = [scan for scan in listed(tmp_path) if not scan.unfit]
    assert [(scan.path, scan.label) for scan in scans] == [
        (tmp_path / image.format(i), tmp_path / label.format(i)) for i in (1, 2)
    ]


def test_a_channel_is_chosen_where_images_are_numbered_and_label_maps_are_not(tmp_path):
    touch(tmp_path, *(f"imagesTr/c_{i}_000{k}.nii.gz" for i in (1, 2) for k in (0, 1)), "labelsTr/c_1.nii.gz")
    assert pairs(tmp_path) == {"c_1": "c_1.nii.gz", "c_2": None}
    assert [scan.path.name for scan in listed(f"folder:{tmp_path},channel=1") if not scan.unfit] == [
        "c_1_0001.nii.gz",
        "c_2_0001.nii.gz",
    ]
    (said,) = [scan.unfit for scan in listed(tmp_path) if scan.unfit]
    assert said.endswith(
        "imagesTr: has channels 0, 1; only 0 is used, channel=N chooses another, channel=all joins them"
    )
    with pytest.raises(DataError, match=r"imagesTr: has no channel 4 \(known: 0, 1\)"):
        listed(f"folder:{tmp_path},channel=4")


def test_two_label_maps_that_may_be_of_one_image_are_not_guessed_at(tmp_path):
    touch(tmp_path, "images/p1.nii.gz", "masks/p1_seg.nii.gz", "masks/p1_mask.nii.gz")
    assert pairs(tmp_path) == {"p1": None}
    assert len([scan for scan in listed(tmp_path) if "a label without an image of the same name" in scan.unfit]) == 2


def test_what_lies_beside_images_without_label_maps_is_named(tmp_path):
    touch(tmp_path, "images/p1.nii.gz", "marked/p1.nii.gz", "notes/readme.txt")
    (said,) = [scan.unfit for scan in listed(tmp_path) if scan.unfit]
    assert said.startswith(f"{tmp_path}/marked: is ignored because of images/ beside it")
    touch(tmp_path, "masks/p1.nii.gz", "segmentations/p1.nii.gz")
    assert any("masks/ and segmentations/ may hold the label maps" in scan.unfit for scan in listed(tmp_path))


def test_no_folder_of_nnunet_or_decathlon_without_dataset_json_is_said_to_be_ignored(tmp_path):
    touch(tmp_path, "imagesTr/c_1.nii.gz", "labelsTr/c_1.nii.gz", "imagesTs/c_2.nii.gz", "imagesVa/c_3.nii.gz")
    assert pairs(tmp_path) == {"c_1": "c_1.nii.gz", "c_2": None, "c_3": None}
    assert [scan.unfit for scan in listed(tmp_path) if scan.unfit] == []


def test_one_scan_in_two_suffixes_is_taken_once_and_the_other_listed(tmp_path):
    for layout in ("plain", "paired/images"):
        touch(tmp_path, f"{layout}/a.nii", f"{layout}/a.nii.gz", f"{layout}/b.nrrd", f"{layout}/s/b.nrrd")
        root = tmp_path / layout.partition("/")[0]
        scans = listed(root)
        assert [scan.name for scan in scans if not scan.unfit] == ["a", "b", "s/b"]
        (said,) = [scan.unfit for scan in scans if scan.unfit]
        assert "a.nii.gz: has the same name as a.nii beside it" in said
    touch(tmp_path, "paired/labels/a.nii", "paired/labels/a.nii.gz")
    assert pairs(tmp_path / "paired")["a"] == "a.nii"
    assert sum("labels/a.nii.gz: has the same name" in scan.unfit for scan in listed(tmp_path / "paired")) == 1


def test_a_run_on_scans_beside_their_masks_trains_on_the_scans_and_says_so(tmp_path, ssmtl):
    for case in ("volume-0", "volume-1", "segmentation-0", "segmentation-1"):
        write_scan(tmp_path / "lits" / f"{case}.nii.gz", seed=hash(case) % 99)
    options = ["--size", 32, "--steps", 1, "--backbone", "unet:encoder=plain,width=8", "--task", "reconstruct_next:t=1"]
    done = ssmtl("run", "--data", "lits", *options, "--out", "r", "--json")
    assert done.returncode == 0, done.stderr
    scans = json.loads(done.stdout)["scans"]
    assert scans["used"] == 2
    assert scans["skipped"] == []


def test_who_asks_for_labels_hears_what_lies_there_instead(tmp_path, ssmtl):
    touch(tmp_path, "set/a/p1.nii.gz", "set/a/p1_lung_mask.nii.gz")
    done = ssmtl("data", "split", "set", "--out", "s.json")
    assert done.returncode == 3
    assert "1 skipped, such as set/a/p1_lung_mask.nii.gz: a label map by its name" in " ".join(done.stderr.split())

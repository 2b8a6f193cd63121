"""Volumes in memory, of numpy, torch and MONAI, become data for every command, with the voxels and places they have."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd
from torch.utils.data import TensorDataset

import ssmtl_toolkit as ssmtl
from helpers.small import SMALL, write_pair
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.runtime.scans import default_cache, installed_readers, list_scans

VOXELS = np.random.default_rng(3).normal(100, 20, (9, 8, 7)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def volumes_of(dataset):
    scans = list_scans(dataset, default_cache())
    return scans, [installed_readers().read_scan(scan) for scan in scans]


def test_arrays_keep_their_voxels_spacing_and_names():
    data = ssmtl.from_arrays([VOXELS, VOXELS.astype(np.int16)], spacing=(0.7, 0.8, 3.0), names=["a", "b"])
    scans, (first, second) = volumes_of(data)
    assert [(scan.name, scan.patient) for scan in scans] == [("a", "a"), ("b", "b")]
    assert np.array_equal(first.array, VOXELS)
    assert second.array.dtype == np.int16
    assert first.spacing == pytest.approx((0.7, 0.8, 3.0))
    assert np.allclose(first.affine, np.diag([0.7, 0.8, 3.0, 1.0]))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.uint64, np.float16, np.float64])
def test_values_of_every_numeric_type_come_back(dtype):
    voxels = (VOXELS > 100).astype(dtype) if dtype is bool else VOXELS.round().astype(dtype)
    _, (volume,) = volumes_of(ssmtl.from_arrays([voxels], spacing=(1, 1, 2)))
    assert np.array_equal(volume.array, voxels.astype(volume.array.dtype))


def test_axes_say_what_an_array_counts():
    turned = VOXELS.transpose(2, 0, 1)
    _, (volume,) = volumes_of(ssmtl.from_arrays([turned], spacing=(0.7, 0.8, 3.0), axes="kij"))
    assert np.array_equal(volume.array, VOXELS)
    both = np.stack([VOXELS, 2 * VOXELS], axis=-1)
    scans, (volume,) = volumes_of(ssmtl.from_arrays([both], spacing=(1, 1, 2), axes="ijkc"))
    assert volume.channels == 2
    assert np.array_equal(volume.by_channel[1], 2 * VOXELS)
    assert len(scans[0].paths) == 2


def test_label_maps_patients_and_classes_go_with_the_volumes():
    pairs = [(VOXELS, VOXELS > 100), (VOXELS + 1, VOXELS > 90)]
    data = ssmtl.from_arrays(pairs, spacing=(1, 1, 2), patients=["p", "p"], classes={"bright": 1})
    scans, _ = volumes_of(data)
    assert [scan.patient for scan in scans] == ["p", "p"]
    assert data.classes() == {"bright": (1,)}
    assert np.array_equal(nib.load(scans[1].label).get_fdata(), VOXELS > 90)


def test_a_torch_dataset_is_a_dataset():
    tensors = TensorDataset(torch.from_numpy(np.stack([VOXELS[None]] * 2)), torch.ones(2, 1, *VOXELS.shape))
    scans, (first, _) = volumes_of(ssmtl.from_arrays(tensors, spacing=(1, 1, 2), axes="cijk"))
    assert np.array_equal(first.array, VOXELS)
    assert all(scan.label for scan in scans)


@pytest.mark.filterwarnings("ignore:NvImgCodec", "ignore::FutureWarning:monai")
def test_a_monai_dataset_brings_affines_and_names(tmp_path):
    for i in range(2):
        write_pair(tmp_path, f"p{i}", seed=i)
    items = [{key: str(tmp_path / f"{key}s" / f"p{i}.nii.gz") for key in ("image", "label")} for i in range(2)]
    load = Compose([LoadImaged(["image", "label"], reader="NibabelReader"), EnsureChannelFirstd(["image", "label"])])
    scans, (volume, _) = volumes_of(ssmtl.from_arrays(Dataset(items, load), axes="cijk"))
    assert [scan.name for scan in scans] == ["p0", "p1"]
    expected = nib.load(items[0]["image"])
    assert np.allclose(volume.affine, expected.affine, atol=1e-5)
    assert np.allclose(volume.array, expected.get_fdata())
    assert np.array_equal(nib.load(scans[0].label).get_fdata(), nib.load(items[0]["label"]).get_fdata())
    turned = Compose([load, Orientationd(["image", "label"], "LPS")])
    _, (volume, _) = volumes_of(ssmtl.from_arrays(Dataset(items, turned), axes="cijk"))
    assert nib.aff2axcodes(volume.affine) == ("L", "P", "S")


def test_equal_volumes_are_written_once_and_repeat_a_run(tmp_path):
    first, again = (ssmtl.from_arrays([VOXELS], spacing=(1, 1, 2)) for _ in range(2))
    assert first == again
    assert first != ssmtl.from_arrays([VOXELS], spacing=(1, 1, 3))
    assert RunConfig.of({"data": str(first)}).resolve().data == first
    assert not list((tmp_path / "cache" / "ssmtl" / "arrays").glob(".*.part"))


def test_arrays_are_trained_on_beside_other_data_and_predicted(tuned, tmp_path):
    arrays = ssmtl.from_arrays([np.float32(VOXELS * i) for i in (1, 2)], spacing=(1, 1, 2))
    options = {"backbone": SMALL, "size": 32, "steps": 1, "tasks": "reconstruct_prev:t=1", "out": tmp_path / "run"}
    run = ssmtl.pretrain(data=[arrays, "phantom:patients=1"], cache=tmp_path / "store", **options)
    assert run.summary["scans"]["used"] == 3
    done = ssmtl.predict(tuned, arrays, out=tmp_path / "out", cache=tmp_path / "store")
    assert [file.name for file in done.written] == ["array-0000.nii.gz", "array-0001.nii.gz"]
    assert nib.load(done.written[0]).shape == VOXELS.shape
    with pytest.raises(UsageError, match="from_arrays"):
        ssmtl.predict(tuned, VOXELS, out=tmp_path / "other")


@pytest.mark.parametrize(
    ("volumes", "options", "message"),
    [
        (VOXELS, {"spacing": (1, 1, 2)}, r"give a list of volumes, \[array\]"),
        ([], {"spacing": (1, 1, 2)}, "there are no volumes"),
        ([VOXELS], {}, "volume 0: how large are its voxels"),
        ([VOXELS[None]], {"spacing": (1, 1, 2)}, "axes='cijk'"),
        ([VOXELS], {"spacing": (1, 1, 0)}, "spacing or affine cannot be used"),
        ([VOXELS], {"spacing": (1, 1)}, "spacing or affine cannot be used"),
        ([VOXELS], {"spacing": (1, 1, 2), "axes": "xyz"}, "a permutation of ijk"),
        ([VOXELS + 1j], {"spacing": (1, 1, 2)}, "holds complex"),
        ([VOXELS], {"spacing": (1, 1, 2), "names": ["a/b"]}, "cannot be the name of a file"),
        ([VOXELS, VOXELS], {"spacing": (1, 1, 2), "names": ["a", "a"]}, "volume 1: is called 'a'"),
        ([VOXELS], {"spacing": (1, 1, 2), "labels": [VOXELS[1:]]}, "label map 0: has"),
        ([VOXELS], {"spacing": (1, 1, 2), "labels": []}, "1 volumes and 0 label maps"),
        ([{"img": VOXELS}], {"spacing": (1, 1, 2)}, "without the key 'image'"),
        (MetaTensor(VOXELS), {}, "give a list"),
        (7, {"spacing": (1, 1, 2)}, "expected a list of volumes or a dataset, got int"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(volumes, options, message):
    with pytest.raises(UsageError, match=message):
        ssmtl.from_arrays(volumes, **options)

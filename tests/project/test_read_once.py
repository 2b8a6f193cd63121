"""A file is decoded once by the command that sees it first, and a training scan by no later one."""

import json

import nibabel as nib
import numpy as np
import pytest

import ssmtl_toolkit as toolkit
from helpers.decodes import count_decodes
from helpers.small import write_pair
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.runtime.folder import MODEL, SPLIT

OPTIONS = {"size": 16, "steps": 1, "batch_size": 2, "backbone": "unet:encoder=plain,width=4"}
TUNING = {**OPTIONS, "test_scans": 1, "metrics": ("iou", "dice")}


@pytest.fixture
def decodes(monkeypatch):
    return count_decodes(monkeypatch)


@pytest.fixture
def pairs(tmp_path):
    """Four patients with labels, 10 and 20."""
    for i in range(4):
        write_pair(tmp_path / "data", f"p{i}", slices=6, seed=i)
    return tmp_path / "data"


def files_of_the_test(run):
    patients = json.loads((run.folder / SPLIT).read_text())["test"]
    return {f"{kind}/{patient}.nii.gz" for patient in patients for kind in ("images", "labels")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [{"seeds": 2}, {"normalise": "data"}, {"semi": "mean_teacher"}, {"head": "denoising", "metrics": ("psnr",)}],
    ids=str,
)
def test_a_fine_tuning_decodes_each_file_once_and_a_second_one_only_those_of_the_test(pairs, tmp_path, decodes, more):
    def tuned(name):
        decodes.clear()
        return toolkit.finetune(None, data=pairs, out=tmp_path / name, cache=tmp_path / "cache", **TUNING | more)

    first = tuned("first")
    assert set(decodes.values()) == {1}
    assert {f"images/p{i}.nii.gz" for i in range(4)} <= set(decodes)
    second = tuned("second")
    assert set(decodes.values()) == {1}
    assert set(decodes) <= files_of_the_test(second)
    weights = [(run.folder / "scratch-0" / MODEL).read_bytes() for run in (first, second)]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["slice", "data"])
def test_a_pre_training_with_a_probe_decodes_each_file_once_and_a_second_one_none(pairs, tmp_path, decodes, normalise):
    for name, number in (("first", 8), ("second", 0)):
        decodes.clear()
        toolkit.pretrain(
            data=pairs / "images",
            probe=pairs,
            probe_slices=8,
            tasks=["reconstruct_prev"],
            normalise=normalise,
            held_out=0,
            out=tmp_path / name,
            cache=tmp_path / "cache",
            **OPTIONS,
        )
        assert len(decodes) == decodes.total() == number


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"classes": "a=nope"}, "'nope' is no label value"),
        ({"backbone": "unet:encoder=nosuch"}, "encoder 'nosuch'"),
        ({"optimizer": "nosuch"}, "no such optimizer"),
        ({"split": "nosuch.json", "test_scans": None}, "no such file"),
        ({"semi": "mean_teacher", "unlabelled": "nosuch"}, "no such file or folder"),
        ({"test_scans": 9}, "leave none to train on"),
    ],
)
def test_a_wrong_option_of_a_fine_tuning_is_refused_before_anything_is_decoded(pairs, tmp_path, decodes, options, said):
    with pytest.raises(SsmtlError, match=said):
        toolkit.finetune(None, data=pairs, out=tmp_path / "out", cache=tmp_path / "cache", **TUNING | options)
    assert not decodes
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_are_refused_before_anything_is_decoded(pairs, tmp_path, decodes):
    common = {"data": pairs, "cache": tmp_path / "cache", **OPTIONS}
    run = toolkit.pretrain(tasks=["reconstruct_prev"], held_out=0, out=tmp_path / "run", **common)
    decodes.clear()
    other = {**common, "backbone": "unet:encoder=plain,width=6", "out": tmp_path / "out", "test_scans": 1}
    with pytest.raises(SsmtlError, match="only 0 % of the parameters of the encoder can be loaded"):
        toolkit.finetune(run.folder, **other)
    assert not decodes
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["probe", "without"])
def test_a_wrong_path_of_a_pre_training_is_refused_before_anything_is_decoded(pairs, tmp_path, decodes, option):
    with pytest.raises(SsmtlError, match="no such file"):
        toolkit.pretrain(
            data=pairs,
            tasks=["reconstruct_prev"],
            out=tmp_path / "out",
            cache=tmp_path / "cache",
            **OPTIONS,
            **{option: tmp_path / "nosuch"},
        )
    assert not decodes
    assert not (tmp_path / "out").exists()


def test_labels_that_cannot_be_used_leave_no_folder_of_a_run(pairs, tmp_path):
    affine = np.diag([-0.8, -0.8, 2.0, 1.0])
    nib.save(nib.Nifti1Image(np.full((32, 32, 6), 0.5, np.float32), affine), pairs / "labels" / "p1.nii.gz")
    with pytest.raises(DataError, match=r"1 of 4 labelled scans cannot be used:\n.*p1\.nii\.gz.*not whole numbers"):
        toolkit.finetune(None, data=pairs, out=tmp_path / "out", cache=tmp_path / "cache", **TUNING)
    assert not (tmp_path / "out").exists()


def test_a_network_of_an_experiment_that_cannot_be_built_is_refused_before_anything_is_read(tmp_path, ssmtl, decodes):
    rows = '[rows.a]\nbackbone = "unet:encoder=plain,width=4"\n[rows.b]\nbackbone = "unet:encoder=nosuch"\n'
    (tmp_path / "e.toml").write_text(f'data = "phantom:patients=4"\n{rows}')
    done = ssmtl("experiment", "e.toml", "--out", "out")
    assert done.returncode == 2
    assert "row 'b': backbone unet: encoder 'nosuch'" in done.stderr
    assert not decodes
    assert not (tmp_path / "out").exists()

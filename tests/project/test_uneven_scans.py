"""DICOM series with a gap and with jittered positions on the command line, from `data info` to a prediction."""

import json

import nibabel as nib
import numpy as np
import pytest

from helpers.dicom_files import write_series
from helpers.small import SMALL, ball

AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])
GAP = [0, 3, 6, 9, 18, 21, 24, 27, 30, 33]
JITTERED = [0, 3.4, 5.8, 9.5, 12, 14.6, 18.3, 20.7, 24.2, 27]
EVEN = [3.0 * k for k in range(10)]
RUN = ("--size", "24", "--backbone", SMALL, "--steps", "2", "--batch-size", "4", "--task", "reconstruct_next:t=2")
TUNE = ("--steps", "2", "--test-scans", "1", "--no-surface", "--classes", "first=10,second=20", "--batch-size", "4")


def done(result, code=0):
    assert result.returncode == code, result.stderr
    return result


@pytest.fixture
def series(tmp_path):
    """Patients a to c as series of ten slices, with label maps on grids of the mean distance, as converters write."""
    for seed, (name, positions) in enumerate({"a": GAP, "b": JITTERED, "c": EVEN}.items()):
        image, labels = ball(10, seed)

        def change(data, k, positions=positions, seed=seed):
            data.ImagePositionPatient = ["0", "0", f"{positions[k]:.6f}"]
            data.SeriesInstanceUID = f"1.2.3.{seed}"
            return data

        write_series(tmp_path / "data" / "images" / name, image.astype(np.int16), AFFINE, change)
        affine = np.diag([-1.5, -1.5, positions[-1] / 9, 1.0])
        (tmp_path / "data" / "labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), tmp_path / "data" / "labels" / f"{name}.nii.gz")
    return tmp_path / "data"


def test_data_info_says_what_is_uneven_and_proposes_what_makes_it_even(ssmtl, series):
    told = done(ssmtl("data", "info", series), 3).stdout
    assert "a: is missing slices: from (0, 0, 9) to (0, 0, 18) mm it is 9 mm, elsewhere 3 mm" in told
    assert "b: is unevenly spaced: its slices are" in told
    assert "--prepare resample:stack=3 --task" in told


@pytest.mark.slow
def test_without_resampling_a_run_names_the_scans_and_what_to_do(ssmtl, series):
    refused = done(ssmtl("run", "--data", series, *RUN, "--out", "run"), 3).stderr
    assert "2 of 3 scans cannot be used" in refused
    assert f"{series}/images/a: is missing slices" in refused
    assert "by its true positions: --prepare resample:stack=3" in refused


@pytest.mark.slow
def test_resampled_they_are_trained_on_and_predicted_slice_by_slice(ssmtl, tmp_path, series):
    done(ssmtl("run", "--data", series, *RUN, "--prepare", "resample:stack=3", "--out", "run"))
    told = done(ssmtl("finetune", "--from", "run", "--data", series, *TUNE, "--out", "ft", "--json"))
    scores = json.loads(told.stdout)["arms"]["pretrained"]
    (test,) = json.loads((tmp_path / "ft" / "split.json").read_text())["test"]
    predicted = done(ssmtl("predict", "--from", "ft", series / "images", "--out", "out", "--probabilities"))
    assert "files on its grid have their mean distance" in " ".join(predicted.stderr.split())
    for name in "abc":
        for file in (f"{name}.nii.gz", f"{name}_probabilities.nii.gz"):
            image, label = nib.load(tmp_path / "out" / file), nib.load(series / "labels" / f"{name}.nii.gz")
            assert image.shape[:3] == label.shape
            assert np.allclose(image.affine, label.affine, atol=1e-4)
    done(ssmtl("predict", "--from", "ft", series / "images" / test, "--out", "one"))
    told = done(ssmtl("evaluate", "--pred", "one", "--label", series / "labels", "--no-surface", "--json"))
    assert json.loads(told.stdout)["mean"]["iou"] == pytest.approx(scores["iou"]["mean"])

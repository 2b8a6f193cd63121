"""Scans of several channels on the command line: trained, resumed, fine-tuned, predicted, refused if they differ."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ssmtl_toolkit
from helpers.small import SMALL, ball, write_channels, write_labelled_channels, write_pair
from ssmtl_toolkit.downstream.model import ModelSpec
from ssmtl_toolkit.runtime import weights

TASKS = {
    "moco_v2": ["moco_v2:queue=16"],
    "slice_siam": ["slice_siam:t=2"],
    "reconstruction": ["reconstruct_prev:t=2", "reconstruct_next:t=2"],
}
RUN = ("--size", "32", "--backbone", SMALL, "--log-every", "1", "--checkpoint-every", "1")
TUNE = ("--size", "32", "--batch-size", "4", "--lr", "0.003", "--no-surface")
SPLIT = ("--test-scans", "2", "--train-scans", "2", "--classes", "first=10,second=20")


@pytest.fixture
def manifest(tmp_path):
    return write_labelled_channels(tmp_path / "data", "abcde")


def state(folder, step):
    return load_file(folder / "checkpoints" / f"step-{step:08d}" / "state.safetensors")


def options(tasks):
    return [word for task in tasks for word in ("--task", task)]


def normal(array):
    """Axial slices of (I, J, K) as the network gets them at their own size, L P in the file: (S, H, W) float32."""
    slices = array.astype(np.float64).transpose(2, 1, 0)
    mean, deviation = slices.mean((1, 2), keepdims=True), slices.std((1, 2), keepdims=True)
    return ((slices - mean) / deviation).astype(np.float32)


def both(tmp_path, name):
    """The two channels of a case, (S, 2, 32, 32)."""
    files = [tmp_path / "data" / "images" / f"{name}_000{k}.nii.gz" for k in range(2)]
    return torch.tensor(np.stack([normal(np.asanyarray(nib.load(file).dataobj)) for file in files], axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("tasks", TASKS.values(), ids=TASKS.keys())
def test_two_channels_are_trained_and_a_resumed_run_ends_with_the_same_bits(ssmtl, tmp_path, manifest, tasks):
    given = ("--data", manifest, *RUN, "--batch-size", "6", *options(tasks))
    for words in ((*given, "--steps", "4", "--out", "whole"), (*given, "--steps", "2", "--out", "parted")):
        done = ssmtl("run", *words)
        assert done.returncode == 0, done.stderr
    assert "2 mm apart, 2 channels" in done.stderr
    assert ssmtl("run", "--resume", "parted", "--steps", "4").returncode == 0
    whole, parted = state(tmp_path / "whole", 4), state(tmp_path / "parted", 4)
    assert whole.keys() == parted.keys()
    assert all(torch.equal(whole[name], parted[name]) for name in whole)
    saved = weights.read(tmp_path / "whole" / "backbone.safetensors", "")
    assert saved.said()["channels"] == 2
    assert saved.tensors["encoder.levels.0.0.0.weight"].shape[1] == 2
    assert len(saved.said()["scans"]["digests"]) == 15  # of each of two files a scan, and of its voxels


def test_reconstruction_gives_all_channels_and_its_trivial_answers_are_means_over_them(ssmtl, tmp_path, manifest):
    task = "reconstruct_next:t=1"
    words = ("--data", manifest, *RUN, "--batch-size", "35", "--task", task, "--steps", "1", "--out", "run")
    assert ssmtl("run", *words).returncode == 0
    (line,) = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    slices = [both(tmp_path, name) for name in "abcde"]  # 35 pairs, each once in the batch
    anchor, truth = (torch.cat([each[part] for each in slices]) for part in (slice(0, -1), slice(1, None)))
    assert line[f"{task}/copy"] == pytest.approx(float((anchor - truth).square().mean()), rel=2e-3)
    scaled = []
    for channel in range(2):
        a, b = anchor[:, channel], truth[:, channel]
        scaled.append(float((b - (a * b).sum() / a.square().sum() * a).square().mean()))
    assert line[f"{task}/scaled_copy"] == pytest.approx(np.mean(scaled), rel=2e-3)
    assert line[f"{task}/blank"] == pytest.approx(1, rel=1e-2)
    saved = state(tmp_path / "run", 1)
    assert [tensor.shape[0] for name, tensor in saved.items() if "decode.weight" in name and "tasks" in name] == [2]


@pytest.mark.slow
def test_two_channels_are_fine_tuned_and_predicted_on_the_grid_of_the_scan(ssmtl, tmp_path, manifest):
    folder = f"folder:{tmp_path / 'data'},channel=all"
    done = ssmtl("run", "--data", folder, *RUN, *options(TASKS["reconstruction"]), "--steps", "4", "--out", "run")
    assert done.returncode == 0, done.stderr
    tune = ("--data", manifest, *TUNE, *SPLIT, "--slices-per-scan", "8", "--steps", "30", "--out", "tuned")
    tuned = ssmtl("finetune", "--from", "run", *tune)
    assert tuned.returncode == 0, tuned.stderr
    assert "parameters loaded: encoder 100 %, decoder 100 %" in tuned.stderr
    summary = json.loads((tmp_path / "tuned" / "summary.json").read_text())
    assert summary["scans"]["test_seen_in_pretraining"] == 2
    for words in ((folder, "--out", "joined", "--overlay", "--probabilities"), (manifest, "--out", "listed")):
        predicted = ssmtl("predict", "--from", "tuned", *words)
        assert predicted.returncode == 0, predicted.stderr
    spec, model = ModelSpec.load(tmp_path / "tuned" / "pretrained-0" / "model.safetensors")
    assert spec.channels == 2
    model.eval()
    right = []
    for name in "abcde":
        label = nib.load(tmp_path / "joined" / f"{name}.nii.gz")
        assert np.array_equal(label.affine, nib.load(tmp_path / "data" / "labels" / f"{name}.nii.gz").affine)
        with torch.no_grad():
            index = model(both(tmp_path, name)).argmax(dim=1).numpy().transpose(2, 1, 0)
        found = np.asanyarray(label.dataobj)
        right.append((found == np.array([0, 10, 20])[index]).mean())
        listed = nib.load(tmp_path / "listed" / "images" / f"{name}_0000.nii.gz")
        assert np.array_equal(found, np.asanyarray(listed.dataobj))
        assert (tmp_path / "joined" / f"{name}.png").stat().st_size > 1000
        assert nib.load(tmp_path / "joined" / f"{name}_probabilities.nii.gz").shape == (32, 32, 8, 3)
    assert min(right) > 0.999


@pytest.mark.slow
def test_a_denoised_scan_has_all_its_channels_in_its_own_units(ssmtl, tmp_path, manifest):
    tune = (
        "--head",
        "denoising:sigma=0.5",
        "--recipe",
        "paper",
        "--backbone",
        SMALL,
        "--data",
        manifest,
        "--test-scans",
        "1",
    )
    done = ssmtl("finetune", *tune, *TUNE, "--steps", "60", "--out", "tuned")
    assert done.returncode == 0, done.stderr
    assert ssmtl("predict", "--from", "tuned", manifest, "--out", "out").returncode == 0
    image = nib.load(tmp_path / "out" / "images" / "a_0000.nii.gz")
    assert image.shape == (32, 32, 8, 2)
    clean = np.asanyarray(image.dataobj)
    for channel in range(2):
        scan = np.asanyarray(nib.load(tmp_path / "data" / "images" / f"a_000{channel}.nii.gz").dataobj).astype(float)
        assert np.corrcoef(clean[..., channel].ravel(), scan.ravel())[0, 1] > 0.8
        assert clean[..., channel].mean() == pytest.approx(scan.mean(), rel=0.2)


def pretrained(data, channels, tmp_path):
    """A run of one step on scans like these."""
    run = ssmtl_toolkit.pretrain(
        data=data, size=32, steps=1, batch_size=4, backbone=SMALL, tasks=["slice_siam:t=1"], out=tmp_path / "run"
    )
    assert weights.read(run.backbone, "").said()["channels"] == channels
    return run


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2)])
def test_fine_tuning_with_other_channels_is_refused_before_anything_is_trained(ssmtl, tmp_path, before, now):
    write_labelled_channels(tmp_path / "data", "abcd", slices=4)
    texts = {1: f"folder:{tmp_path / 'data'},channel=1", 2: f"folder:{tmp_path / 'data'},channel=all"}
    pretrained(texts[before], before, tmp_path)
    done = ssmtl("finetune", "--from", "run", "--data", texts[now], *TUNE, *SPLIT, "--steps", "1", "--out", "tuned")
    assert done.returncode == 2
    told = f"backbone.safetensors: was trained on slices of {before} channel{'s' * (before > 1)}, and the scans of"
    assert told in done.stderr
    assert f"have {now}; give scans with the same channels" in done.stderr
    assert not list((tmp_path / "tuned").glob("*-0"))


def test_scans_of_different_numbers_of_channels_are_refused_before_anything_is_trained(ssmtl, tmp_path, manifest):
    tables = []
    for name in "abcde":
        files = [f"images/{name}_0000.nii.gz", f"images/{name}_0001.nii.gz"][: 1 if name == "e" else 2]
        tables.append(f'[[scan]]\nimage = {files}\nlabel = "labels/{name}.nii.gz"\n')
    (tmp_path / "data" / "mixed.toml").write_text("".join(tables))
    words = ("--backbone", SMALL, "--data", "data/mixed.toml", *TUNE, "--test-scans", "2")
    done = ssmtl("finetune", *words, "--steps", "1", "--out", "tuned")
    assert done.returncode == 3
    assert re.search(
        r"\w_0000.nii.gz: has (1 channel|2 channels), .*_0000.nii.gz has [12]; all scans of a", done.stderr
    )
    assert not list((tmp_path / "tuned").glob("*-0"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A segmentation of two channels, hardly trained."""
    folder = tmp_path_factory.mktemp("tuned")
    data = write_labelled_channels(folder / "data", "abc", slices=4)
    few = {"steps": 1, "size": 32, "batch_size": 2, "slices_per_scan": 1, "test_scans": 1, "surface": False}
    return ssmtl_toolkit.finetune(
        backbone=SMALL, data=str(data), **few, out=folder / "run", cache=folder / "cache"
    ).folder


def test_predict_refuses_a_scan_of_other_channels_and_continues_with_the_others(ssmtl, tmp_path, manifest, tuned):
    single = write_pair(tmp_path / "single", "x", slices=4)
    done = ssmtl("predict", "--from", tuned, single, manifest, "--out", "out")
    assert done.returncode == 3
    told = f"{single}: has 1 channel, and the model takes 2; give the scan with the channels of the training"
    assert told in done.stderr
    assert len(list((tmp_path / "out").glob("images/*_0000.nii.gz"))) == 5
    assert not (tmp_path / "out" / "x.nii.gz").exists()


def test_a_prediction_may_not_overwrite_any_file_of_a_scan(ssmtl, tmp_path, tuned):
    first, second = write_channels(tmp_path / "data" / "one", "c")
    there = tmp_path / "data" / "two" / "one" / first.name
    there.parent.mkdir(parents=True)
    before = second.rename(there).read_bytes()
    (tmp_path / "data" / "scans.csv").write_text(f"image,image_2\none/{first.name},two/one/{first.name}\n")
    done = ssmtl("predict", "--from", tuned, "data/scans.csv", "--out", "data/two", "--existing", "overwrite")
    assert done.returncode == 2
    assert f"two/one/{first.name}: is one of the scans, and would be overwritten" in done.stderr
    assert there.read_bytes() == before


def test_a_changed_further_channel_makes_another_scan_of_what_was_predicted(ssmtl, tmp_path, manifest, tuned):
    words = ("predict", "--from", tuned, manifest, "--out", "out", "--existing", "skip")
    assert ssmtl(*words).returncode == 0
    assert ssmtl(*words).returncode == 0
    file = tmp_path / "data" / "images" / "c_0001.nii.gz"
    nib.save(nib.Nifti1Image(ball(8, 50)[0], nib.load(file).affine), file)
    done = ssmtl(*words)
    assert done.returncode == 2
    assert "c_0000.nii.gz: belongs to another scan, or to this one before it was changed" in done.stderr


def test_three_channels_are_trained_with_all_tasks_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for seed, name in enumerate("ab"):
        write_channels(tmp_path / "scans", name, 6, seed, channels=3)
    run = ssmtl_toolkit.pretrain(
        data=f"folder:{tmp_path / 'scans'},channel=all",
        size=32,
        steps=2,
        batch_size=4,
        backbone="unet:encoder=resnet18",
        tasks=["moco_v2:queue=8", "slice_siam:t=1", "reconstruct_next:t=1"],
        out=tmp_path / "run",
    )
    assert weights.read(run.backbone, "").said()["channels"] == 3
    assert load_file(run.backbone)["encoder.conv1.weight"].shape == (64, 3, 7, 7)

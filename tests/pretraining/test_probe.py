"""The probe of a pre-training: what it computes, that it leaves no trace, and what becomes of the best step."""

import gzip
import json
import shutil
import signal
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import ssmtl_toolkit
from helpers.small import SMALL, write_pair
from ssmtl_toolkit import DataError
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.pretraining.best import best_of, told
from ssmtl_toolkit.pretraining.labelled import gather_labelled, quotas
from ssmtl_toolkit.pretraining.probe import picked_pixels
from ssmtl_toolkit.pretraining.ridge import Ridge
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import reading_of
from ssmtl_toolkit.runtime.transfer import Pretrained

OPTIONS = {"backbone": SMALL, "size": 32, "batch_size": 4, "tasks": ["reconstruct_next:t=1", "moco_v2:queue=10"]}
FLAGS = ("--backbone", SMALL, "--size", 32, "--batch-size", 4, "--task", "reconstruct_next:t=1")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def pretrain(labelled, cache, tmp_path):
    """Pre-train on the labelled scans for a few steps."""

    def run(name, **options):
        given_options = {"data": str(labelled / "images"), "steps": 6, "cache": cache, **OPTIONS, **options}
        return ssmtl_toolkit.pretrain(out=tmp_path / name, **given_options)

    return run


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def probes(folder):
    return [line for line in lines(folder) if "probe/iou" in line]


def split_file(place, test, train=("a",), pattern=None):
    place.write_text(json.dumps({"patient": pattern, "train": train, "validation": [], "test": test, "slices": []}))
    return place


# --- the classifier ----------------------------------------------------------------------------------------------


def ridge_by_least_squares(rows, labels, classes, penalty=0.01):
    """The same minimum by another way: weighted rows and the penalty's own, stacked into one least-squares problem."""
    counted = [list(labels).count(c) for c in range(classes)]
    present = sum(number > 0 for number in counted)
    weight = np.array([1 / (counted[label] * present) for label in labels])
    mean = sum(w * row for w, row in zip(weight, rows, strict=True))
    spread = np.sqrt(sum(w * (row - mean) ** 2 for w, row in zip(weight, rows, strict=True)))
    design = np.column_stack([(rows - mean) / spread, np.ones(len(rows))]) * np.sqrt(weight)[:, None]
    target = np.eye(classes)[labels] * np.sqrt(weight)[:, None]
    fine = np.sqrt(penalty) * np.eye(rows.shape[1], rows.shape[1] + 1)
    full = np.vstack([design, fine]), np.vstack([target, np.zeros((len(fine), classes))])
    solved = np.linalg.lstsq(*full, rcond=None)[0]
    return lambda new: np.column_stack([(new - mean) / spread, np.ones(len(new))]) @ solved


def test_the_classifier_is_the_least_squares_solution_of_standardised_features_with_classes_of_equal_weight():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 40 + [1] * 7 + [2] * 3)
    rows = rng.normal(size=(50, 4)) * [1, 10, 0.1, 3] + [0, 5, 1, -2] + 0.5 * labels[:, None]
    ridge = Ridge.fit(torch.from_numpy(rows).float(), torch.from_numpy(labels), 3)
    new = rng.normal(size=(9, 4))
    ours = new @ ridge.weight.double().numpy().T + ridge.bias.double().numpy()
    assert np.allclose(ours, ridge_by_least_squares(rows, labels, 3)(new), atol=1e-4)


def test_a_class_without_pixels_is_never_predicted_and_a_constant_feature_does_not_matter():
    rows = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 7.0
    labels = (rows[:, 0] > 0).long()
    rows[:, 0] += 6 * labels
    ridge = Ridge.fit(rows, labels, 4)
    scores = ridge.scores([torch.randn(2, 3, 5, 5)], (5, 5))
    assert set(scores.argmax(dim=1).unique().tolist()) <= {0, 1}
    assert ridge.weight[:, 1].abs().max() == 0
    assert torch.equal((rows @ ridge.weight.T + ridge.bias).argmax(dim=1), labels)


def test_scores_of_coarse_maps_are_those_of_all_features_at_image_size():
    maps = [torch.randn(2, 3, 16, 16), torch.randn(2, 5, 4, 4)]
    whole = torch.cat([F.interpolate(one, (16, 16), mode="bilinear") for one in maps], dim=1)
    pixels = whole.permute(0, 2, 3, 1).reshape(-1, 8)
    ridge = Ridge.fit(pixels, (pixels[:, 0] + pixels[:, 6] > 0.5).long(), 2)
    expected = (pixels @ ridge.weight.T + ridge.bias).reshape(2, 16, 16, 2).permute(0, 3, 1, 2)
    assert torch.allclose(ridge.scores(maps, (16, 16)), expected, atol=1e-5)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(1, 30))
def test_slices_are_taken_of_all_scans_in_turn_until_there_are_enough(available, number):
    taken = quotas(available, number)
    assert sum(taken) == min(number, sum(available))
    assert all(0 <= mine <= most for mine, most in zip(taken, available, strict=True))
    unfilled = [mine for mine, most in zip(taken, available, strict=True) if mine < most]
    assert all(max(taken) - mine <= 1 for mine in unfilled)


@given(st.integers(0, 3), st.integers(1, 9))
def test_pixels_are_drawn_of_each_class_in_each_slice_and_none_that_nobody_annotated(seed, number):
    labels = np.random.default_rng(seed).choice([0, 0, 0, 1, 2, IGNORE], size=(3, 6, 6)).astype(np.uint8)
    slices, places = (part.numpy() for part in picked_pixels(labels, number, seed))
    drawn = [(i, int(labels[i].flat[p])) for i, p in zip(slices, places, strict=True)]
    assert len(set(zip(slices.tolist(), places.tolist(), strict=True))) == len(places)
    for i in range(3):
        for index in (0, 1, 2):
            assert drawn.count((i, index)) == min(number, int((labels[i] == index).sum()))
    assert all(index != IGNORE for _, index in drawn)


# --- which slices ------------------------------------------------------------------------------------------------


def gathered(probe, cache, progress=None, **options):
    config = RunConfig.of({**OPTIONS, "probe": str(probe), "data": str(probe), **options}).resolve()
    return gather_labelled(config, 1, reading_of(config.slicing, cache, Progress()), progress or Progress())


def test_the_halves_are_of_different_patients_and_another_seed_parts_others(labelled, cache):
    found = gathered(labelled, cache, probe_slices=4)
    assert [len(half.images) for half in found.halves] == [4, 4]
    assert sorted(half.patients for half in found.halves) == [2, 3]  # a to e, two scans of each
    assert found.classes.names == ("10", "20")
    assert all(half.labels.flatten(1).any(dim=1).all() for half in found.halves)
    others = {gathered(labelled, cache, probe_slices=4, seed=seed).fingerprint for seed in (0, 0, 1)}
    assert len(others) == 2


def test_patients_of_validation_and_test_are_kept_from_the_probe_under_other_names_too(labelled, cache, tmp_path):
    class Heard(Progress):
        notes = ()

        def note(self, text):
            self.notes = (*self.notes, text)

    data = tmp_path / "named"
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True)
        for name in ("b_pre", "c_pre", "d_pre"):
            shutil.copy(labelled / kind / f"{name}.nii.gz", data / kind)
        shutil.copy(labelled / kind / "a_pre.nii.gz", data / kind / "renamed.nii.gz")
    heard, split = Heard(), split_file(tmp_path / "split.json", ["a", "d"], ["b", "c", "e"])
    found = gathered(data, cache, heard, data=str(labelled), without=split)
    assert any(
        text == "2 labelled scans of validation and test patients are kept from the probe" for text in heard.notes
    )
    assert sum(half.patients for half in found.halves) == 2
    split_file(split, ["a", "c", "d"], ["b", "e"])
    with pytest.raises(DataError, match="labelled scans of 1 patient; two are needed"):
        gathered(data, cache, data=str(labelled), without=split)


def test_data_without_labels_or_with_other_channels_are_refused_by_name(labelled, cache, tmp_path, ssmtl):
    done = ssmtl("run", *FLAGS, "--data", labelled, "--probe", labelled / "images", "--steps", 2, "--out", "r")
    assert done.returncode == 3
    assert "none of its 10 scans has a label map; expected images/ and labels/" in done.stderr
    assert not (tmp_path / "r").exists()
    done = ssmtl("run", *FLAGS, "--data", labelled, "--probe-every", 2, "--steps", 2, "--out", "r")
    assert done.returncode == 2
    assert "--probe-every: there is no probe; give labelled scans with --probe" in done.stderr
    config = RunConfig.of({**OPTIONS, "probe": str(labelled)}).resolve()
    with pytest.raises(DataError, match="its scans have 1 channel, those that are trained on 2; give labelled scans"):
        gather_labelled(config, 2, reading_of(config.slicing, cache, Progress()), Progress())


def test_a_label_map_that_cannot_be_used_is_named(cache, tmp_path):
    for i, name in enumerate("ab"):
        write_pair(tmp_path, name, seed=i)
    write_pair(tmp_path / "short", "a", slices=7)
    shutil.move(tmp_path / "short" / "labels" / "a.nii.gz", tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(DataError, match=r"labels/a\.nii\.gz: .*7"):
        gathered(tmp_path, cache)
    image = nib.load(tmp_path / "images" / "a.nii.gz")
    voxels = (10 * np.asarray(image.dataobj)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, image.affine), tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(DataError, match=r"--probe .*: \d+ classes are more than the 254 possible; a manifest"):
        gathered(tmp_path, cache)


# --- it leaves no trace ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "balancer": "famo", "precision": "bf16"}])
def test_a_run_with_a_probe_ends_with_the_bits_of_one_without(pretrain, labelled, options):
    probed = pretrain("with", probe=str(labelled), probe_every=2, **options)
    alone = pretrain("without", **options)
    assert probed.backbone.read_bytes() == alone.backbone.read_bytes()
    ours, theirs = (checkpoint.newest(run.folder / "checkpoints", warn=pytest.fail).tensors for run in (probed, alone))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [line for line in lines(probed.folder) if "probe/iou" not in line] == lines(alone.folder)
    assert [line["step"] for line in probes(probed.folder)] == [0, 2, 4, 6]
    assert probed.summary["tasks"] == alone.summary["tasks"]
    assert alone.summary["probe"] is None


KILLED = """
import json, os, signal, sys
import ssmtl_toolkit
from ssmtl_toolkit.runtime.progress import Progress
class Kill(Progress):
    def stepped(self, step):
        if step == 8: os.kill(os.getpid(), signal.SIGKILL)
ssmtl_toolkit.pretrain(progress=Kill(), **json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_run_that_is_resumed_has_the_same_scores_and_the_same_best_file(pretrain, labelled, cache, tmp_path):
    options = {**OPTIONS, "data": str(labelled / "images"), "steps": 12, "probe": str(labelled), "probe_every": 1}
    options |= {"checkpoint_every": 5, "cache": str(cache)}
    whole = pretrain("whole", **options)
    command = [sys.executable, "-c", KILLED, json.dumps({**options, "out": str(tmp_path / "cut")})]
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    resumed = pretrain("cut", resume=True, **options)
    assert probes(resumed.folder) == probes(whole.folder)
    assert resumed.chosen.read_bytes() == whole.chosen.read_bytes()
    assert resumed.summary["probe"] | {"seconds": 0} == whole.summary["probe"] | {"seconds": 0}


@pytest.mark.slow
def test_two_processes_end_as_they_would_without_a_probe(labelled, tmp_path, ssmtl_process):
    options = (*FLAGS, "--data", labelled, "--steps", 4, "--devices", 2, "--accelerator", "cpu", "--json")
    done = ssmtl_process("run", *options, "--probe", labelled, "--probe-every", 2, "--out", "with")
    assert done.returncode == 0, done.stderr
    assert [score["step"] for score in json.loads(done.stdout)["probe"]["curve"]] == [0, 2, 4]
    done = ssmtl_process("run", *options, "--out", "without")
    assert done.returncode == 0, done.stderr
    ours, theirs = (tmp_path / name / "backbone.safetensors" for name in ("with", "without"))
    assert ours.read_bytes() == theirs.read_bytes()
    assert Pretrained.open(tmp_path / "with").file.name == "best.safetensors"


def test_a_run_is_not_resumed_with_other_labelled_slices(pretrain, labelled, tmp_path):
    data = shutil.copytree(labelled, tmp_path / "data")
    pretrain("r", probe=str(data), steps=2)
    pretrain("r", probe=str(labelled), steps=3, resume=True)  # the same, elsewhere
    with pytest.raises(DataError, match="labelled slices of --probe are no longer those of this run"):
        pretrain("r", probe=str(data), steps=4, probe_slices=2, resume=True)


# --- what becomes of it ------------------------------------------------------------------------------------------


def test_the_best_step_is_kept_said_and_started_from(labelled, tmp_path, ssmtl):
    split = split_file(tmp_path / "split.json", ["d", "e"], ["a", "b", "c"])
    data = ("--data", labelled, "--without", split)
    done = ssmtl("run", *FLAGS, *data, "--probe", labelled, "--steps", 6, "--probe-every", 1, "--out", "r")
    assert done.returncode == 0, done.stderr
    assert "4 labelled scans of validation and test patients are kept from the probe" in done.stderr
    told_probe = json.loads((tmp_path / "r" / "summary.json").read_text())["probe"]
    by_step = {line["step"]: line["probe/iou"] for line in probes(tmp_path / "r")}
    trained = {step: iou for step, iou in by_step.items() if step}
    best = max(trained, key=trained.get)
    assert told_probe["best"]["step"] == best
    assert told_probe["untrained"]["iou"] == by_step[0]
    assert f"best by the probe: step {best} (mIoU {trained[best]:.3f})" in done.stderr
    kept = Pretrained.open(tmp_path / "r")
    assert kept.file.name == "best.safetensors"
    assert (kept.about["step"], kept.about["probe"]["iou"]) == (best, trained[best])
    tune = ("finetune", "--data", labelled, "--split", split, "--steps", 2, "--no-surface", "--from")
    done = ssmtl(*tune, "r", "--out", "tuned")
    assert done.returncode == 0, done.stderr
    assert f"step {best} of the pre-training, the best by its probe (mIoU {trained[best]:.3f})" in done.stderr
    report = json.loads((tmp_path / "tuned" / "transfer.json").read_text())
    assert report["source"].endswith("best.safetensors")
    assert report["pretraining"]["step"] == best
    done = ssmtl(*tune, "r/backbone.safetensors", "--out", "last")
    assert done.returncode == 0, done.stderr
    assert "best by its probe" not in done.stderr


def test_a_step_that_test_labels_have_chosen_is_refused_and_the_last_one_is_not(pretrain, labelled, ssmtl, tmp_path):
    run = pretrain("r", probe=str(labelled), steps=2)
    tune = ("finetune", "--test-scans", 4, "--train-scans", 2, "--steps", 1, "--no-surface")
    done = ssmtl(*tune, "--data", labelled, "--from", run.folder, "--out", "tuned")
    assert done.returncode == 2
    assert "its step was chosen by a probe that saw the labels of 4 of the 4 test scans" in done.stderr
    assert f"--from {run.backbone}" in done.stderr
    for file in labelled.rglob("*.nii.gz"):  # saved again under another name: known by its voxels
        copy = tmp_path / "again" / file.parent.name / f"x{file.name.removesuffix('.gz')}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(gzip.decompress(file.read_bytes()))
    done = ssmtl(*tune, "--data", "again", "--from", run.folder, "--out", "tuned")
    assert done.returncode == 2
    assert "saw the labels of 4 of the 4 test scans" in done.stderr
    assert ssmtl(*tune, "--data", labelled, "--from", run.backbone, "--out", "last").returncode == 0
    more = pretrain("more", source=run.folder, steps=1)
    done = ssmtl(*tune, "--data", labelled, "--from", more.folder, "--out", "tuned")
    assert done.returncode == 2
    assert "comes from a training that saw the labels of 4 of the 4 test scans" in done.stderr


def test_without_a_trained_decoder_the_maps_of_the_encoder_are_probed(pretrain, labelled):
    run = pretrain("r", probe=str(labelled), tasks=["moco_v2:queue=10"], steps=2)
    assert run.summary["probe"]["feature"] == "pyramid"
    assert 0 < run.summary["probe"]["best"]["iou"] < 1


def test_a_network_that_shows_the_classes_gets_a_high_score(pretrain, labelled):
    """Balls of three grey values are told apart by features that hold the image itself."""
    run = pretrain("r", probe=str(labelled), tasks=["reconstruct_next:t=1"], steps=40, probe_every=40)
    assert run.summary["probe"]["best"]["iou"] > 0.5


def test_the_first_of_equally_good_steps_is_the_best_and_the_untrained_network_never(tmp_path):
    log = MetricLog(tmp_path / "metrics.jsonl")
    assert best_of(log) is None
    for step, iou in ((0, 0.9), (10, 0.3), (20, 0.4), (30, 0.4)):
        log.append({"step": step, "probe/iou": iou, "probe/dice": iou})
    assert best_of(log).step == 20
    score = {"best": {"step": 20, "iou": 0.4}, "last": {"step": 30, "iou": 0.4}, "untrained": {"iou": 0.9}}
    assert told(score) == (
        "best by the probe: step 20 (mIoU 0.400), the last has 0.400, the untrained network 0.900: by the probe "
        "pre-training has not helped"
    )


def test_a_best_file_that_is_gone_is_said_and_made_anew(pretrain, labelled):
    run = pretrain("r", probe=str(labelled), steps=2)
    run.chosen.unlink()

    class Heard(Progress):
        notes = ()

        def note(self, text):
            self.notes = (*self.notes, text)

    heard = Heard()
    again = pretrain("r", probe=str(labelled), steps=3, resume=True, progress=heard)
    assert any("best.safetensors: is missing; the best of the steps from here on is kept" in t for t in heard.notes)
    assert Pretrained.open(again.folder).about["step"] == 3

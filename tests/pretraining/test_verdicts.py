"""What a run says of its pairs before it starts and of its tasks when it is done: learned, or not, or diverged."""

import json
import math
import re
import time
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ssmtl_toolkit
from helpers.small import blobs
from ssmtl_slice_siam import SliceSiam
from ssmtl_toolkit.data.sampling import Extent, Plan
from ssmtl_toolkit.engine.baselines import trivial_answers
from ssmtl_toolkit.engine.head import Head
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.pretraining.pairs import _with_partner
from ssmtl_toolkit.pretraining.verdict import DivergedError, History, judge
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import HeadSpec, TaskSpec

SMALL = {"backbone": "unet:encoder=plain,width=4", "size": 32, "batch_size": 4}
FLAGS = ("--backbone", "unet:encoder=plain,width=4", "--size", 32, "--batch-size", 4)


def pretrain(scans, out, **options):
    return ssmtl_toolkit.pretrain(out=out, **{**SMALL, "data": str(scans), "cache": out.parent / "cache", **options})


def stack(file, slices, spacing=8.0, alike=True, seed=0):
    """A scan whose slices drift slowly, or have nothing in common with each other."""
    array = blobs(slices, seed=seed) if alike else np.random.default_rng(seed).normal(0, 99, (24, 20, slices))
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([0.8, 0.8, spacing, 1.0])), file)


# --- trivial answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
def test_trivial_answers_are_what_numpy_finds_for_slices_of_any_variance(channels):
    rng = np.random.default_rng(channels)
    anchor = rng.normal(0.3, 2.0, (5, channels, 16, 12))
    factors = np.array([0.4, -0.9])[:channels, None, None]  # each channel has its own
    truth = factors * anchor + rng.normal(-0.1, 1.5, anchor.shape)
    found = trivial_answers(*(torch.from_numpy(a).float() for a in (anchor, truth)))
    best = [
        np.linalg.lstsq(anchor[:, c].reshape(-1, 1), truth[:, c].reshape(-1), rcond=None)[0] for c in range(channels)
    ]
    expected = {
        "copy": np.mean((anchor - truth) ** 2),
        "blank": np.mean(truth**2),
        "scaled_copy": np.mean((np.reshape(best, (-1, 1, 1)) * anchor - truth) ** 2),
    }
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, rel=1e-5)
    assert found["scaled_copy"] < min(found["copy"], found["blank"])


def test_for_slices_of_unit_variance_they_are_functions_of_the_correlation():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 1, 64, 64))
    anchor, truth = first, 0.3 * first + math.sqrt(1 - 0.09) * second
    anchor, truth = ((a - a.mean((2, 3), keepdims=True)) / a.std((2, 3), keepdims=True) for a in (anchor, truth))
    r = np.mean(anchor * truth)
    found = trivial_answers(torch.from_numpy(anchor), torch.from_numpy(truth))
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {"copy": 2 - 2 * r, "blank": 1, "scaled_copy": 1 - r**2}
    )


def test_blank_anchors_and_no_pairs_give_finite_answers():
    zeros, truth = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    assert trivial_answers(zeros, truth) == {"copy": 1, "blank": 1, "scaled_copy": 1}
    assert trivial_answers(truth, zeros) == {"copy": 1, "blank": 0, "scaled_copy": 0}
    assert trivial_answers(zeros[:0], truth[:0]) == {"copy": 0, "blank": 0, "scaled_copy": 0}


def test_a_run_logs_all_trivial_answers_and_compares_with_the_least(ssmtl, tmp_path):
    for i in range(3):
        stack(tmp_path / "scans" / f"p{i}.nii.gz", 12, alike=False, seed=i)
    done = ssmtl(
        "run", *FLAGS, "--data", "scans", "--task", "reconstruct_prev:t=3", "--steps", 3, "--out", "r", "--json"
    )
    task = json.loads(done.stdout)["tasks"]["reconstruct_prev:t=3"]
    assert task["copy"] == pytest.approx(2, rel=0.1)  # unlike slices: copying is twice as bad as a blank slice
    assert task["blank"] == pytest.approx(1, rel=0.01)
    assert task["baseline"] == "scaled_copy"
    assert task["scaled_copy"] == min(task[name] for name in ("copy", "blank", "scaled_copy")) > 0.9
    line = json.loads((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {f"reconstruct_prev:t=3/{name}" for name in ("loss", "copy", "blank", "scaled_copy")} <= set(line)


# --- verdicts of real runs ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_beats_copying_has_learned(scans, tmp_path):
    run = pretrain(scans, tmp_path / "r", tasks=["reconstruct_next:t=4"], steps=250, lr=3e-3)
    task = run.summary["tasks"]["reconstruct_next:t=4"]
    percent = 100 * (1 - task["loss"] / task["scaled_copy"])
    assert task["verdict"] == "learned"
    assert (
        f"ends {percent:.0f} % below the best trivial answer, scaled_copy ({task['scaled_copy']:.4g})"
        in task["because"]
    )


def test_a_run_that_ends_above_a_trivial_answer_is_worse_than_trivial_and_says_what_to_change(scans, tmp_path, ssmtl):
    options = ["--task", "reconstruct_prev:t=1", "--lr", "1e-6", "--steps", 30]
    done = ssmtl("run", *FLAGS, "--data", scans, *options, "--out", "r")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "worse than trivial" in line]
    assert line.startswith("reconstruct_prev:t=1: worse than trivial: its loss ")
    assert re.search(r"ends (\d+ % )?above the best trivial answer, ", line)
    assert "try another --lr" in line


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_short_trial_is_too_short_to_tell(scans, tmp_path, steps):
    tasks = ["reconstruct_prev:t=1", "reconstruct_next:t=8", "slice_siam:t=1", "moco_v2:queue=10"]
    run = pretrain(scans, tmp_path / "r", tasks=tasks, steps=steps)
    assert {task["verdict"] for task in run.summary["tasks"].values()} == {"too short to tell"}


@pytest.mark.parametrize("steps", [3, 30])
def test_a_diverged_run_exits_with_1_after_its_files_are_written(ssmtl, scans, tmp_path, steps):
    options = ["--task", "reconstruct_prev:t=1", "--lr", 100, "--steps", steps]
    done = ssmtl("run", *FLAGS, "--data", scans, *options, "--out", "r", "--json")
    assert done.returncode == 1
    assert "r: diverged: task 'reconstruct_prev:t=1': its loss ends at" in done.stderr
    assert "try a lower --lr" in done.stderr
    assert json.loads(done.stdout)["tasks"]["reconstruct_prev:t=1"]["verdict"] == "diverged"
    written = {path.name for path in (tmp_path / "r").iterdir()}
    assert {"summary.json", "backbone.safetensors", "checkpoints", "metrics.jsonl"} <= written
    shown = ssmtl("run", *FLAGS, "--data", scans, *options, "--out", "s")
    assert shown.returncode == 1
    assert "without learning" in shown.stderr
    assert "reconstruct_prev:t=1: diverged: its loss ends at" in shown.stderr


def test_in_python_a_diverged_run_raises_with_its_summary(scans, tmp_path):
    with pytest.raises(DivergedError, match="more than ten times the level without training") as error:
        pretrain(scans, tmp_path / "r", tasks=["reconstruct_next:t=2"], steps=5, lr=100)
    assert error.value.exit_code == 1
    assert error.value.summary == json.loads((tmp_path / "r" / "summary.json").read_text())


class Runaway(TaskSpec):
    """Names no trivial answer; its loss grows with the weights that it is rewarded for."""

    name: ClassVar[str] = "runaway"
    needs = frozenset({"pooled"})

    def build(self, backbone):
        class Module(nn.Module):
            def forward(self, step):
                pooled = step.features().pooled
                loss = pooled.square().mean()
                return TaskOutput(loss if loss > 1e6 else loss.detach() * 2 - loss, pairs=len(pooled))

        return Module()


def test_a_task_without_trivial_answers_diverges_too(scans, tmp_path):
    with pytest.raises(DivergedError, match="task 'runaway'"):
        pretrain(scans, tmp_path / "r", tasks=[Runaway()], steps=60, lr=0.05, log_every=2)


def test_slice_pairs_whose_features_are_all_the_same_have_collapsed(tmp_path):
    means = {"loss": -0.9995, "random": -0.9993, "spread": 0.01}
    siam = SliceSiam()
    dead = judge(siam, History([-0.2, -0.9], -0.2, means, 100, 999))
    assert dead.word == "collapsed"
    assert "try a lower --lr, or norm=batch" in dead.because
    alive = {"loss": -0.9684, "random": -0.8622, "spread": 0.3225}
    assert judge(siam, History([-0.2, -0.9], -0.2, alive, 100, 999)).word == "learned"


class Rising(HeadSpec):
    """A head whose loss rises with every step."""

    name: ClassVar[str] = "rising"

    def build(self, backbone, classes):
        class Module(Head):
            def __init__(self):
                super().__init__()
                self.decode = nn.Conv2d(backbone.dense_channels, classes, 1)

            def forward(self, features):
                return self.decode(features.dense)

            def loss(self, maps, target):
                loss = maps.square().mean()
                return 2 * loss.detach() - loss

        return Module()


class Notes(Progress):
    """Keeps what is noted."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "rises"), [(Rising(), True), ("segmentation", False)])
def test_a_fine_tuning_whose_loss_rises_without_end_is_noted(labelled, tmp_path, head, rises):
    options = {"classes": "big=10,small=20", "train_scans": 1, "test_scans": 1, "slices_per_scan": 2, "surface": False}
    shared = {"data": str(labelled), "backbone": SMALL["backbone"], "size": 32, "steps": 40, "log_every": 2}
    heard = Notes()
    ssmtl_toolkit.finetune(
        None, head=head, out=tmp_path / "ft", cache=tmp_path / "c", progress=heard, **shared, **options
    )
    assert any("rises without end" in note for note in heard.notes) == rises


# --- the rule, on curves -----------------------------------------------------------------------------------------


class Plain(TaskSpec):
    """Compared with `guess`."""

    name: ClassVar[str] = "plain"
    metrics = ("guess",)
    baselines = ("guess",)

    def build(self, backbone):
        raise NotImplementedError


class Alone(Plain):
    """Compared with nothing."""

    name: ClassVar[str] = "alone"
    baselines = ()


class Cosine(Plain):
    """Bounded by -1 and 1."""

    name: ClassVar[str] = "cosine"
    floor = -1.0


def verdict(task, losses, steps=400, guess=1.0):
    tenth = max(1, len(losses) // 10)
    means = {"loss": float(np.mean(losses[-tenth:])), "guess": guess}
    return judge(task, History(losses, losses[0], means, steps, 0.9 * steps)).word


NOISE = np.random.default_rng(0).lognormal(0, 1, 40)


@pytest.mark.parametrize(
    ("task", "losses", "word"),
    [
        (Plain(), list(np.linspace(1, 0.2, 40)), "learned"),
        (Plain(), [1.0] * 40, "did not learn"),
        (Plain(), list(np.linspace(1, 0.99, 40)), "did not learn"),
        (Plain(), list(np.geomspace(1, 5, 40)), "diverged"),
        (Plain(), [1.0, *[5.0] * 39], "worse than trivial"),
        (Plain(), [1.0, *[50.0] * 39], "diverged"),
        (Plain(), [1.0, *np.geomspace(1e9, 1e4, 39)], "diverged"),
        (Plain(), list(NOISE), "worse than trivial"),
        (Alone(), list(NOISE), "no comparison"),
        (Alone(), list(np.linspace(1e-4, 0.9, 40)), "no comparison"),
        (Alone(), list(np.geomspace(0.1, 6, 40)), "diverged"),
        (Alone(), list(1e4 * np.linspace(1, 0.5, 40)), "no comparison"),
        (Cosine(), list(np.linspace(-0.99, 0.9, 40)), "worse than trivial"),
    ],
)
def test_the_rule_tells_divergence_from_noise_and_from_bounded_losses(task, losses, word):
    assert verdict(task, losses, guess=-0.9 if isinstance(task, Cosine) else 1.0) == word


def test_an_untrained_network_far_above_a_small_trivial_answer_is_no_divergence():
    assert verdict(Plain(), [1.05, 0.9, 0.8], steps=25, guess=0.04) == "worse than trivial"
    assert verdict(Plain(), [1.05, 1.1], steps=3, guess=0.04) == "too short to tell"


@pytest.mark.slow
def test_moco_is_not_judged_while_its_queue_still_holds_random_keys(scans, tmp_path):
    few = pretrain(scans, tmp_path / "few", tasks=["moco_v2:queue=200"], steps=30).summary
    assert few["tasks"]["moco_v2:queue=200"]["verdict"] == "too short to tell"
    more = pretrain(scans, tmp_path / "more", tasks=["moco_v2:queue=20"], steps=30).summary
    assert more["tasks"]["moco_v2:queue=20"]["verdict"] in {"no comparison", "did not learn", "worse than trivial"}


# --- what is said of the pairs before the first step --------------------------------------------------------------


def test_a_t_too_large_for_short_stacks_is_said_with_a_better_one(ssmtl, tmp_path):
    for i, slices in enumerate((5, 9, 14)):
        stack(tmp_path / "scans" / f"p{i}.nii.gz", slices, seed=i)
    options = ["--task", "reconstruct_prev", "--task", "reconstruct_next", "--steps", 1, "--out", "r", "--json"]
    done = ssmtl("run", *FLAGS, "--data", "scans", *options)
    both = "reconstruct_prev, reconstruct_next: "
    assert "scans     3 scans, 28 slices (5 to 14 a scan, median 9), 8 mm apart" in done.stderr
    assert f"pairs     {both}46 % of the slices have a partner, 5 slices (40 mm) away" in done.stderr  # 13 of 28
    assert f"note: {both}only 46 % of the slices have a partner" in done.stderr
    told = json.loads(done.stdout)  # nothing but JSON on stdout
    assert told["stacks"] == {"slices": [5, 9, 14], "mm": [8.0, 8.0, 8.0]}
    pairs = told["pairs"]["reconstruct_prev"]
    assert set(pairs) == {"share", "slices", "mm", "correlation", "hint"}
    assert (pairs["share"], pairs["slices"], pairs["mm"]) == (pytest.approx(13 / 28), [5, 5], [40.0, 40.0])
    assert pairs["hint"] in {"try t=1", "try t=1 or 2", "try t=1 to 3"}
    assert pairs["hint"] in done.stderr


def test_slices_too_far_apart_to_be_alike_are_said(ssmtl, tmp_path):
    for i in range(2):
        stack(tmp_path / "scans" / f"p{i}.nii.gz", 30, spacing=3.0, seed=i, alike=False)
    done = ssmtl("run", *FLAGS, "--data", "scans", "--task", "reconstruct_next:t=2", "--steps", 1, "--out", "r")
    assert "note: reconstruct_next:t=2: slices 6 mm apart have little in common (correlation about " in done.stderr
    assert "copying one is a worse guess than a blank slice; try t=1" in done.stderr


def test_the_estimated_correlation_is_that_of_the_slices(scans, tmp_path):
    run = pretrain(scans, tmp_path / "r", tasks=["reconstruct_next:t=4"], steps=40)
    pairs, task = run.summary["pairs"]["reconstruct_next:t=4"], run.summary["tasks"]["reconstruct_next:t=4"]
    assert pairs["correlation"] == pytest.approx(1 - task["copy"] / 2, abs=0.05)


def test_distances_that_suit_the_scans_are_not_warned_of(ssmtl, scans):
    options = ["--task", "reconstruct_prev:t=1", "--task", "slice_siam:t=1", "--task", "moco_v2:queue=10"]
    done = ssmtl("run", *FLAGS, "--data", scans, *options, "--steps", 1, "--out", "r")
    assert "note:" not in done.stderr
    assert "pairs     reconstruct_prev:t=1: 92 % of the slices have a partner, 1 slice (2 mm) away" in done.stderr
    assert "pairs     slice_siam:t=1: 100 % of the slices have a partner, 2 slices (4 mm) away" in done.stderr
    assert "pairs     moco_v2" not in done.stderr


def test_a_batch_larger_than_the_data_is_noted(ssmtl, scans):
    flags = [
        "--size",
        32,
        "--backbone",
        SMALL["backbone"],
        "--task",
        "reconstruct_prev:t=1",
        "--steps",
        1,
        "--batch-size",
        50,
    ]
    done = ssmtl("run", *flags, "--data", scans, "--out", "r")
    assert done.returncode == 0, done.stderr
    assert "note: a batch of 50 is more than the 44 slices to train on" in done.stderr
    fits = ssmtl("run", *FLAGS, *flags[:-1], 44, "--data", scans, "--out", "s")
    assert "a batch of" not in fits.stderr


@given(st.sets(st.integers(-12, 12).filter(bool), max_size=4), st.lists(st.integers(1, 20), min_size=1, max_size=3))
def test_the_share_of_slices_with_a_partner_is_what_the_sampler_draws_from(offsets, counts):
    starts = np.cumsum([0, *counts[:-1]])
    extents = [Extent(int(start), count, 1.0, 0) for start, count in zip(starts, counts, strict=True)]
    plan = Plan(extents, [{"task": {"other": sorted(offsets)}}] * len(counts))
    assert sum(_with_partner(sorted(offsets), count) for count in counts) == plan.pairs[0]


# --- sessions, experiments ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_resumed_run_counts_the_seconds_of_all_its_sessions(scans, tmp_path):
    first = pretrain(scans, tmp_path / "r", tasks=["reconstruct_prev:t=1"], steps=100).summary["seconds"]
    begin = time.perf_counter()
    both = pretrain(scans, tmp_path / "r", tasks=["reconstruct_prev:t=1"], steps=101, resume=True).summary["seconds"]
    second = time.perf_counter() - begin
    assert second + 0.5 * first < both + 0.2 < second + first + 0.5


EXPERIMENT = """
[backbones]
small = "unet:encoder=plain,width=4"
[pretrain]
size = 32
batch_size = 8
steps = 3
[finetune]
classes = "big=10,small=20"
train_scans = 2
slices_per_scan = 2
steps = 2
seeds = 1
surface = false
[split]
train = 2
test = 4
[rows.tame]
backbone = "small"
tasks = ["reconstruct_prev:t=1"]
[rows.wild]
backbone = "small"
tasks = ["reconstruct_prev:t=1"]
pretrain = { lr = 100 }
"""


def test_a_diverged_row_of_an_experiment_has_failed_and_the_others_are_done(ssmtl, labelled, tmp_path):
    (tmp_path / "rates.toml").write_text(EXPERIMENT)
    call = ("experiment", "rates.toml", "--data", labelled, "--out", "out", "--json")
    for _ in range(2):  # nor is it taken for finished when the command is given again
        done = ssmtl(*call)
        assert done.returncode == 1
        rows = {row["id"]: row for row in json.loads(done.stdout)["rows"]}
        assert rows["tame"]["columns"]["mIoU"]["mean"] is not None
        assert "diverged: task 'reconstruct_prev:t=1'" in rows["wild"]["reason"]
        assert "1 of 2 rows failed" in done.stderr
    assert len(list((tmp_path / "out" / "finetune").iterdir())) == 1


def test_an_untrained_network_is_never_said_to_have_learned_moco(scans, tmp_path):
    summary = pretrain(scans, tmp_path / "r", tasks=["moco_v2:queue=20"], steps=30, lr=1e-9).summary
    assert summary["tasks"]["moco_v2:queue=20"]["verdict"] in {"no comparison", "did not learn", "worse than trivial"}

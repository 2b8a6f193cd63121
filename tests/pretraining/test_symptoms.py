"""What a training says of tasks that starve, collapse, are solved at once or break their floor, and of good ones."""

import json
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ssmtl_toolkit
from ssmtl_slice_siam import SliceSiam
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.pretraining.symptoms import first_accuracy, gradient_looks, gradient_shares, symptoms
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.log import RunningMeans
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.specs import TaskSpec
from ssmtl_toolkit.testing.sample import batch_for, multitask

FAST = {"backbone": "unet:encoder=plain,width=4", "size": 32, "batch_size": 4}
NEXT, PREV = "reconstruct_next:t=1", "reconstruct_prev:t=1"


def pretrain(scans, out, tasks, **options):
    usual = {"data": str(scans), "cache": out.parent / "cache", "steps": 24, "log_every": 4, **FAST}
    return ssmtl_toolkit.pretrain(out=out, tasks=tasks, **{**usual, **options})


def warnings(run):
    return {label: set(task["warnings"]) for label, task in run.summary["tasks"].items()}


class Pulls(TaskSpec):
    """Has a loss of one of the features that is lowest where they are the same for all slices; ends at -5."""

    name: ClassVar[str] = "pulls"
    needs = frozenset({"dense"})

    def build(self, backbone):
        return PullsModule()


class PullsModule(nn.Module):
    def forward(self, step):
        dense = step.features().dense.float()
        return TaskOutput(dense.square().mean() - 5, pairs=len(dense))


class Unstopped(SliceSiam):
    """Slice pairs without predictor and stop-gradient, which is what keeps them from collapsing."""

    name: ClassVar[str] = "unstopped"

    def build(self, backbone):
        return UnstoppedModule(super().build(backbone))


class UnstoppedModule(nn.Module):
    def __init__(self, siam):
        super().__init__()
        self.health = siam._health

    def forward(self, step):
        positive = step.companion("positive")
        ours = positive.of(step.features().pooled).float()
        theirs = step.encode(positive.image).pooled.float()
        loss = -nn.functional.cosine_similarity(ours, theirs).mean()
        return TaskOutput(loss, self.health(ours.detach(), theirs.detach()), pairs=len(ours))


def test_a_task_whose_weight_is_next_to_nothing_starves_and_is_named_everywhere(ssmtl, scans, tmp_path):
    flags = ["--backbone", FAST["backbone"], "--size", 32, "--batch-size", 4, "--steps", 24, "--log-every", 4]
    tasks = ["--task", NEXT, "--task", f"{PREV},weight=1e-4"]
    done = ssmtl("run", *flags, "--data", scans, *tasks, "--out", "r")
    assert done.returncode == 0, done.stderr
    label = f"{PREV},weight=0.0001"
    (line,) = [line for line in done.stderr.splitlines() if "starves" in line]
    assert line.startswith(f"{label}: starves: its gradient at the backbone is 0.0")
    assert line.endswith(" % of all; give it weight=auto, or a larger weight")
    told = {k: v["warnings"] for k, v in json.loads((tmp_path / "r" / "summary.json").read_text())["tasks"].items()}
    assert told[NEXT] == {}
    assert f"{label}: starves: {told[label]['starves']}" == line
    assert ssmtl("report", "r").returncode == 0
    assert f"starves: {told[label]['starves']}" in (tmp_path / "r" / "report.html").read_text()


def test_dense_features_that_are_the_same_for_all_slices_have_collapsed(scans, tmp_path):
    run = pretrain(scans, tmp_path / "r", [Pulls(), f"{NEXT},weight=1e-3"], steps=40, lr=0.03)
    tasks = run.summary["tasks"]
    assert {task["verdict"] for task in tasks.values()} == {"collapsed"}
    assert "the dense features are the same for all slices" in tasks["pulls"]["because"]
    assert warnings(run) == {"pulls": {"below its floor"}, f"{NEXT},weight=0.001": set()}
    assert "its loss ends at -5, below 0, which its spec states" in tasks["pulls"]["warnings"]["below its floor"]


def test_slice_pairs_without_stop_gradient_are_said_to_collapse(scans, tmp_path):
    run = pretrain(scans, tmp_path / "r", [Unstopped(t=1)], steps=60, lr=0.03, batch_size=8)
    assert run.summary["tasks"]["unstopped:t=1"]["verdict"] == "collapsed"


@pytest.mark.parametrize("task", ["contrast:positives=views", "dense_contrast"])
def test_views_that_are_the_same_are_solved_at_once(scans, tmp_path, task):
    options = {"batch_size": 12, "steps": 1, "held_out": 0}
    run = pretrain(scans, tmp_path / "same", [task], augment=[], **options)
    told = run.summary["tasks"][task]["warnings"]
    assert told["solved at once"].startswith("it picks the right view in 100 % before anything is learned")
    assert "omit --augment for the default" in told["solved at once"]
    assert warnings(pretrain(scans, tmp_path / "views", [task], **options)) == {task: set()}


@pytest.mark.slow
def test_good_trainings_are_not_warned_of(scans, tmp_path):
    """All bundled tasks of the encoder and the decoder side by side, each with its weight."""
    tasks = [NEXT, PREV, "slice_siam:t=1", "contrast", "dense_contrast", "vicreg", "moco_v2:queue=20", "locate"]
    tasks += ["slice_position:t=2", "slice_fusion", "inpaint", "denoise", "restore"]
    run = pretrain(scans, tmp_path / "r", tasks, batch_size=8)
    assert warnings(run) == {task: set() for task in tasks}
    assert "collapsed" not in {task["verdict"] for task in run.summary["tasks"].values()}


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("tasks", [["reconstruct_next:t=1", "reconstruct_prev:t=1"], ["contrast", "moco_v2:queue=64"]])
@pytest.mark.parametrize("data", ["phantom:patients=6", "sunnybrook"])
def test_the_phantom_and_real_hearts_raise_no_warning(request, tmp_path, data, tasks):
    source = request.getfixturevalue("sunnybrook") if data == "sunnybrook" else data
    run = pretrain(
        source, tmp_path / "r", tasks, steps=60, batch_size=16, size=48, backbone="unet:encoder=plain,width=8"
    )
    print(data, {label: (task["verdict"], task["warnings"]) for label, task in run.summary["tasks"].items()})
    assert warnings(run) == {label: set() for label in tasks}


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a GPU: reading a number of a tensor."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_accuracy_or_spread_makes_a_step_wait_for_its_value():
    texts = ["contrast", "dense_contrast", "moco_v2:queue=16", "vicreg", "slice_siam:t=1"]
    tasks = [registry().resolve(TaskSpec, text) for text in texts]
    model, batch = multitask(tasks), batch_for(tasks)
    with Waits() as waits:
        total, outputs = model(batch)
        total.backward()
        means = RunningMeans({str(task): task.metrics for task in tasks})
        means.add(outputs)
    assert waits.number == 0
    with Waits() as waits:
        float(total.detach())
    assert waits.number == 1


# --- the rules, on logs ------------------------------------------------------------------------------------------


class Picks(TaskSpec):
    """Picks a view among others; its first steps say nothing."""

    name: ClassVar[str] = "picks"
    metrics = ("accuracy", "chance")
    warm: int = 0

    def warm_up(self):
        return self.warm

    def if_solved_at_once(self):
        return "look at it"

    def build(self, backbone):
        raise NotImplementedError


def log_of(tmp_path, *records):
    log = MetricLog(tmp_path / "metrics.jsonl")
    for record in records:
        log.append(record)
    return log


@pytest.mark.parametrize(
    ("warm", "points", "accuracy"),
    [
        (0, {1: 0.1, 10: 0.99}, 0.1),
        (32, {1: 1.0, 10: 0.2, 20: 0.3}, 0.3),  # the line of step 10 has steps before the warm-up is over
        (32, {1: 1.0, 500: 0.99, 1000: 0.99}, None),  # by then it may have learned
        (0, {}, None),
    ],
)
def test_what_is_solved_at_once_is_judged_by_the_first_line_after_the_warm_up(tmp_path, warm, points, accuracy):
    label = str(Picks(warm=warm))
    log = log_of(tmp_path, *({"step": step, f"{label}/accuracy": value} for step, value in points.items()))
    assert first_accuracy(log, Picks(warm=warm), images_per_step=8) == accuracy


@pytest.mark.parametrize(("accuracy", "chance", "told"), [(0.96, 4.0, True), (0.9, 4.0, False), (1.0, 2.0, False)])
def test_few_candidates_or_mistakes_are_no_alarm(accuracy, chance, told):
    found = symptoms(Picks(), {"loss": 1.0, "chance": chance}, {}, accuracy)
    assert ("solved at once" in found) == told


def test_shares_are_medians_after_the_first_tenth_with_the_factors_of_balancers(tmp_path):
    one, two = Picks(), Picks(warm=1)
    rows = [(1, 0.0, 1.0), (40, 1.0, 1.0), (60, 0.0, 1.0), (80, 1.0, 3.0), (100, 1.0, 9.0)]
    log = log_of(
        tmp_path,
        *({"step": step, "picks/gradient": a, "picks:warm=1/gradient": b, "picks/weight": 3.0} for step, a, b in rows),
    )
    shares = gradient_shares(log, [one, two], 100)
    assert shares["picks"] == pytest.approx(0.5)  # of 3/4, 3/6, 3/12; it has no gradient in step 60
    assert shares["picks:warm=1"] == pytest.approx(0.625)  # of 1/4, 1, 3/6, 9/12


def test_gradients_are_measured_seldom_and_in_steps_that_are_logged():
    both = [Picks(), Picks(warm=1)]
    assert gradient_looks(both, 1000, 10) == {1, 200, 400, 600, 800, 1000}
    assert gradient_looks(both, 105, 10) == {1, 60, 105}
    assert gradient_looks(both, 24, 10) == {1, 24}
    assert not gradient_looks(both, 19, 10)
    assert not gradient_looks([Picks(), Picks(warm=1, weight=0)], 1000, 10)

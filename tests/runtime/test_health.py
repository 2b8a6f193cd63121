"""A step that is not finite ends the training at that step, or is skipped without a trace; it can be repeated."""

import json
import math
import re
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import nn

import ssmtl_toolkit
from helpers.small import SMALL
from ssmtl_toolkit import UsageError, finetune
from ssmtl_toolkit.config import FinetuneConfig, RunConfig
from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.downstream import keeping
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.downstream.loop import Loop
from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.engine.balancer import Balancer
from ssmtl_toolkit.engine.head import Head
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.pretraining.replay import replay
from ssmtl_toolkit.pretraining.update import Updater
from ssmtl_toolkit.registry import Entry, Plugin, registry
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.health import GRADIENT, Health
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import BalancerSpec, HeadSpec, TaskSpec
from ssmtl_toolkit.testing.sample import store_for

PLUGIN = Plugin("bad", "bad-parts", "1.0")


class Goes(TaskSpec):
    """Goes bad in some batches, which it tells by their seeds."""

    name: ClassVar[str] = "goes"
    needs: ClassVar = frozenset({"pooled"})
    metrics: ClassVar = ("odd",)

    how: str = Field("loss", description="How.")
    batches: str = Field("3", description="Which, counted from 1.")

    def build(self, backbone):
        return GoesModule(self, backbone.pooled_channels)


class Swallows(torch.autograd.Function):
    """Gives what it takes, and a gradient that is not finite."""

    @staticmethod
    def forward(ctx, x, bad):
        ctx.bad = bad
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.bad, None


class GoesModule(nn.Module):
    def __init__(self, spec, channels):
        super().__init__()
        self.how, self.bad = spec.how, {step_seed(0, int(number) - 1) for number in spec.batches.split("+")}
        self.judge = nn.Linear(channels, 4)
        self.judged = nn.Identity()
        self.register_buffer("queue", torch.zeros(3))
        self.moved = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, step):
        pooled = step.features().pooled
        self.queue.copy_(torch.cat([self.queue[1:], pooled.detach().mean()[None]]))
        with torch.no_grad():
            self.moved += pooled.mean()
        value = {"inf": math.inf}.get(self.how, math.nan) if step.seed in self.bad else 1.0
        if self.how == "inside":
            pooled = self.judged(pooled * value)
        answer = self.judge(pooled).float()
        if self.how == "gradient":
            answer = Swallows.apply(answer, value)
        loss = answer.square().mean() * (value if self.how in {"loss", "inf"} else 1.0)
        return TaskOutput(loss, {"odd": loss.detach() * (math.nan if self.how == "metric" else 1)}, len(step.anchor))


class Counting(BalancerSpec):
    """Adds losses, and counts updates and batches."""

    name: ClassVar[str] = "counting"

    def build(self, tasks):
        return CountingModule()


class CountingModule(Balancer):
    feedback: ClassVar = "losses"

    def __init__(self):
        super().__init__()
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, losses, shared):
        self.batches += 1
        return torch.stack(list(losses.values())).sum()

    def updated(self, before, after):
        self.updates += 1


class BadHead(HeadSpec):
    """A head whose loss is NaN in step 3."""

    name: ClassVar[str] = "bad_head"
    output: ClassVar = "image"
    needs: ClassVar = frozenset({"dense"})

    def build(self, backbone, classes):
        return BadHeadModule(backbone)


class BadHeadModule(Head):
    def __init__(self, backbone):
        super().__init__()
        self.last = nn.Conv2d(backbone.dense_channels, backbone.in_channels, 1)
        self.done = 0  # not a buffer: a skipped step would put it back

    def forward(self, features):
        return self.last(features.dense)

    def loss(self, maps, target):
        self.done += 1
        return (maps - target).square().mean() * (math.nan if self.done == 3 else 1)


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    for spec in (Goes, Counting, BadHead):
        monkeypatch.setitem(registry().entries, (spec.kind, spec.name), Entry(spec, PLUGIN))


class Notes(Progress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def pretrain(scans, out, tasks, **options):
    usual = {"data": str(scans), "backbone": SMALL, "size": 32, "batch_size": 4, "steps": 6, "log_every": 5}
    return ssmtl_toolkit.pretrain(out=out, cache=out.parent / "cache", tasks=tasks, **{**usual, **options})


NEXT = "reconstruct_next:t=1"


@pytest.mark.parametrize(
    ("how", "told", "first"),
    [
        ("loss", "step 3: task 'goes': its loss is nan, on ", "the loss of task 'goes'"),
        ("inf", "step 3: task 'goes:how=inf': its loss is inf, on ", "the loss of task 'goes:how=inf'"),
        (
            "gradient",
            "step 3: the gradient is nan though all losses are finite, on ",
            "in the backward pass of task 'goes:how=gradient': Function 'SwallowsBackward' returned nan",
        ),
        (
            "inside",
            "step 3: task 'goes:how=inside': its loss is nan, on ",
            "the output of judged of task 'goes:how=inside' (Identity), as is what it is given",
        ),
    ],
)
def test_a_bad_step_ends_the_run_at_that_step_and_can_be_repeated(scans, tmp_path, ssmtl, how, told, first):
    with pytest.raises(SsmtlError) as error:
        pretrain(scans, tmp_path / "r", [NEXT, f"goes:how={how}"], checkpoint_every=1)
    message = str(error.value)
    assert message.startswith(told)
    assert re.search(r"on (p\d\.nii\.gz|p\d) \(slices \d+", message)
    assert "the checkpoint of step 2 is good; ssmtl run --replay " in message
    assert "\n" not in message
    found = replay(tmp_path / "r")
    assert found["step"] == 3
    assert found["first"].startswith(first)
    assert math.isfinite(float(found["losses"][NEXT]))
    done = ssmtl("run", "--replay", tmp_path / "r" / "bad-step.safetensors")
    assert done.returncode == 0, done.stderr
    assert f"not finite first: {first}" in done.stdout


def test_a_repeated_step_has_the_losses_that_it_had(scans, tmp_path):
    """Also with draws, augmentation, several batches and a queue: a step that a good run logs, and a bad one keeps."""
    options = {"accumulate": 2, "augment": ["affine:p=1", "noise:p=1"], "log_every": 1, "steps": 3}
    tasks = [NEXT, "denoise", "moco_v2:queue=16"]
    good = pretrain(scans, tmp_path / "good", [*tasks, "goes:batches=99"], **options)
    line = json.loads((good.folder / "metrics.jsonl").read_text().splitlines()[2])
    with pytest.raises(SsmtlError):
        pretrain(scans, tmp_path / "bad", [*tasks, "goes:batches=6"], **options)  # its second batch of step 3
    found = replay(tmp_path / "bad")
    assert (found["step"], found["losses"]["goes:batches=6"]) == (3, "nan")
    first = [part["losses"] for part in replayed_parts(tmp_path / "bad")]
    for task in ("denoise", NEXT):
        assert sum(float(losses[task]) for losses in first) / 2 == pytest.approx(line[f"{task}/loss"], rel=1e-3)


def replayed_parts(folder):
    from ssmtl_toolkit.pretraining.badstep import kept
    from ssmtl_toolkit.pretraining.replay import _repeated

    config = RunConfig.of(RunConfig.read(folder / "run.toml")).resolve()
    model = MultiTask.build(config.backbone, config.tasks, config.balancer, 1).train()
    _, batches = kept(folder / "bad-step.safetensors", model)
    return [_repeated(model, config, batch) for batch in batches]


def states(folder):
    return {int(path.name[5:]): checkpoint.load(path).tensors for path in (folder / "checkpoints").iterdir()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


SKIPPING = {"on_nan": "skip:2", "balancer": "counting", "checkpoint_every": 1, "keep": 0, "log_every": 2, "clip": 1.0}


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_skipped_step_leaves_no_trace_but_its_number(scans, tmp_path, how):
    notes = Notes()
    run = pretrain(scans, tmp_path / "r", [NEXT, f"goes:how={how},batches=3"], progress=notes, **SKIPPING)
    saved = states(run.folder)
    assert equal(saved[2], saved[3])
    assert not equal(saved[3], saved[4])
    assert saved[6]["model.balancer.updates"] == saved[6]["model.balancer.batches"] == 5
    assert run.summary["skipped_steps"] == [3]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    logged = [(line["step"], line.get("skipped")) for line in lines]
    assert logged == [(1, None), (2, None), (4, 1), (5, None), (6, None)]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    (note,) = [note for note in notes.notes if note.endswith(": skipped")]
    assert note.startswith("step 3: ")


@pytest.mark.parametrize(("on_nan", "copied"), [("stop", False), ("skip:1", True)])
def test_momentum_encoders_are_copied_in_each_step_only_where_a_skipped_one_must_leave_no_trace(on_nan, copied):
    config = RunConfig.of({"backbone": SMALL, "tasks": ["moco_v2:queue=16"], "on_nan": on_nan}).resolve()
    fabric = make_fabric(config, Progress())
    fabric.launch()
    model = MultiTask.build(config.backbone, config.tasks, config.balancer, channels=1)
    modules = fabric.setup(model, torch.optim.Adam(model.parameters()))
    update = Updater(fabric, config, *modules, load=None, running_means=None, weights={})
    state = {id(tensor) for tensor in update.health.state()}
    assert state >= {id(buffer) for buffer in model.buffers()}
    assert {id(parameter) in state for parameter in model.tasks.parameters()} == {copied}


def test_a_run_that_skips_resumes_with_equal_bits_and_stops_after_too_many_in_a_row(scans, tmp_path):
    tasks = [NEXT, "goes:batches=2+4+5+9+10+11"]
    options = {**SKIPPING, "steps": 8}
    whole = pretrain(scans, tmp_path / "whole", tasks, **options)
    pretrain(scans, tmp_path / "parts", tasks, **{**options, "steps": 4})
    parts = pretrain(scans, tmp_path / "parts", tasks, resume=True, **options)
    assert whole.summary["skipped_steps"] == parts.summary["skipped_steps"] == [2, 4, 5]
    assert equal(states(whole.folder)[8], states(parts.folder)[8])
    logs = [(run.folder / "metrics.jsonl").read_text() for run in (whole, parts)]
    assert logs[0] == logs[1]
    with pytest.raises(SsmtlError, match=r"step 11: task 'goes:.*; 2 steps before it skipped; .* 10 is good"):
        pretrain(scans, tmp_path / "parts", tasks, resume=True, **{**options, "steps": 12})


def test_a_run_that_a_bad_step_ended_continues_without_it(scans, tmp_path):
    tasks = [NEXT, "goes:batches=3"]
    with pytest.raises(SsmtlError, match="--on-nan skip:3 does without such steps"):
        pretrain(scans, tmp_path / "r", tasks, checkpoint_every=2)
    assert pretrain(scans, tmp_path / "r", tasks, resume=True, on_nan="skip:3").summary["skipped_steps"] == [3]


@pytest.mark.parametrize("value", ["skip", "skip:0", "skip:-1", "no", "stop:1", "skip:3\n"])
def test_on_nan_takes_stop_or_a_number_of_skips(tmp_path, value):
    with pytest.raises(UsageError, match="on_nan"):
        ssmtl_toolkit.RunConfig.of({"on_nan": value})


def test_a_metric_that_is_not_finite_is_noted_once_and_not_logged(scans, tmp_path):
    notes = Notes()
    run = pretrain(scans, tmp_path / "r", [NEXT, "goes:how=metric"], progress=notes, log_every=1)
    assert "goes:how=metric/odd" not in (run.folder / "metrics.jsonl").read_text()
    assert sum("metric 'goes:how=metric/odd' is not finite by step 1" in note for note in notes.notes) == 1


def test_where_nothing_waits_the_first_bad_step_holds_the_optimizer_back_and_is_known_later():
    """As on a GPU: the fused optimizer learns it on the device, and the host reads of it two steps later."""
    network = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)
    health = Health(optimizer, list, torch.device("cpu"))
    health.waits = False
    weights, known = [], []
    for step in range(1, 6):
        known.append(health.begin())
        loss = network(torch.ones(2, 3)).square().mean() * (math.nan if step == 2 else 1)
        loss.backward()
        assert health.check(step, {"a": loss}, network.parameters()) is None
        optimizer.step()
        optimizer.zero_grad()
        weights.append(network.weight.detach().clone())
    assert not torch.equal(weights[0], network.weight + 1)
    assert all(torch.equal(weights[0], later) for later in weights[1:])
    assert known[:3] == [None, None, None]
    assert (known[3].step, known[3].losses) == (2, ["a"])
    assert math.isnan(known[3].values[GRADIENT])
    assert health.settle().step == 2


def tune(labelled, tmp_path, out, **options):
    usual = {"data": str(labelled), "head": "bad_head", "backbone": SMALL, "size": 32, "batch_size": 4, "steps": 6}
    usual |= {"train_scans": 2, "test_scans": 2, "log_every": 3, "recipe": "paper"}
    return finetune(None, out=tmp_path / out, cache=tmp_path / "cache", **{**usual, **options})


BAD_LOSS = "step 3: the loss of head 'bad_head' is nan, on "


def test_a_bad_step_ends_a_fine_tuning_at_that_step_with_its_scans(labelled, tmp_path):
    with pytest.raises(SsmtlError, match=BAD_LOSS + r"\w+ \(slices .*; --on-nan skip:3 skips such"):
        tune(labelled, tmp_path, "f")


def test_nothing_of_a_bad_step_is_kept_where_it_is_known_later(tmp_path, monkeypatch):
    """As on a GPU; resumed from, its weights would seem to have been updated by it."""
    monkeypatch.setattr(keeping, "SECONDS", 0.0)
    monkeypatch.setattr(keeping, "_SHARE", 1e9)
    options = {"head": "bad_head", "backbone": SMALL, "size": 32, "batch_size": 4, "steps": 9, "accelerator": "cpu"}
    config = FinetuneConfig.of({**options, "recipe": "paper", "log_every": 9}).resolve()
    backbone = config.backbone.build(1)
    examples = Examples(store_for([], 32), np.arange(20), None)
    loop = Loop(Downstream(backbone, BadHeadModule(backbone)), examples, config, 0, make_fabric(config, Progress()))
    loop.health.waits = False
    keeper = keeping.RepetitionKeeper(tmp_path / "checkpoints", config, {}, {}, examples, Progress())
    with pytest.raises(SsmtlError, match=rf"^{BAD_LOSS}made-up-0"):
        loop.run(tmp_path / "metrics.jsonl", Progress(), keeper=keeper)
    assert checkpoint.newest(tmp_path / "checkpoints", print).step == 2


def test_a_bad_step_of_a_fine_tuning_is_skipped(labelled, tmp_path):
    tune(labelled, tmp_path, "f", on_nan="skip:2")
    told = [line for line in (tmp_path / "f" / "log.txt").read_text().splitlines() if line.endswith(": skipped")]
    assert len(told) == 1
    assert BAD_LOSS in told[0]


def test_nothing_to_repeat_is_told(tmp_path, ssmtl):
    with pytest.raises(UsageError, match="there is no step to repeat"):
        replay(tmp_path)
    done = ssmtl("run", "--replay", tmp_path, "--steps", 3)
    assert done.returncode == 2
    assert "omit --steps" in done.stderr

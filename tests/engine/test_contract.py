"""What a task must not give or do in a step is refused at once, in one line that names it."""

import re
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import nn

import ssmtl_toolkit
from helpers.small import SMALL
from ssmtl_toolkit.engine.balancer import Balancer
from ssmtl_toolkit.engine.building import built, check_used
from ssmtl_toolkit.engine.contract import check_maps, companions_of
from ssmtl_toolkit.engine.head import Head
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.registry import HOOKS
from ssmtl_toolkit.specs import BalancerSpec, HeadSpec, TaskSpec, stamp
from ssmtl_toolkit.testing.sample import batch_for, multitask


def written(tensor, change, loss):
    """Write into a tensor, and give what is right otherwise."""
    with torch.no_grad():
        change(tensor)
    return TaskOutput(loss, pairs=8)


GIVEN = {
    "right": lambda step, loss: TaskOutput(loss, {"m": loss.detach()}, 8),
    "double": lambda step, loss: TaskOutput(loss.double(), {"m": loss.detach()}, 8),
    "negative": lambda step, loss: TaskOutput(loss - 9, {"m": loss.detach()}, 8),
    "tuple": lambda step, loss: (loss,),
    "float": lambda step, loss: TaskOutput(1.0),
    "none": lambda step, loss: TaskOutput(None),
    "vector": lambda step, loss: TaskOutput(loss.expand(3)),
    "complex": lambda step, loss: TaskOutput(loss + 0j),
    "int": lambda step, loss: TaskOutput(torch.tensor(3)),
    "detached": lambda step, loss: TaskOutput(loss.detach()),
    "elsewhere": lambda step, loss: TaskOutput(loss.to("meta")),
    "metric vector": lambda step, loss: TaskOutput(loss, {"m": loss.detach().expand(3)}),
    "metric float": lambda step, loss: TaskOutput(loss, {"m": 1.0}),
    "metric complex": lambda step, loss: TaskOutput(loss, {"m": loss.detach() + 0j}),
    "metric elsewhere": lambda step, loss: TaskOutput(loss, {"m": loss.detach().to("meta")}),
    "metric list": lambda step, loss: TaskOutput(loss, [loss]),
    "pairs text": lambda step, loss: TaskOutput(loss, pairs="5\x1b[31m"),
    "pairs negative": lambda step, loss: TaskOutput(loss, pairs=-1),
    "pairs float": lambda step, loss: TaskOutput(loss, pairs=2.5),
    "pairs tensor": lambda step, loss: TaskOutput(loss, pairs=torch.tensor(3)),
    "pairs bool": lambda step, loss: TaskOutput(loss, pairs=True),
    "pairs huge": lambda step, loss: TaskOutput(loss, pairs=10**5000),
    "writes by numpy": lambda step, loss: (step.anchor.numpy().fill(0), TaskOutput(loss, pairs=8))[1],
    "writes data": lambda step, loss: written(step.companion("next").image.data, torch.Tensor.zero_, loss),
    "writes position by numpy": lambda step, loss: (step.position.index.numpy().fill(0), TaskOutput(loss))[1],
    "writes features' data": lambda step, loss: written(step.features().pooled.data, torch.Tensor.zero_, loss),
    "writes anchor": lambda step, loss: written(step.anchor, torch.Tensor.zero_, loss),
    "writes companion": lambda step, loss: written(step.companion("next").image, torch.Tensor.zero_, loss),
    "writes position": lambda step, loss: written(step.position.index, torch.Tensor.zero_, loss),
    "writes features": lambda step, loss: written(step.features().pooled.detach(), torch.Tensor.zero_, loss),
}
REFUSED = {
    "tuple": "its forward gives tuple; give TaskOutput(loss, metrics, pairs)",
    "float": "its loss is 1.0 (float); give a scalar tensor",
    "none": "its loss is None (NoneType)",
    "vector": "its loss is a tensor (shape (3,), float32, on cpu)",
    "complex": "its loss is a tensor (a scalar, complex64, on cpu)",
    "int": "its loss is a tensor (a scalar, int64, on cpu)",
    "detached": "its loss has no gradient",
    "elsewhere": "its loss is on meta, the batch on cpu",
    "metric vector": "its metric 'm' is a tensor (shape (3,)",
    "metric float": "its metric 'm' is 1.0 (float)",
    "metric complex": "its metric 'm' is a tensor (a scalar, complex64",
    "metric elsewhere": "its metric 'm' is a tensor (a scalar, float32, on meta)",
    "metric list": "its metrics are a list",
    "pairs text": r"its pairs are '5\x1b[31m' (str)",
    "pairs negative": "its pairs are -1 (int)",
    "pairs float": "its pairs are 2.5 (float)",
    "pairs tensor": "its pairs are a tensor",
    "pairs huge": "its pairs are a number of 16610 bits (int)",
    "writes by numpy": "writes into slices of the batch, which other tasks read",
    "writes data": "writes into slices of the batch",
    "writes position by numpy": "writes into position.index",
    "writes features' data": "writes into features, which other tasks read",
    "pairs bool": "its pairs are True (bool)",
    "writes anchor": "writes into slices of the batch, which other tasks read",
    "writes companion": "writes into slices of the batch",
    "writes position": "writes into position.index",
    "writes features": "writes into features, which other tasks read",
}


class Given(TaskSpec):
    """Gives what it is asked for."""

    name: ClassVar[str] = "given"
    needs: ClassVar = frozenset({"pooled"})
    metrics: ClassVar = ("m",)

    what: str = Field("right", description="What.")

    def companions(self, spacing):
        return {"next": (1,)}

    def build(self, backbone):
        return GivenModule(self.what, backbone.pooled_channels)


class Reads(Given):
    """Stands before the other and has read all features."""

    name: ClassVar[str] = "reads"


class GivenModule(nn.Module):
    def __init__(self, what, channels):
        super().__init__()
        self.what, self.judge, self.tied = what, nn.Linear(channels, 1), nn.Linear(channels, 1)
        if what == "tied":
            self.tied.weight = self.judge.weight
            halves = torch.zeros(10)
            self.register_buffer("first", halves[:6])
            self.register_buffer("second", halves[4:])

    def forward(self, step):
        loss = (self.judge(step.features().pooled) + self.tied(step.features().pooled)).float().square().mean()
        return GIVEN.get(self.what, GIVEN["right"])(step, loss)


stamp(Given, "given-parts 1.0")


def forward(what, **options):
    tasks = [Reads(), Given(what=what)]
    return multitask(tasks, **options).train()(batch_for(tasks))


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_task_must_not_give_or_do_is_refused_and_named_with_its_distribution(what):
    with pytest.raises(SsmtlError, match=re.escape(REFUSED[what])) as error:
        forward(what)
    assert " of given-parts 1.0: " in str(error.value)
    assert "\n" not in str(error.value)


NO_COMPANIONS = {
    "nothing": (None, "gives None (NoneType); give names with offsets"),
    "names": (["next"], "gives a list; give names with offsets, such as {'next': (2,)}"),
    "number": ({"next": 2}, "gives 'next' the offsets 2 (int); give a tuple of whole numbers, such as (-2, 2)"),
    "text": ({"next": "2"}, "gives 'next' the offsets '2' (str)"),
    "half": ({"next": (1.5,)}, "gives 'next' the offsets (1.5,); give whole numbers of slices"),
    "texts": ({"next": ("5mm",)}, "gives 'next' the offsets ('5mm',); give whole numbers of slices"),
    "far": ({"next": (10**30,)}, "no scan has that many slices"),
}


@pytest.mark.parametrize("given", NO_COMPANIONS)
def test_companions_that_are_no_offsets_are_refused_and_named(monkeypatch, given):
    companions, told = NO_COMPANIONS[given]
    monkeypatch.setattr(Given, "companions", lambda self, spacing: companions)
    with pytest.raises(SsmtlError) as error:
        companions_of(Given(), 2.5)
    assert str(error.value).startswith("task 'given' of given-parts 1.0, asked for its companions at 2.5 mm, gives ")
    assert told in str(error.value)


def test_a_task_with_half_a_slice_as_offset_is_refused_before_training(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(Given, "companions", lambda self, spacing: {"next": (1.5,)})
    with pytest.raises(SsmtlError, match="give whole numbers of slices"):
        train(scans, tmp_path / "run", "right")


def test_offsets_may_be_whole_numbers_of_any_kind_in_any_collection(monkeypatch):
    given = {"next": range(1, 3), "far": np.array([4, -4]), "none": set()}
    monkeypatch.setattr(Given, "companions", lambda self, spacing: given)
    assert companions_of(Given(), 1.0) == {"next": (1, 2), "far": (4, -4), "none": ()}


def on_meta():
    return nn.Linear(2, 2, device="meta")


def sparse():
    module = nn.Module()
    module.register_buffer("few", torch.eye(3).to_sparse())
    return module


def keeping(tensor, persistent=True):
    module = nn.Module()
    module.register_buffer("kept", tensor, persistent=persistent)
    return module


class Remembering(nn.Module):
    def get_extra_state(self):
        return {"seen": 3}


def refuses():
    raise UsageError("odd")


BUILT = {
    "none": lambda: None,
    "class": lambda: nn.Linear,
    "meta": on_meta,
    "sparse": sparse,
    "float8": lambda: keeping(torch.zeros(3).to(torch.float8_e4m3fn)),
    "bits": lambda: keeping(torch.zeros(3, dtype=torch.int8).view(torch.bits8)),
    "infinite": lambda: keeping(torch.full((3,), torch.inf)),
    "expanded": lambda: keeping(torch.zeros(1).expand(3)),
    "extra": Remembering,
    "refuses": refuses,
}


class Builds(TaskSpec):
    name: ClassVar[str] = "builds"
    what: str = ""

    def build(self, backbone):
        return BUILT[self.what]()


stamp(Builds, "given-parts 1.0")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("none", "its build gives NoneType; give a torch.nn.Module"),
        ("class", "its build gives type; give a torch.nn.Module"),
        ("meta", "its tensor 'weight' is sparse or on the meta device"),
        ("sparse", "its tensor 'few' is sparse or on the meta device"),
        ("float8", "its tensor 'kept' is float8_e4m3fn, which is not saved"),
        ("bits", "its tensor 'kept' is bits8, which is not saved"),
        ("infinite", "its tensor 'kept' is not finite"),
        ("expanded", "its tensor 'kept' is expanded"),
        ("extra", "its state '_extra_state' is dict, which is not saved; give a tensor in get_extra_state"),
        ("refuses", "odd"),
    ],
)
def test_what_a_task_must_not_build_is_refused_and_named_with_its_distribution(what, said):
    with pytest.raises(SsmtlError, match=said) as error:
        multitask([Reads(), Builds(what=what)])
    assert " of given-parts 1.0: " in str(error.value)


def test_what_is_not_saved_may_be_infinite_or_lazy(monkeypatch):
    monkeypatch.setitem(BUILT, "right", lambda: keeping(torch.full((3,), torch.inf), persistent=False))
    built(Builds(what="right"), None)
    monkeypatch.setitem(BUILT, "right", lambda: nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d()))
    lazy = built(Builds(what="right"), None)
    with pytest.raises(SsmtlError, match=r"of given-parts 1.0: its lazy layer of '0.weight' is never used"):
        check_used(Builds(what="right"), lazy)
    lazy(torch.zeros(2, 1, 8, 8))
    check_used(Builds(what="right"), lazy)


def test_a_value_that_is_no_number_is_not_taken_for_a_change():
    tasks = [Reads(), Given()]
    batch = batch_for(tasks)
    batch.anchor[0] = torch.nan
    multitask(tasks).train()(batch)


@pytest.mark.parametrize("what", sorted(GIVEN.keys() - REFUSED.keys()))
def test_what_a_task_may_give_is_taken(what):
    total, outputs = forward(what)
    assert set(outputs) == {"reads", f"given:what={what}" if what != "right" else "given"}
    total.backward()


def test_evaluating_without_gradient_is_no_mistake_of_the_task():
    with torch.no_grad():
        forward("right")
    with torch.inference_mode():
        forward("right")


class Vector(BalancerSpec):
    """Gives a vector."""

    name: ClassVar[str] = "vector"

    def build(self, tasks):
        return VectorModule()


class VectorModule(Balancer):
    def forward(self, losses, shared):
        return torch.stack(list(losses.values()))


def test_a_balancer_that_gives_no_scalar_is_named():
    with pytest.raises(SsmtlError, match=r"^balancer 'vector': its loss is a tensor \(shape \(2,\)"):
        forward("right", balancer=Vector())


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [("backbone", "Backbone"), ("head", "Head"), ("balancer", "Balancer"), ("task", "torch.nn.Module")],
)
def test_what_builds_another_kind_of_module_is_named_with_what_it_should_build(spec, wanted):
    kind = {cls.kind: cls for cls in HOOKS.values()}[spec]
    made = "no module" if spec == "task" else nn.Identity()
    part = type("Odd", (kind,), {"__module__": __name__, "name": "odd", "build": lambda self, *given: made})()
    with pytest.raises(SsmtlError, match=rf"^{spec} 'odd': its build gives \w+; give a {wanted}$"):
        built(part)


class Factors(Balancer):
    def forward(self, losses, shared):
        return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        ([1.0], "its factors are a list; give numbers by the labels of the losses"),
        ({"other": 1.0}, "its factors have 'other', which is no label of a loss (reads, given)"),
        ({"reads": torch.ones(2)}, "its factor of 'reads' is a tensor (shape (2,), float32, on cpu); give one number"),
        ({"reads": "1"}, "its factor of 'reads' is '1' (str); give one number"),
    ],
)
def test_factors_that_could_not_be_logged_are_refused_and_the_balancer_is_named(monkeypatch, factors, told):
    monkeypatch.setattr(Vector, "build", lambda self, tasks: Factors())
    monkeypatch.setattr(Factors, "factors", factors)
    with pytest.raises(SsmtlError, match=re.escape(f"balancer 'vector': {told}")):
        forward("right", balancer=Vector())
    monkeypatch.setattr(Factors, "factors", {"reads": torch.ones(1), "given": 2})
    assert forward("right", balancer=Vector())


MAPS = {
    "nothing": (None, "gives None (NoneType); give real numbers of shape (2, 3, 8, 4)"),
    "several": ([torch.zeros(2, 3, 8, 4)], "gives a list"),
    "flat": (torch.zeros(2, 96), "gives a tensor (shape (2, 96), float32, on cpu)"),
    "coarse": (torch.zeros(2, 3, 4, 2), "gives a tensor (shape (2, 3, 4, 2), float32, on cpu)"),
    "a class too many": (torch.zeros(2, 4, 8, 4), "gives a tensor (shape (2, 4, 8, 4)"),
    "one slice": (torch.zeros(1, 3, 8, 4), "gives a tensor (shape (1, 3, 8, 4)"),
    "indices": (torch.zeros(2, 3, 8, 4).long(), "int64"),
}


@pytest.mark.parametrize("given", MAPS)
def test_maps_of_another_shape_or_type_are_refused(given):
    maps, told = MAPS[given]
    with pytest.raises(SsmtlError, match=r"^head 'mine': its forward gives ") as error:
        check_maps("head 'mine'", maps, torch.zeros(2, 1, 8, 4), 3)
    assert told in str(error.value)
    for number, dtype in ((3, torch.float32), (None, torch.bfloat16)):
        check_maps("head 'mine'", torch.zeros(2, 3, 8, 4, dtype=dtype), torch.zeros(2, 1, 8, 4), number)


class Many(HeadSpec):
    """Gives a map too many, or fails."""

    name: ClassVar[str] = "many"

    fails: bool = Field(False, description="Whether it fails.")

    def build(self, backbone, classes):
        return ManyModule(self.fails, backbone.dense_channels, classes)


class ManyModule(Head):
    def __init__(self, fails, channels, classes):
        super().__init__()
        self.fails, self.last = fails, nn.Conv2d(channels, classes + 1, 1)

    def forward(self, features):
        return self.last(features.dense.flatten(1) if self.fails else features.dense)

    def loss(self, maps, target):
        return nn.functional.cross_entropy(maps, target)


stamp(Many, "given-parts 1.0")


def test_a_head_that_gives_a_map_too_many_or_fails_is_named_in_the_first_step(labelled, tmp_path):
    options = {"data": labelled, "backbone": SMALL, "size": 32, "batch_size": 4, "steps": 2, "recipe": "paper"}
    for fails, told in ((False, "its forward gives a tensor (shape (4, "), (True, "(RuntimeError: ")):
        with pytest.raises(SsmtlError, match=re.escape(told)) as error:
            ssmtl_toolkit.finetune(
                None, head=Many(fails=fails), out=tmp_path / str(fails), cache=tmp_path / "cache", **options
            )
        assert str(error.value).startswith("head 'many")
        assert " of given-parts 1.0" in str(error.value)


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (KeyError("x"), "given-parts 1.0 failed in step 1 on a batch of 4 slices with 4 pairs: KeyError: 'x'"),
        (MemoryError(), "not enough memory for 4 slices of 32 x 32 pixels in task 'given:what=raises' of given-parts"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory for 4 slices"),
    ],
)
def test_what_a_task_raises_in_a_run_is_told_in_a_line(scans, tmp_path, monkeypatch, raised, told):
    def raises(step, loss):
        raise raised

    monkeypatch.setitem(GIVEN, "raises", raises)
    with pytest.raises(SsmtlError, match=re.escape(told)):
        train(scans, tmp_path / "r", "raises")


def test_tied_weights_and_overlapping_buffers_are_saved_and_resumed(scans, tmp_path):
    options = {"checkpoint_every": 2, "log_every": 1}
    whole = train(scans, tmp_path / "whole", "tied", steps=4, **options)
    train(scans, tmp_path / "parts", "tied", steps=2, **options)
    resumed = train(scans, tmp_path / "parts", "tied", steps=4, resume=True, **options)
    assert whole.summary["tasks"] == resumed.summary["tasks"]


def train(scans, out, what, **options):
    usual = {"data": str(scans), "backbone": SMALL, "size": 32, "batch_size": 4, "steps": 2}
    tasks = [Given(what=what)]
    return ssmtl_toolkit.pretrain(out=out, cache=out.parent / "cache", tasks=tasks, **{**usual, **options})

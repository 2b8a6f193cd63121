"""The table of features: what it says of those there are, and that a line in it is all that a new one needs."""

from functools import cached_property
from typing import ClassVar

import pytest
import torch
from pydantic import Field
from torch import nn

from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.engine.backbone import Features
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.features import FEATURES, Origin, meeting_of, parts_of
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.fingerprint import fingerprint
from ssmtl_toolkit.specs import BalancerSpec, TaskSpec, check_needs
from ssmtl_toolkit.testing import cases
from ssmtl_toolkit.testing.sample import Point, Repeat, Small, batch_for, train


@pytest.mark.parametrize(
    ("needs", "parts", "meeting"),
    [
        ((), ["encoder"], "pyramid"),
        (("pooled",), ["encoder"], "pyramid"),
        (("pyramid",), ["encoder"], "pyramid"),
        (("dense",), ["encoder", "decoder"], "dense"),
        (("dense", "dense"), ["encoder", "decoder"], "dense"),
        (("decoded",), ["encoder", "decoder"], "decoded"),
        (("dense", "decoded"), ["encoder", "decoder"], "decoded"),
        (("decoded", "pooled"), ["encoder", "decoder"], "pyramid"),
        (("dense", "pooled"), ["encoder", "decoder"], "pyramid"),
        (("pyramid", "dense"), ["encoder", "decoder"], "pyramid"),
    ],
)
def test_the_table_says_what_is_trained_and_where_gradients_meet(needs, parts, meeting):
    assert parts_of(needs) == parts
    assert meeting_of(needs) == meeting


@pytest.mark.parametrize("name", FEATURES)
def test_each_feature_is_a_property_of_its_name_that_is_computed_once(name):
    assert isinstance(vars(Features)[name], cached_property)
    features = Small().build(1)(torch.randn(2, 1, 8, 8))
    assert features.tensors(name)[0].shape[0] == 2
    assert features.tensors(name)[0] is features.tensors(name)[0]
    assert vars(Features)[name].__doc__.strip()


class Edgy(TaskSpec):
    """Makes edges of the dense map steep, or flat, by the new feature alone."""

    name: ClassVar[str] = "edgy"
    needs: ClassVar = frozenset({"edges"})
    steep: bool = Field(False, description="Steep, not flat.")

    def build(self, backbone):
        return EdgyModule(backbone.dense_channels, 1.0 if self.steep else 0.0)


class EdgyModule(nn.Module):
    def __init__(self, channels, target):
        super().__init__()
        self.weigh, self.target = nn.Parameter(torch.ones(channels, 1, 1)), target

    def forward(self, step):
        edges = step.features().edges * self.weigh
        return TaskOutput((edges.float() - self.target).square().mean(), pairs=len(edges))


@pytest.fixture
def edges(monkeypatch):
    """A feature that is added as an author of the toolkit would: a line of the table, and a property."""

    def compute(self):
        return self.dense.diff(dim=3)

    added = cached_property(compute)
    added.__set_name__(Features, "edges")
    monkeypatch.setitem(FEATURES, "edges", Origin(of="dense", part=None, maps=True))
    monkeypatch.setattr(Features, "edges", added, raising=False)
    monkeypatch.setattr(Small, "provides", frozenset(FEATURES))


def build(*tasks):
    torch.manual_seed(0)
    return MultiTask.build(Small(), tasks, registry().resolve(BalancerSpec, "fixed"), 1).train()


def test_a_feature_that_is_added_is_needed_provided_trained_and_transferred(edges, tmp_path):
    with pytest.raises(UsageError, match="needs edges features, which backbone 'unet' does not provide"):
        RunConfig(tasks=[Edgy()], backbone="unet").resolve()
    check_needs(Small(), [Edgy()])
    config = RunConfig(tasks=[Edgy()], backbone=Small()).resolve()
    assert config.trained == ["encoder", "decoder"]
    assert all(parameter.requires_grad for parameter in build(Edgy()).backbone.parameters())
    first, second = (train(tmp_path / f"run{steps}", steps, [Edgy()], Small()) for steps in (1, 2))
    (weight,) = [name for name in first if name.endswith("decoder.up.weight")]
    assert not torch.equal(first[weight], second[weight])
    assert list(fingerprint(Small().build(1), 16, config.trained)) == ["size", "pooled", "dense"]


@pytest.mark.parametrize(
    ("tasks", "meeting"),
    [
        ((Edgy(), Edgy(steep=True)), "edges"),
        ((Edgy(), Repeat()), "dense"),
        ((Edgy(), Point()), "pyramid"),
    ],
)
def test_gradients_of_its_tasks_are_compared_where_all_that_they_read_comes_from(edges, tasks, meeting):
    model, batch, found = build(*tasks), batch_for(tasks), []
    model(batch, lambda losses, shared: found.append(shared.gramian(losses, "features")))
    torch.manual_seed(0)
    assert model.meeting == meeting
    maps = model.backbone(batch.anchor)
    made = {"pyramid": maps.pyramid, "dense": [maps.dense], "edges": [maps.edges]}[meeting]
    torch.manual_seed(0)
    outputs = [task(Seen(batch.anchor, maps)).loss for task in model.tasks]
    rows = [torch.autograd.grad(loss, made, retain_graph=True, allow_unused=True) for loss in outputs]
    flat = [
        torch.cat(
            [(torch.zeros_like(one) if grad is None else grad).flatten() for one, grad in zip(made, row, strict=True)]
        )
        for row in rows
    ]
    expected = torch.stack(flat) @ torch.stack(flat).T
    assert torch.allclose(found[0], expected, rtol=1e-4, atol=1e-9)


class Seen:
    """A step whose features are there already."""

    def __init__(self, anchor, features):
        self.anchor, self.features = anchor, lambda: features


def test_a_task_on_it_passes_the_checks_of_tasks(edges):
    for case in cases(Edgy()):
        # another process does not know the feature, and this is a module of tests
        if not case.check.title.startswith(("two processes", "importing it")):
            case.run()

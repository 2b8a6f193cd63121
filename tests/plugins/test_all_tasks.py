"""All bundled tasks in one training: under every balancer, and each beside ±t."""

import pytest

from helpers import two_ranks
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BalancerSpec, TaskSpec
from ssmtl_toolkit.testing.sample import batch_for, multitask

TASKS = sorted(entry.spec.name for entry in registry().entries.values() if issubclass(entry.spec, TaskSpec))
OF_THE_ANCHOR = (
    *("reconstruct_prev", "reconstruct_next", "slice_siam", "contrast", "slice_position", "vicreg", "dense_contrast"),
)
"""Tasks that encode the anchor as it is, and so have features in common."""


def model_of(balancer: str, tasks: list[str]) -> tuple[MultiTask, list[TaskSpec]]:
    specs = [registry().resolve(TaskSpec, task) for task in tasks]
    return multitask(specs, balancer=registry().resolve(BalancerSpec, balancer)).train(), specs


def total_of(balancer, tasks):
    model, specs = model_of(balancer, tasks)
    total, outputs = model(batch_for(specs))
    assert {label: output.pairs > 0 for label, output in outputs.items()} == dict.fromkeys(outputs, True)
    total.backward()
    return model, total


@pytest.mark.parametrize("balancer", two_ranks.BALANCERS)
def test_all_tasks_train_together_under_every_balancer(balancer):
    at_features = balancer == "mgda" or balancer.endswith("at=features")
    model, total = total_of(balancer, list(OF_THE_ANCHOR) if at_features else TASKS)
    assert total.isfinite()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)


@pytest.mark.parametrize("task", ["slice_fusion", "moco_v2"])
def test_gradients_at_the_features_are_not_those_of_other_images(task):
    with pytest.raises(UsageError, match=r"read features of different images.*at=backbone"):
        total_of("mgda", ["reconstruct_next", task])

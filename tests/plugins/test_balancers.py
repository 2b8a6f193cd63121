"""Balancers against computations by hand and TorchJD's own, alone, on two ranks, in bf16, accumulated and resumed."""

import copy
import json
import os
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from scipy.optimize import lsq_linear
from torch import nn
from torch.nn import functional as F
from torchjd.aggregation import MGDA, UPGrad
from torchjd.aggregation import PCGrad as TorchJDPCGrad
from torchjd.scalarization import FAMO

import ssmtl_balancers
import ssmtl_toolkit
from helpers import two_ranks
from helpers.places import ROOT
from helpers.small import write_scan
from helpers.two_ranks import NEXT, PREV, SIAM, batch_of, model_of, updater_of
from ssmtl_balancers.gradients import NonNegative
from ssmtl_toolkit import UsageError
from ssmtl_toolkit.engine.balancer import Balancer
from ssmtl_toolkit.engine.step import Batch, TaskOutput
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.specs import BalancerSpec, TaskSpec

ALL = sorted({balancer.partition(":")[0] for balancer in two_ranks.BALANCERS})
GRADIENTS = ("pcgrad", "upgrad", "mgda")


class Alike:
    """Stands for `Shared`: given losses are the means over all ranks, and gradients are the rows of a matrix."""

    def __init__(self, jacobian=None, seed=3, first=True, pairs=4):
        self.jacobian, self.seed, self.first, self.pairs = jacobian, seed, first, dict.fromkeys("abc", pairs)

    def means(self, losses):
        return torch.stack([loss.detach() for loss in losses.values()])

    def gramian(self, losses, at):
        scale = [torch.autograd.grad(loss, self.leaf, retain_graph=True)[0].sum() for loss in losses.values()]
        rows = torch.stack(scale)[:, None] * self.jacobian.float()[["abc".index(label) for label in losses]]
        return rows @ rows.T


class Plain(TaskSpec):
    name: ClassVar[str] = "plain"

    def build(self, backbone): ...


class Cosine(Plain):
    name: ClassVar[str] = "cosine"
    floor: ClassVar[float] = -1.0


def balancer_of(text, *tasks):
    return registry().resolve(BalancerSpec, text).build(dict(zip("abc", tasks, strict=False))).train()


def losses_of(values):
    leaf = torch.tensor(values, requires_grad=True)
    return leaf, dict(zip("abc", leaf, strict=False))


def told(balancer):
    return [float(weight) for weight in balancer.factors.values()]


def descend(balancer, values, shared=None):
    """The total, and its gradient at each loss."""
    leaf, losses = losses_of(values)
    shared = shared or Alike()
    shared.leaf = leaf
    total = balancer(losses, shared)
    return total.item(), torch.autograd.grad(total, leaf)[0].tolist()


TASKS = (Plain(weight=2.0), Cosine(weight=1 / 3), Plain())


def test_uncertainty_is_the_likelihood_of_kendall_with_losses_counted_from_their_floor():
    balancer = balancer_of("uncertainty", *TASKS)
    s = np.array([0.3, -0.7, 1.1])
    with torch.no_grad():
        balancer.log_variance.copy_(torch.tensor(s))
    leaf, losses = losses_of([0.5, -0.25, 4.0])
    total = balancer(losses, Alike())
    gap = np.array([2 * 0.5, 0.75 / 3, 4.0])
    assert total.item() == pytest.approx((gap / (2 * np.exp(s)) + s / 2).sum(), rel=1e-6)
    total.backward()
    assert balancer.log_variance.grad.tolist() == pytest.approx(0.5 - gap / (2 * np.exp(s)), rel=1e-5)
    assert leaf.grad.tolist() == pytest.approx(np.array([2, 1 / 3, 1]) / (2 * np.exp(s)), rel=1e-5)
    assert told(balancer) == pytest.approx(1 / (2 * np.exp(s)), rel=1e-5)


def test_uncertainty_learns_the_variance_that_fits_the_loss():
    balancer = balancer_of("uncertainty", *TASKS)
    adam = torch.optim.Adam(balancer.parameters(), lr=0.05)
    for _ in range(400):
        adam.zero_grad()
        balancer(losses_of([0.5, -0.25, 4.0])[1], Alike()).backward()
        adam.step()
    assert balancer.log_variance.exp().tolist() == pytest.approx([1.0, 0.25, 4.0], rel=1e-2)


def test_dwa_weighs_by_how_slowly_the_loss_of_a_window_falls():
    balancer = balancer_of("dwa:window=2,temperature=3", *TASKS)
    means = np.array([[4, 0.5, 1], [2, 0.3, 1], [2, 0.1, 3], [1, -0.1, 1], [1, -0.2, 2], [0.5, -0.5, 1]])
    found = []
    for values in means:
        found.append(descend(balancer, [1.0, 1.0, 1.0])[1])
        balancer.updated(torch.tensor(values).float(), None)
    found.append(descend(balancer, [1.0, 1.0, 1.0])[1])
    gap = (means - [0, -1, 0]).reshape(3, 2, 3).mean(axis=1)
    e = np.exp(gap[1:] / gap[:-1] / 3)
    after_two, after_three = 3 * e / e.sum(axis=1, keepdims=True)
    weights = [np.ones(3)] * 4 + [after_two] * 2 + [after_three]
    assert np.array(found) == pytest.approx(np.array(weights) * [2, 1 / 3, 1], rel=1e-5)


def test_rlw_draws_a_softmax_of_normals_for_each_update_and_keeps_it_within():
    balancer = balancer_of("rlw", *TASKS)
    seen = [
        descend(balancer, [1.0, 1.0, 1.0], Alike(seed=seed, first=first))[1]
        for seed, first in ((5, True), (6, False), (7, True))
    ]
    assert seen[0] == seen[1] != seen[2]
    normal = torch.randn(3, generator=torch.Generator().manual_seed(5)).double().numpy()
    expected = np.exp(normal) / np.exp(normal).sum()
    assert seen[0] == pytest.approx(expected * [2, 1 / 3, 1], rel=1e-5)
    many = [descend(balancer, [1.0] * 3, Alike(seed=seed))[1][2] for seed in range(300)]
    assert np.mean(many) == pytest.approx(1 / 3, abs=0.05)


def test_famo_is_that_of_its_authors():
    balancer = balancer_of("famo:lr=0.1,decay=0.01", *TASKS)
    scale, floor = torch.tensor([2, 1 / 3, 1]), torch.tensor([0.0, -1.0, 0.0])
    theirs = FAMO(3, floor * scale, lr=0.1, weight_decay=0.01)
    rng = np.random.default_rng(0)
    for _ in range(12):
        before, after = (torch.tensor(rng.uniform(-0.2, 1.5, 3)).float().abs() for _ in range(2))
        leaf = before.clone().requires_grad_()
        theirs(leaf * scale).backward()
        assert descend(balancer, before.tolist())[1] == pytest.approx(leaf.grad.tolist(), rel=1e-4)
        theirs.update(after * scale)
        balancer.updated(before, after)
        assert balancer.logits.tolist() == pytest.approx(theirs._w.tolist(), rel=1e-4, abs=1e-6)
    assert balancer.logits.abs().min() > 0.01


def test_famo_takes_weight_from_the_loss_that_fell_most():
    balancer = balancer_of("famo:decay=0", *TASKS)
    balancer.updated(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0.5, 0.0, 0.9]))
    decrease = np.array([np.log(2), 0, np.log(1 / 0.9)])
    gradient = (decrease - decrease.mean()) / 3
    assert balancer.logits.tolist() == pytest.approx(-0.025 * np.sign(gradient), rel=1e-4)  # Adam's first step


CONFLICT = torch.tensor([[3.0, 1.0, 0.0], [-2.0, 1.0, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize("balancer", GRADIENTS)
def test_two_tasks_are_balanced_in_closed_form(balancer):
    made = balancer_of(balancer, Plain(), Plain())
    one, other = CONFLICT.numpy()
    found = descend(made, [1.0, 1.0], Alike(CONFLICT))[1]
    projected = (1 - one @ other / (one @ one), 1 - one @ other / (other @ other))
    between = (other - one) @ other / ((one - other) @ (one - other))
    expected = (between, 1 - between) if balancer == "mgda" else projected
    assert found == pytest.approx(expected, rel=1e-4)
    assert told(made) == pytest.approx(found)


@pytest.mark.parametrize("balancer", GRADIENTS)
def test_weights_are_those_of_torchjd_on_the_explicit_jacobian_of_weighted_losses(balancer):
    draws = torch.Generator().manual_seed(1)
    for seed in range(20):
        jacobian = torch.randn(3, 4, generator=draws, dtype=torch.float64)
        weighted = torch.tensor([[2], [1 / 3], [1]]) * jacobian
        _, weights = descend(balancer_of(balancer, *TASKS), [1.0] * 3, Alike(jacobian, seed=seed))
        found = torch.tensor(weights) @ jacobian.float()
        torch.manual_seed(seed)
        ones = torch.ones(3, dtype=torch.float64)
        theirs = {"pcgrad": TorchJDPCGrad(), "upgrad": UPGrad(ones, NonNegative()), "mgda": MGDA()}[balancer](weighted)
        assert found.tolist() == pytest.approx(theirs.tolist(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("small", [1.0, 1e-3])
def test_upgrad_projects_each_gradient_to_where_no_loss_rises(small):
    draws = torch.Generator().manual_seed(2)
    conflicts = 0
    for _ in range(20):
        jacobian = torch.randn(3, 5, generator=draws, dtype=torch.float64) * torch.tensor([[1], [1], [small]])
        found = descend(balancer_of("upgrad", *[Plain()] * 3), [1.0] * 3, Alike(jacobian))[1]
        matrix = jacobian.numpy()
        bounds = [(row, np.full(3, np.inf)) for row in np.eye(3)]
        if small == 1:
            expected = sum(lsq_linear(matrix.T, np.zeros(5), bound, tol=1e-14).x for bound in bounds)
            assert found == pytest.approx(list(expected), rel=1e-3)
        rise = matrix @ (matrix.T @ found) / np.linalg.norm(matrix, axis=1)
        assert rise.min() > -1e-3
        conflicts += found != [1.0, 1.0, 1.0]
    assert conflicts > 5


def test_torchjds_own_projection_would_take_small_gradients_for_none():
    """Why there is another one, apart from the licence of quadprog: the example of TorchJD's documentation, scaled."""
    jacobian = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64)
    for scale in (1.0, 1e-4):
        found = UPGrad(projector=NonNegative())(scale * jacobian) / scale
        assert found.tolist() == pytest.approx([0.2929, 1.9004, 1.9004], abs=1e-3)


@pytest.mark.parametrize("balancer", ["pcgrad", "upgrad"])
def test_without_conflict_it_is_the_weighted_sum(balancer):
    jacobian = torch.tensor([[1.0, 0.1], [0.2, 1.0], [1.0, 1.0]])
    assert descend(balancer_of(balancer, *TASKS), [1.0] * 3, Alike(jacobian))[1] == pytest.approx([2, 1 / 3, 1])


def test_the_order_of_pcgrad_is_drawn_from_the_seed_and_leaves_torchs_generator_alone():
    jacobian = torch.tensor([[1.0, 0.2], [-1.0, 0.3], [0.2, -1.0]])
    torch.manual_seed(0)
    state = torch.get_rng_state()
    balancer = balancer_of("pcgrad", *TASKS)
    found = [descend(balancer, [1.0] * 3, Alike(jacobian, seed=seed))[1] for seed in (1, 1, *range(9))]
    assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]
    assert len({tuple(weights) for weights in found}) > 1


def explicit(model, batch, at):
    """The Jacobian of weight x loss, by a forward pass written out, at maps that are leaves, or at the parameters."""
    backbone = model.backbone
    maps = backbone.encoder(batch.anchor)
    maps = maps if at == "backbone" else [one.detach().requires_grad_(i > 0) for i, one in enumerate(maps)]
    dense = backbone.decoder(maps)
    if at == "dense":
        dense = dense.detach().requires_grad_()
    image = [next(iter(batch.companions[label].values())).image for label in model.labels]
    losses = [weight * F.mse_loss(model.tasks[i].decode(dense), image[i]) for i, weight in enumerate((1, 0.5))]
    if len(model.tasks) == 3:
        z = backbone.encoder(image[2])[-1].mean(dim=(2, 3)).detach()
        losses.append(-F.cosine_similarity(model.tasks[2].predict(maps[-1].mean(dim=(2, 3))), z).mean() / 3)
    leaves = {"backbone": list(backbone.parameters()), "pyramid": maps[1:], "dense": [dense]}[at]
    rows = []
    for loss in losses:
        for leaf in leaves:
            leaf.grad = None
        loss.backward(retain_graph=True)
        grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    model.zero_grad()
    return torch.stack(rows)


def gramian_of(model, batch, at):
    found = []
    scale = [task.weight for task in two_ranks.specs_of(model.labels)]
    model(
        batch,
        lambda losses, shared: found.append(
            shared.gramian({k: w * loss for w, (k, loss) in zip(scale, losses.items(), strict=True)}, at)
        ),
    )
    return found[0]


@pytest.mark.parametrize(
    ("at", "leaves", "tasks"),
    [
        ("backbone", "backbone", (PREV, NEXT, SIAM)),
        ("features", "pyramid", (PREV, NEXT, SIAM)),
        ("features", "dense", (PREV, NEXT)),
    ],
)
def test_the_gramian_is_that_of_an_explicit_jacobian(at, leaves, tasks):
    model, batch = model_of("fixed", tasks), batch_of(0, tasks)
    jacobian = explicit(model, batch, leaves)
    found = gramian_of(model, batch, at)
    assert found.dtype == torch.float32
    assert found.tolist() == [pytest.approx(row, rel=1e-4, abs=1e-9) for row in (jacobian @ jacobian.T).tolist()]
    assert all(p.grad is None for p in model.parameters())


def test_one_backward_pass_gives_the_trunk_what_torchjd_makes_of_all_gradients():
    for balancer, aggregate in (("pcgrad", TorchJDPCGrad()), ("mgda:at=backbone", MGDA())):
        model, batch = model_of(balancer), batch_of(0)
        jacobian = explicit(model, batch, "backbone")
        total, _ = model(batch)
        total.backward()
        found = torch.cat([p.grad.flatten() for p in model.backbone.parameters()])
        torch.manual_seed(batch.seed)
        assert torch.allclose(found, aggregate(jacobian), rtol=1e-3, atol=1e-6)


def test_under_bf16_autocast_gradients_are_those_of_the_backward_pass_to_the_bit():
    """MoCo V2 computes its logits in float32, which autocast would not let a backward pass inside it do."""
    moco = "moco_v2:queue=10,dim=8"
    model, batch, rows = model_of("fixed", (PREV, SIAM, moco)), batch_of(0, (PREV, SIAM)), []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, outputs = model(batch, lambda losses, shared: rows.append(shared.backbone_gradients(losses)))
    for row, output in zip(rows[0], outputs.values(), strict=True):
        model.zero_grad()
        output.loss.backward(retain_graph=True)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.backbone.parameters()]
        assert torch.equal(row, torch.cat([grad.flatten() for grad in grads]))


def test_under_bf16_autocast_products_of_gradients_are_float32():
    model, batch, seen = model_of("fixed"), batch_of(0), []
    exact = gramian_of(model, batch, "features")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gramian_of(model, batch, "features")
        model(
            batch,
            lambda losses, shared: seen.extend([shared.gramian(losses, "backbone"), shared.backbone_gradients(losses)]),
        )
    products, rows = seen
    assert found.dtype == products.dtype == torch.float32
    assert products.tolist() == [pytest.approx(row, rel=1e-4, abs=1e-9) for row in (rows @ rows.T).tolist()]
    assert found.diagonal().tolist() == pytest.approx(exact.diagonal().tolist(), rel=0.05)


@pytest.mark.parametrize("balancer", ALL)
def test_every_balancer_learns_under_bf16_autocast(balancer):
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    update = updater_of(fabric, balancer, precision="bf16")
    before = {name: p.detach().clone() for name, p in update.model.named_parameters()}
    for step in range(3):
        update(step)
    assert all(np.isfinite(value) and value > 0 for value in update.extra_metrics().values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in update.model.parameters())
    assert all(not torch.equal(p, before[name]) for name, p in update.model.named_parameters())


def test_tasks_that_read_different_images_are_refused_at_the_features_and_balanced_at_the_trunk(ssmtl, scans):
    flags = ("--data", scans, "--size", 32, "--batch-size", 4, "--backbone", "unet:encoder=plain,width=4", "--steps", 1)
    flags += ("--task", "reconstruct_prev:t=1", "--task", "moco_v2:queue=10")
    done = ssmtl("run", *flags, "--balancer", "mgda", "--out", "a")
    assert done.returncode == 2
    assert "tasks 'reconstruct_prev:t=1' and 'moco_v2:queue=10' read features of different images" in done.stderr
    assert "--balancer mgda:at=backbone" in done.stderr
    assert ssmtl("run", *flags, "--balancer", "mgda:at=backbone", "--out", "b").returncode == 0


def nothing(batch, label):
    """Leave this task without any pair."""
    for name, companion in batch.companions[label].items():
        none = torch.zeros(0, dtype=torch.long)
        batch.companions[label][name] = type(companion)(companion.image[:0], none, none)
    return batch


BAD = {
    "one task": (batch_of(0, (PREV,)), (PREV,)),
    "no pair of one": (nothing(batch_of(0), SIAM), two_ranks.TASKS),
    "no pair at all": (nothing(nothing(batch_of(0, (PREV, NEXT)), PREV), NEXT), (PREV, NEXT)),
    "weight 0": (batch_of(0, (PREV, "slice_siam:t=2,weight=0.0")), (PREV, "slice_siam:t=2,weight=0.0")),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("balancer", ALL)
def test_what_says_nothing_does_no_harm(balancer, case):
    batch, tasks = BAD[case]
    model = model_of(balancer, tasks)
    for _ in range(3):
        total, outputs = model(batch)
        model.zero_grad()
        total.backward()
        losses = torch.stack([output.loss.detach() for output in outputs.values()])
        losses = torch.where(torch.tensor([output.pairs > 0 for output in outputs.values()]), losses, torch.nan)
        model.balancer.updated(losses, 0.9 * losses)
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert all(0 <= weight < 10 for weight in told(model.balancer))
    others = [p.grad.abs().sum() > 0 for p in model.tasks[0].parameters()]
    assert all(others) != (case == "no pair at all")


def test_a_task_without_pairs_leaves_its_state_where_it_is():
    for name, state in (("dwa:window=1", "last"), ("famo:decay=0", "logits")):
        balancer = balancer_of(name, *TASKS)
        balancer.updated(torch.tensor([1.0, torch.nan, 2.0]), torch.tensor([0.5, torch.nan, 1.0]))
        assert float(getattr(balancer, state)[1]) == 0
    famo = balancer_of("famo:decay=0.1", *TASKS)
    for after in ([0.5, 0.9, 1.5], [0.5, 0.8, 1.9]):
        famo.updated(torch.tensor([1.0, 1.0, 2.0]), torch.tensor(after))
    stood = {name: value.clone() for name, value in famo.state_dict().items()}
    famo.updated(torch.tensor([1.0, torch.nan, 2.0]), torch.tensor([0.4, torch.nan, 1.9]))
    moved = {name: (value != stood[name]).tolist() for name, value in famo.state_dict().items()}
    assert moved == {name: [True, False, True] for name in stood}  # Adam's moments and the decay stand too
    kendall = balancer_of("uncertainty", *TASKS)
    shared = Alike()
    shared.pairs["b"] = 0
    kendall(losses_of([1.0, 0.0, 9.0])[1], shared).backward()
    assert kendall.log_variance.grad[1] == 0
    assert kendall.log_variance.grad[0] != 0


def test_the_first_update_of_famo_with_a_task_is_its_first_whenever_that_comes():
    late, early = balancer_of("famo:decay=0", *TASKS), balancer_of("famo:decay=0", *TASKS)
    for _ in range(5):  # what falls by as much as the others has no gradient
        late.updated(torch.tensor([1.0, torch.nan, torch.nan]), torch.tensor([0.5, torch.nan, torch.nan]))
    for balancer in (late, early):
        balancer.updated(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.5, 0.9, 1.5]))
    assert late.logits[1:].tolist() == early.logits[1:].tolist()


SCALES = {"of two": (2.0, 0.0, 1 / 3), "of one": (2.0, 0.0)}


@pytest.mark.parametrize("weights", SCALES)
@pytest.mark.parametrize("balancer", ALL)
def test_a_task_of_weight_0_takes_no_part_in_balancing(balancer, weights):
    """The others are weighed as they are without it."""
    options = {"dwa": "dwa:window=1", "famo": "famo:lr=0.2"}
    with_it = [Plain(weight=weight) for weight in SCALES[weights]]
    there = [i for i, task in enumerate(with_it) if task.weight]
    made = [balancer_of(options.get(balancer, balancer), *tasks) for tasks in (with_it, [with_it[i] for i in there])]
    draws, jacobian = torch.Generator().manual_seed(4), torch.cat([CONFLICT[:1], -CONFLICT[1:], CONFLICT[1:]])
    for step in range(6):
        before, after = torch.rand(2, len(with_it), generator=draws) + 0.5
        found = []
        for one, kept in zip(made, (list(range(len(with_it))), there), strict=True):
            descent = descend(one, before[kept].tolist(), Alike(jacobian[kept], seed=step))[1]
            found.append(descent if one is made[1] else [descent[i] for i in there])
            one.updated(before[kept], after[kept])
        assert found[0] == pytest.approx(found[1], rel=1e-5), step
        if len(there) == 1 and balancer != "uncertainty":
            assert found[0] == pytest.approx([2.0], rel=1e-5)


def test_a_task_of_weight_0_does_not_change_where_gradients_are_compared():
    """With it alone reading the pyramid, the others meet at the decoder's map; with views of its own it is let be."""
    two, found = batch_of(0, (PREV, NEXT)), []
    for more in ((), ("slice_siam:t=2,weight=0.0",), ("moco_v2:queue=10,dim=8,weight=0.0",)):
        tasks = (PREV, NEXT, *more)
        model = model_of("mgda", tasks)
        model(Batch(two.anchor, batch_of(0, tasks).companions | two.companions, seed=7))
        found.append(told(model.balancer)[:2])
    assert found[1] == found[2] == found[0]


@pytest.mark.parametrize("balancer", ALL)
def test_a_loss_that_is_no_number_shows_in_the_total_and_not_in_the_weights(balancer):
    made = balancer_of(balancer, *TASKS)
    total, _ = descend(made, [1.0, torch.nan, 1.0], Alike(torch.tensor([[1.0, 0.0], [torch.nan, 1.0], [0.0, 1.0]])))
    made.updated(torch.tensor([1.0, torch.nan, 1.0]), torch.tensor([1.0, torch.nan, torch.inf]))
    assert np.isnan(total)
    assert np.isfinite(told(made)).all()
    assert all(value.isfinite().all() for value in made.state_dict().values())


@pytest.mark.parametrize("balancer", GRADIENTS)
def test_a_gradient_of_0_has_no_say(balancer):
    """It would be the shortest mixture of all: MGDA alone with it would stand still."""
    jacobian = torch.cat([CONFLICT, torch.zeros(1, 3)])
    with_it = descend(balancer_of(balancer, *[Plain()] * 3), [1.0] * 3, Alike(jacobian))[1]
    without = descend(balancer_of(balancer, *[Plain()] * 2), [1.0] * 2, Alike(CONFLICT))[1]
    assert with_it == pytest.approx([*without, 1.0])


@pytest.mark.parametrize("balancer", ALL)
def test_evaluation_without_gradient_gives_a_total(balancer):
    model = model_of(balancer).eval()
    with torch.no_grad():
        total, _ = model(batch_of(0))
    assert total.isfinite()


@pytest.fixture(scope="module")
def both_ranks(tmp_path_factory):
    """What `two_ranks.py` found, by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "helpers" / "two_ranks.py"), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [load_file(folder / f"rank-{rank}.safetensors") for rank in (0, 1)]


def descended(*parts):
    """Weights after one step of gradient descent on the mean of the totals of these batches."""
    model = model_of("fixed")
    (sum(model(part)[0] for part in parts) / len(parts)).backward()
    return {name: (p - 0.1 * p.grad).detach() for name, p in model.named_parameters()}


def near(found, wanted):
    return all(torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6) for name in wanted)


@pytest.mark.slow
def test_ranks_try_no_memory_layout_and_stay_with_the_usual_one(both_ranks):
    assert [bool(found["layout"]) for found in both_ranks] == [False, False]


@pytest.mark.slow
def test_with_unequal_numbers_of_pairs_ranks_and_accumulated_batches_count_alike(both_ranks):
    """What is descended is the mean of the means of each rank's batches, as docs/balancers.md says."""
    halves = [two_ranks.uneven_of(i, part=part) for i in range(2) for part in (slice(0, 4), slice(4, 8))]
    assert [len(half.companions[PREV]["target"].image) for half in halves] == [4, 1, 2, 0]
    by_halves, by_batches = descended(*halves), descended(*map(two_ranks.uneven_of, range(2)))
    for ranks in both_ranks:
        assert near({name.removeprefix("uneven "): tensor for name, tensor in ranks.items()}, by_halves)
    assert near(two_ranks.train_unevenly(Fabric(accelerator="cpu", devices=1)), by_batches)
    assert not near(by_halves, by_batches)


@pytest.mark.slow
def test_two_ranks_have_equal_weights_those_of_one_process_with_the_whole_batch(both_ranks):
    others = ("uneven", "layout")
    first, second = ({k: v for k, v in found.items() if not k.startswith(others)} for found in both_ranks)
    for ranks in (first, second):
        assert ranks.pop("means").nan_to_num(-7).tolist() == pytest.approx([5 / 4, 5, -7])  # of 3 + 1, 0 + 1, 0 pairs
    alone = two_ranks.train_all(Fabric(accelerator="cpu", devices=1))
    assert set(first) == set(second) == set(alone)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    for name, tensor in alone.items():
        off = float((tensor - first[name]).abs().max())
        assert off <= 1e-4 * float(tensor.abs().max()) + 1e-6, name
    for balancer in two_ranks.BALANCERS[1:]:  # at the last update the weights are not those of the first
        if not balancer.endswith("at=features"):
            weights = [float(alone[f"{balancer} {step} {PREV}/weight"]) for step in (0, two_ranks.UPDATES - 1)]
            assert weights[0] != weights[1], balancer


def test_the_logged_gradients_are_those_of_a_backward_pass_for_each_task():
    update = updater_of(Fabric(accelerator="cpu", devices=1), "fixed")
    model = model_of("fixed")
    expected = []
    for label, weight in zip(model.labels, (1, 0.5, 1 / 3), strict=True):
        model.zero_grad()
        for index in range(two_ranks.ACCUMULATE):
            (weight * model(batch_of(index))[1][label].loss / two_ranks.ACCUMULATE).backward()
        grads = [p.grad for p in model.backbone.parameters() if p.grad is not None]
        expected.append(float(torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()))
    update(0)
    assert update.extra_metrics() == pytest.approx(
        {f"{label}/gradient": norm for label, norm in zip(model.labels, expected, strict=True)}, rel=1e-5
    )


def pretrain(scans, out, **options):
    small = {"backbone": "unet:encoder=plain,width=4", "size": 32, "batch_size": 4, "log_every": 1}
    tasks = ["reconstruct_prev:t=1", "slice_siam:t=1", "moco_v2:queue=10"]
    options = {**small, "tasks": tasks, "accumulate": 2, "data": str(scans), "cache": out.parent / "cache", **options}
    return ssmtl_toolkit.pretrain(out=out, **options).folder


@pytest.fixture
def scans(tmp_path):
    for i in range(2):
        write_scan(tmp_path / "scans" / f"p{i}.nii.gz", seed=i)
    return tmp_path / "scans"


def state(folder):
    newest = checkpoint.newest(folder / "checkpoints", warn=pytest.fail)
    return {name: tensor.clone() for name, tensor in newest.tensors.items()}


def different(one, other):
    assert set(one) == set(other)
    return [name for name in one if not torch.equal(one[name], other[name])]


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("balancer", ["uncertainty", "dwa:window=1", "rlw", "famo", "pcgrad", "mgda:at=backbone"])
def test_a_resumed_run_ends_with_the_same_bits_and_the_same_log(scans, tmp_path, balancer):
    whole = pretrain(scans, tmp_path / "whole", balancer=balancer, steps=6)
    pretrain(scans, tmp_path / "cut", balancer=balancer, steps=4)
    cut = pretrain(scans, tmp_path / "cut", balancer=balancer, steps=6, resume=True)
    assert different(state(whole), state(cut)) == []
    assert records(whole) == records(cut)
    weights = [[r[k] for k in r if k.endswith("/weight")] for r in records(whole)]
    assert len(weights[0]) == 3
    assert any(one != weights[0] for one in weights)


def test_gradient_norms_change_nothing_else_and_may_be_asked_for_later(scans, tmp_path):
    options = {"balancer": "pcgrad", "log_every": 2}
    plain = pretrain(scans, tmp_path / "plain", steps=4, **options)
    pretrain(scans, tmp_path / "told", steps=2, **options)
    norms = pretrain(scans, tmp_path / "told", steps=4, resume=True, gradient_norms=True, **options)
    assert different(state(plain), state(norms)) == []
    with_norms, without = records(norms), records(plain)
    assert len([with_norms[-1].pop(key) for key in list(with_norms[-1]) if key.endswith("/gradient")]) == 3
    assert with_norms == without


heard = []


class Ear(Balancer):
    feedback = "change"

    def forward(self, losses, shared):
        return sum(losses.values())

    def updated(self, before, after):
        heard.append((before, after))


class Listening(BalancerSpec):
    """The plain sum, which feedback what becomes of the losses."""

    name: ClassVar[str] = "listening"

    def build(self, tasks):
        heard.clear()
        return Ear()


def test_losses_after_an_update_are_of_the_same_batches_draws_and_queue(scans, tmp_path):
    pretrain(scans, tmp_path / "still", balancer=Listening(), steps=3, lr=1e-30)
    for before, after in heard:
        assert before.tolist() == after.tolist()
    assert len(heard) == 3
    pretrain(scans, tmp_path / "moving", balancer=Listening(), steps=3, lr=1e-4)
    assert all((after[0] < before[0]) and (after != before).all() for before, after in heard)


def test_looking_at_the_losses_after_an_update_leaves_no_trace(scans, tmp_path):
    tasks = ["reconstruct_prev:t=1", "slice_siam:weight=1,t=1", "moco_v2:queue=10"]
    runs = [pretrain(scans, tmp_path / str(b), balancer=b, tasks=tasks, steps=3) for b in ("fixed", Listening())]
    assert different(*map(state, runs)) == []


class Following(TaskSpec):
    """The pooled features of an encoder that follows at every forward pass, without a look at `step.first`."""

    name: ClassVar[str] = "following"
    needs: ClassVar = frozenset({"pooled"})

    def build(self, backbone):
        return Follower(backbone)


class Follower(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.predict = nn.Linear(backbone.pooled_channels, backbone.pooled_channels)
        self.target = copy.deepcopy(backbone.encoder).requires_grad_(False)
        self._encoder = [backbone.encoder]

    def forward(self, step):
        with torch.no_grad():
            if self.training:
                torch._foreach_lerp_(list(self.target.parameters()), list(self._encoder[0].parameters()), 0.1)
            target = self.target(step.anchor)[-1].mean(dim=(2, 3))
        told = self.predict(step.features().pooled)
        return TaskOutput(F.mse_loss(told, target), pairs=len(told))


def test_looking_at_the_losses_after_an_update_does_not_move_a_momentum_encoder(scans, tmp_path):
    tasks = ["reconstruct_prev:t=1", Following()]
    runs = [pretrain(scans, tmp_path / str(b), balancer=b, tasks=tasks, steps=3) for b in ("fixed", Listening())]
    assert different(*map(state, runs)) == []


def test_without_torchjd_its_balancers_say_what_to_install_and_the_rest_works(ssmtl, monkeypatch):
    monkeypatch.setattr(ssmtl_balancers, "find_spec", lambda name: None)
    done = ssmtl("run", "--balancer", "pcgrad", "--data", "phantom:patients=1")
    assert done.returncode == 2
    assert (
        "balancer 'pcgrad' needs TorchJD, which is not installed: pip install 'ssmtl-toolkit[balancing]'" in done.stderr
    )
    assert "mgda" in ssmtl("plugins", "list").stdout
    assert "features | backbone" in ssmtl("plugins", "show", "upgrad").stdout
    with pytest.raises(UsageError, match=r"ssmtl-toolkit\[balancing\]"):
        registry().resolve(BalancerSpec, "mgda:at=backbone")
    assert registry().resolve(BalancerSpec, "dwa")

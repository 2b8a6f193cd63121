"""VICReg: the loss against an independent computation, what a collapse costs, and that the run says so."""

import math

import numpy as np
import pytest
import torch

from helpers.small import SMALL
from ssmtl_toolkit.engine.step import Batch, SharedEncoder, Step
from ssmtl_toolkit.pretraining.verdict import History, judge
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec
from ssmtl_toolkit.testing import cases
from ssmtl_vicreg import VICReg


def slow_terms(one, other):
    """Invariance, variance and covariance of features (N, D), entry by entry."""
    number, dim = one.shape
    invariance = sum((one[n, i] - other[n, i]) ** 2 for n, i in np.ndindex(number, dim)) / number / dim
    variance = covariance = 0.0
    for z in (one, other):
        matrix = np.cov(z.T)
        variance += sum(max(0, 1 - math.sqrt(matrix[i, i] + 1e-4)) for i in range(dim)) / dim
        covariance += sum(matrix[i, j] ** 2 for i, j in np.ndindex(dim, dim) if i != j) / dim
    return invariance, variance, covariance


def run(spec, anchor, other):
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, SMALL).build(1).eval()
    module = spec.build(backbone).eval()
    output = module(Step(Batch(anchor, {}, view=lambda: other), SharedEncoder(backbone), {}))
    pooled = torch.cat([backbone(image).pooled for image in (anchor, other)])
    return output, pooled.detach(), module.expand(pooled).detach().double().numpy()


def test_the_loss_is_the_formula():
    torch.manual_seed(1)
    anchor = torch.randn(16, 1, 32, 32)
    spec = VICReg(invariance=3, variance=5, covariance=2, dim=12)
    output, pooled, expanded = run(spec, anchor, anchor + 0.3 * torch.randn_like(anchor))
    terms = slow_terms(*np.split(expanded, 2))
    assert output.loss.item() == pytest.approx(np.dot([3, 5, 2], terms), rel=1e-4)
    names = ("invariance", "variance", "covariance")
    assert [output.metrics[name].item() for name in names] == pytest.approx(terms, rel=1e-3)
    unit = pooled.double().numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert output.metrics["spread"].item() == pytest.approx(unit.std(axis=0).mean() * unit.shape[1] ** 0.5, rel=1e-4)
    assert output.pairs == 16


def test_features_that_are_all_alike_cost_the_trivial_answer():
    anchor = torch.randn(1, 1, 32, 32).repeat(6, 1, 1, 1)
    output, *_ = run(VICReg(), anchor, anchor)
    assert output.metrics["constant"].item() == pytest.approx(2 * 25 * 0.99)
    assert output.loss.item() == pytest.approx(output.metrics["constant"].item(), rel=1e-3)
    assert output.metrics["spread"].item() == pytest.approx(0, abs=1e-3)


def test_a_slice_alone_has_no_variance():
    anchor = torch.randn(1, 1, 32, 32)
    output, *_ = run(VICReg(), anchor, anchor)
    assert (output.pairs, output.loss.item()) == (0, 0)


@pytest.mark.parametrize(
    ("loss", "spread", "word"), [(49.4, 0.01, "collapsed"), (49.4, 0.6, "did not learn"), (30.0, 0.05, "no comparison")]
)
def test_a_collapse_is_said(loss, spread, word):
    means = {"loss": loss, "constant": 49.5, "spread": spread}
    verdict = judge(VICReg(), History([loss] * 30, 45.0, means, 300, 4000))
    assert verdict.word == word
    if word == "collapsed":
        assert "try a lower --lr, or a higher variance" in verdict.because


@pytest.mark.slow
def test_sixteen_slices_are_enough_to_lower_the_loss(ssmtl, tmp_path):
    words = ("--data", "phantom:patients=4", "--size", 32, "--steps", 40, "--batch-size", 16, "--backbone", SMALL)
    done = ssmtl("run", *words, "--task", "vicreg", "--task", "reconstruct_next:t=2", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "spread" in done.stderr
    assert "vicreg: collapsed" not in done.stderr


@pytest.mark.parametrize("case", cases("vicreg"), ids=str)
def test_it_keeps_the_contract(case):
    case.run()

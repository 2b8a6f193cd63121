"""The cheap scores of a mix, computed by hand on a tiny network; mixes, options, sentences."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ssmtl_toolkit.config import AffinityConfig
from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.experiments.affinity.comparing import sentence
from ssmtl_toolkit.experiments.affinity.gradients import cosines, flat_gradient, lookahead, stepped
from ssmtl_toolkit.experiments.affinity.rank import effective_rank
from ssmtl_toolkit.experiments.affinity.segmenting import pixel_weights, weighted_error
from ssmtl_toolkit.pretraining.ridge import Ridge

WEIGHT = np.array([[0.5, -0.2], [0.1, 0.3]])
INPUT = np.array([1.0, 2.0])
TARGETS = np.array([[0.3, 0.9], [-0.5, 0.2]])


@pytest.fixture
def network():
    """Two outputs of two inputs, and a layer that no loss depends on."""
    made = nn.ModuleDict({"used": nn.Linear(2, 2, bias=False), "unused": nn.Linear(1, 1, bias=False)}).double()
    with torch.no_grad():
        made["used"].weight.copy_(torch.from_numpy(WEIGHT))
        made["unused"].weight.fill_(2)
    return made


def losses_of(network):
    output = network["used"](torch.from_numpy(INPUT))
    return torch.stack([(output - torch.from_numpy(target)).square().mean() for target in TARGETS])


def by_hand(weight):
    """Losses (2,) and their gradients (2, 5), written out: d/dW mean((W x - y)^2) = (W x - y) x^T."""
    rest = weight @ INPUT - TARGETS
    return (rest**2).mean(axis=1), np.stack([[*np.outer(row, INPUT).flatten(), 0] for row in rest])


def test_gradients_and_their_cosine_are_those_computed_by_hand(network):
    parameters = list(network.parameters())
    gradients = torch.stack([flat_gradient(loss, parameters) for loss in losses_of(network)])
    _, expected = by_hand(WEIGHT)
    assert gradients.numpy() == pytest.approx(expected, rel=1e-6)
    dot = sum(a * b for a, b in zip(*expected, strict=True))
    lengths = [math.sqrt(sum(a * a for a in row)) for row in expected]
    assert float(cosines(gradients)[0, 1]) == pytest.approx(dot / lengths[0] / lengths[1])
    assert cosines(gradients).diagonal().tolist() == pytest.approx([1, 1])


def test_a_loss_without_weights_has_a_gradient_of_0_and_no_cosine(network):
    parameters = list(network.parameters())
    zero = flat_gradient(torch.tensor(1.0), parameters)
    assert zero.tolist() == [0] * 5
    assert torch.isnan(cosines(torch.stack([zero, torch.ones(5)]))[0, 1])


def test_lookahead_is_the_share_by_which_losses_fall_in_a_step_computed_by_hand(network):
    parameters = list(network.parameters())
    gradients = torch.stack([flat_gradient(loss, parameters) for loss in losses_of(network)])
    found = lookahead(lambda: losses_of(network), parameters, gradients)
    before, rows = by_hand(WEIGHT)
    norm = math.sqrt((WEIGHT**2).sum() + 2**2)  # of all weights, also of those that nothing depends on
    for i, row in enumerate(rows):
        step = 1e-4 * norm * row[:4].reshape(2, 2) / math.sqrt((row**2).sum())
        after, _ = by_hand(WEIGHT - step)
        assert found[i].tolist() == pytest.approx((1 - after / before).tolist(), rel=1e-4)
    assert found[0, 0] > 0
    assert network["used"].weight.detach().numpy() == pytest.approx(WEIGHT, abs=0)


def test_weights_are_put_back_when_a_loss_fails(network):
    def fail():
        with stepped(list(network.parameters()), torch.ones(5), 0.1):
            assert network["used"].weight.detach().numpy() != pytest.approx(WEIGHT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert network["used"].weight.detach().numpy() == pytest.approx(WEIGHT, abs=0)


def test_the_effective_rank_is_the_number_of_equal_directions():
    assert effective_rank(torch.eye(6)[:, :4]) == pytest.approx(4, rel=1e-4)
    assert effective_rank(torch.outer(torch.arange(1.0, 6), torch.ones(3))) == pytest.approx(1, rel=1e-4)
    shares = np.array([3, 1]) / 4
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-4
    )


def test_the_segmentation_loss_counts_classes_equally_and_leaves_out_what_is_not_known():
    rng = np.random.default_rng(0)
    labels = np.array([[[0, 0, 1], [0, IGNORE, 3]], [[0, 1, 1], [0, 0, 3]]], np.uint8)
    ridge = Ridge(torch.zeros(4, 2), torch.tensor([0.0, 0.0, 0.0, -torch.inf]))  # class 3 was not seen, 2 is not here
    scores = rng.normal(size=(2, 4, 2, 3))
    scores[:, 3] = -np.inf
    weights = pixel_weights(torch.from_numpy(labels), ridge)
    found = weighted_error(torch.from_numpy(scores), torch.from_numpy(labels), weights, ridge.bias.isfinite())
    errors = {0: [], 1: []}
    for n, row, column in np.ndindex(labels.shape):
        if (label := int(labels[n, row, column])) in errors:
            target = [1.0 if c == label else 0.0 for c in range(3)]
            errors[label].append(np.mean([(scores[n, c, row, column] - target[c]) ** 2 for c in range(3)]))
    assert float(found) == pytest.approx(np.mean([np.mean(each) for each in errors.values()]))


def config(*tasks, **options):
    return AffinityConfig.of({"tasks": tasks, **options}).resolve()


def test_mixes_are_each_task_each_pair_and_all():
    three = config("reconstruct_next:t=2", "denoise", "contrast").mixes()
    assert list(three) == [
        *("reconstruct_next:t=2", "denoise", "contrast"),
        *("reconstruct_next:t=2 + denoise", "reconstruct_next:t=2 + contrast", "denoise + contrast"),
        "reconstruct_next:t=2 + denoise + contrast",
    ]
    assert three["denoise + contrast"] == ("denoise", "contrast")
    assert len(config("denoise", "contrast").mixes()) == 3
    assert len(config("denoise", "contrast", "inpaint", "moco_v2").mixes()) == 4 + 6 + 1


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "no pretext tasks are given"),
        (["denoise"], "1 pretext task is given; whether tasks go together is asked of two or more"),
        (["denoise", "denoise"], "--task denoise: is given twice"),
        (["denoise", "contrats"], "did you mean 'contrast'"),
    ],
)
def test_tasks_that_make_no_mixes_are_refused(tasks, message):
    with pytest.raises(UsageError, match=message):
        config(*tasks)


def test_validation_patients_are_scored_and_pretraining_is_short_unless_it_is_set():
    few = config("denoise", "contrast", draws=4, seed=3).fewshot(5)
    assert (few.score, few.validation_scans, few.draws, few.seed) == ("validation", 5, 4, 3)
    assert few.pretrain == {"steps": 300}
    assert config("denoise", "contrast", pretrain={"epochs": 2}).fewshot(5).pretrain == {"epochs": 2}
    assert config("denoise", "contrast", steps=7, pretrain={"lr": 1.0}).fewshot(5).pretrain == {"steps": 7, "lr": 1.0}


@pytest.mark.parametrize(
    ("tau", "ends", "message"),
    [
        (0.6, [0.1, 0.9], "probe: orders the mixes as the true gains do: tau 0.60 (0.10 to 0.90)"),
        (0.3, [-0.3, 0.7], "probe: cannot be said whether it orders the mixes as the true gains do: tau 0.30 (-0.30"),
        (-0.8, [-0.9, -0.1], "probe: orders the mixes against the true gains: tau -0.80"),
        (0.3, None, "probe: cannot be said from 3 mixes, 6 are needed: tau 0.30"),
        (None, None, "probe: cannot be said: no two mixes differ"),
    ],
)
def test_a_sentence_says_no_more_than_the_interval(tau, ends, message):
    assert sentence({"title": "probe", "tau": tau, "ci95": ends, "n": 3}).startswith(message)


def test_a_score_that_no_mix_has_is_said_to_be_missing():
    assert "are known of no mix" in sentence({"title": "probe", "tau": None, "ci95": None, "n": 0})

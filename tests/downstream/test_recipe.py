"""What the options of a recipe do to a fine-tuning, against plain torch."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ssmtl_toolkit as toolkit
from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.downstream.average import WeightAverage
from ssmtl_toolkit.downstream.examples import MOST_TURNS, turns_of
from ssmtl_toolkit.downstream.model import ModelSpec
from ssmtl_toolkit.runtime import weights

QUICK = {"surface": False, "slices_per_scan": 2, "train_scans": 2, "test_scans": 2, "batch_size": 4, "log_every": 1}


def finetune(pretrained, labelled, out, **options):
    return toolkit.finetune(pretrained, data=str(labelled), out=out, cache=out.parent / "cache", **{**QUICK, **options})


def start(folder, pretrained):
    """The network before its first update."""
    model_spec, _ = ModelSpec.load(folder / "pretrained-0" / "model.safetensors")
    torch.manual_seed(step_seed(0, 4))
    model = model_spec.build()
    model.backbone.load_state_dict(load_file(pretrained / "backbone.safetensors"))
    return model


def changed(before, after):
    """The parts of the network whose parameters have changed."""
    names = [name for name, tensor in before.named_parameters() if not torch.equal(tensor, after[name])]
    return {next(p for p in ("backbone.encoder", "backbone.decoder", "head") if name.startswith(p)) for name in names}


def test_slices_with_a_rare_class_are_seen_more_often():
    shown = np.array([[True, False]] * 9 + [[True, True]])
    assert turns_of(shown).tolist() == [1] * 9 + [3]  # sqrt(10 / 1)
    assert turns_of(shown[:, :1]).tolist() == [1] * 10
    assert turns_of(np.array([[True, False]] * 399 + [[False, True]])).max() == MOST_TURNS
    assert turns_of(np.zeros((3, 2), bool)).tolist() == [1, 1, 1]


def test_the_average_follows_the_weights_by_its_decay():
    linear = torch.nn.Linear(2, 1)
    average = WeightAverage(linear, 0.5)
    expected = linear.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            linear.weight.add_(1.0)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * linear.weight.detach()
    assert torch.allclose(average.tensors["weight"], expected)
    own = linear.weight.detach().clone()
    with average.applied():
        assert torch.equal(linear.weight, average.tensors["weight"])
    assert torch.equal(linear.weight, own)


def test_the_averaged_weights_are_those_that_are_saved(labelled, pretrained, tmp_path):
    common = {"steps": 3, "recipe": "paper"}
    last = finetune(pretrained, labelled, tmp_path / "last", **common)
    mean = finetune(pretrained, labelled, tmp_path / "mean", average=0.9, **common)
    saved = [load_file(run.folder / "pretrained-0" / "model.safetensors") for run in (last, mean)]
    name = "head.classify.weight"
    first = start(mean.folder, pretrained).state_dict()[name]
    assert not torch.equal(saved[0][name], saved[1][name])
    assert (saved[1][name] - first).norm() < (saved[0][name] - first).norm()  # it follows behind


def test_a_factor_of_the_rate_holds_for_pre_trained_parts_alone(labelled, pretrained, tmp_path):
    options = {"steps": 1, "recipe": "paper", "baseline": "scratch"}
    one, tenth = (
        finetune(pretrained, labelled, tmp_path / str(factor), pretrained_lr=factor, **options) for factor in (1.0, 0.1)
    )
    first = start(one.folder, pretrained)
    ends = [load_file(run.folder / "pretrained-0" / "model.safetensors") for run in (one, tenth)]
    for name, tensor in first.named_parameters():
        moved = [float((end[name] - tensor.detach()).abs().max()) for end in ends]
        ratio = 0.1 if name.startswith("backbone.") else 1.0
        if moved[0] > 1e-5:
            assert moved[1] / moved[0] == pytest.approx(ratio, rel=1e-3), name
    twins = [load_file(run.folder / "scratch-0" / "model.safetensors") for run in (one, tenth)]
    assert all(torch.equal(twins[0][name], twins[1][name]) for name in twins[0])


def test_pre_trained_parts_wait_frozen_for_the_first_steps(labelled, pretrained, tmp_path):
    options = {"recipe": "paper", "frozen_steps": 2, "baseline": "scratch"}
    frozen = finetune(pretrained, labelled, tmp_path / "frozen", steps=2, **options)
    freed = finetune(pretrained, labelled, tmp_path / "freed", steps=3, **options)
    first = start(frozen.folder, pretrained)
    ends = [load_file(run.folder / "pretrained-0" / "model.safetensors") for run in (frozen, freed)]
    assert changed(first, ends[0]) == {"head"}
    assert changed(first, ends[1]) == {"head", "backbone.encoder", "backbone.decoder"}
    statistics = [name for name in ends[0] if name.endswith("running_mean")]
    assert all(torch.equal(ends[0][name], first.state_dict()[name]) for name in statistics)
    scratch = load_file(frozen.folder / "scratch-0" / "model.safetensors")
    torch.manual_seed(step_seed(0, 4))
    made = ModelSpec.load(frozen.folder / "scratch-0" / "model.safetensors")[0].build()
    assert changed(made, scratch) == {"head", "backbone.encoder", "backbone.decoder"}


def test_the_file_of_a_model_says_how_it_was_augmented(labelled, pretrained, tmp_path, ssmtl):
    tuned = finetune(pretrained, labelled, tmp_path / "f", steps=1, augment=["flip:axes=both", "noise"])
    about = weights.read(tuned.folder / "pretrained-0" / "model.safetensors", "").said()
    assert about["augment"] == ["flip:p=0.5,axes=both", "noise:p=0.2,sigma=0.3"]


def test_an_unknown_optimizer_is_refused_before_scans_are_read(pretrained, tmp_path, ssmtl):
    done = ssmtl("finetune", "--from", pretrained, "--data", tmp_path, "--optimizer", "adamm")
    assert done.returncode == 2
    assert "did you mean 'adam" in done.stderr

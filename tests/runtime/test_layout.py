"""`--channels-last auto`: the faster memory layout is found by a trial that leaves no trace, and kept on a resume."""

import tomllib

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

import ssmtl_toolkit
from helpers.small import SMALL, write_pair
from helpers.two_ranks import batch_of, model_of, trial_of
from ssmtl_toolkit.config import Training
from ssmtl_toolkit.runtime import layout
from ssmtl_toolkit.runtime.layout import choose_layout
from ssmtl_toolkit.runtime.progress import Progress


class Told(Progress):
    def __init__(self, until=None):
        self.lines, self.until = [], until

    def say(self, text):
        self.lines.append(text)

    def stepped(self, step):
        if step == self.until:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu")


def chosen(fabric, trial, steps=1000, told=None, **options):
    return choose_layout(Training(precision="32", **options), fabric, steps, trial, told or Progress())


@pytest.mark.parametrize(("factor", "wanted"), [(0.05, "on"), (1.0, "off"), (20, "off")])
def test_the_faster_layout_is_taken_and_told_in_a_line(fabric, factor, wanted):
    told = Told()
    assert chosen(fabric, trial_of(factor), told=told) == wanted
    (line,) = told.lines
    assert line.startswith("memory    channels last: a step takes ")
    assert line.endswith("; taken" if wanted == "on" else "; not taken, as that is above 0.95")


def test_a_trial_takes_no_more_than_its_share_of_the_steps_and_is_left_out_of_short_trainings(fabric):
    done = []

    def trial():
        return model_of("fixed"), lambda model: (done.append(1), model(batch_of(0))[0])[1]

    for steps in (1, 100, 399, 400, 700, 5000):
        done.clear()
        choice = chosen(fabric, trial, steps)
        assert len(done) <= 0.02 * steps
        assert bool(done) == (steps >= 400)
        assert steps >= 400 or choice == "off"
    assert len(done) == 2 * 16


def test_a_trial_changes_no_weight_no_statistic_and_no_random_state(fabric):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Dropout())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert chosen(fabric, lambda: (model, lambda m: m(torch.randn(4, 1, 8, 8)).square().mean())) in ("on", "off")
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.stride() == before[name].stride() for name, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_what_fails_in_a_trial_is_left_to_the_first_step(fabric):
    def fails(model):
        raise ValueError("a fault of the network")

    assert chosen(fabric, lambda: (torch.nn.Linear(1, 1), fails)) == "off"


def test_what_is_given_is_not_tried(fabric):
    for given in ("on", "off"):
        assert chosen(fabric, None, channels_last=given) == given


def test_bf16_is_only_told_where_it_is_faster(fabric, monkeypatch):
    monkeypatch.setattr(layout, "computes_bf16", lambda: True)
    told = Told()

    def trial():
        return trial_of(1.0)()[0], lambda model: model() if not torch.is_autocast_enabled("cpu") else model.weight.sum()

    assert choose_layout(Training(), fabric, 1000, trial, told) == "off"
    (line,) = [line for line in told.lines if "bf16" in line]
    assert line.startswith("precision 32; this CPU computes in bf16: with --precision bf16 a step takes 0.")


def weights_of(folder):
    return load_file(sorted((folder / "checkpoints").iterdir())[-1] / "state.safetensors")


@pytest.mark.parametrize(("margin", "taken"), [(99.0, "on"), (0.0, "off")])
def test_a_run_writes_down_what_it_took_and_its_resume_ends_with_the_same_bits(
    scans, tmp_path, monkeypatch, margin, taken
):
    options = {"data": str(scans), "backbone": "unet:encoder=plain,width=4", "size": 32, "batch_size": 4}
    options |= {"tasks": ["reconstruct_next:t=1", "moco_v2:queue=8"], "cache": tmp_path / "cache", "precision": "32"}
    monkeypatch.setattr(layout, "MARGIN", margin)
    broken, told = tmp_path / "broken", Told(until=4)
    with pytest.raises(KeyboardInterrupt):
        ssmtl_toolkit.pretrain(**options, steps=400, checkpoint_every=3, out=broken, progress=told)
    assert [line for line in told.lines if "channels last" in line]
    assert tomllib.loads((broken / "run.toml").read_text())["channels_last"] == taken
    monkeypatch.setattr(layout, "MARGIN", 99.0 - margin)  # a new trial would take the other one
    told = Told()
    ssmtl_toolkit.pretrain(**options, steps=5, out=broken, resume=True, progress=told)
    assert not [line for line in told.lines if "channels last" in line]
    assert tomllib.loads((broken / "run.toml").read_text())["channels_last"] == taken
    whole = ssmtl_toolkit.pretrain(**options, steps=5, out=tmp_path / "whole", channels_last=taken).folder
    resumed, never = weights_of(broken), weights_of(whole)
    assert resumed.keys() == never.keys()
    assert all(torch.equal(resumed[name], never[name]) for name in never)


def test_a_fine_tuning_writes_down_what_it_took_and_keeps_it(tmp_path, monkeypatch):
    for i in range(3):
        write_pair(tmp_path / "labelled", f"p{i}", seed=i)
    monkeypatch.setattr(layout, "MARGIN", 99.0)
    options = {"data": str(tmp_path / "labelled"), "backbone": SMALL, "size": 32, "batch_size": 2, "steps": 400}
    options |= {"test_scans": 1, "cache": tmp_path / "cache", "out": tmp_path / "f", "precision": "32"}
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            ssmtl_toolkit.finetune(**options, resume=resume, progress=(told := Told(until=2)))
        assert bool([line for line in told.lines if "channels last" in line]) is not resume
        assert tomllib.loads((tmp_path / "f" / "finetune.toml").read_text())["channels_last"] == "on"
        monkeypatch.setattr(layout, "MARGIN", 0.0)

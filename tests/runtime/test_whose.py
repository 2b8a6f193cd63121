"""A checkpoint knows whose it is: another run's is refused, another version is noted, odd files are told in a line."""

import hashlib
import json
import shutil
from typing import ClassVar

import pytest
import torch

import ssmtl_toolkit as toolkit
from helpers.small import SMALL
from ssmtl_toolkit import DataError, SsmtlError
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import TaskSpec

USUAL = {"backbone": SMALL, "size": 32, "batch_size": 4, "tasks": ["reconstruct_prev:t=1"], "steps": 2}


class Notes(Progress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def pretrain(scans, out, **options):
    return toolkit.pretrain(data=str(scans), out=out, cache=out.parent / "cache", **{**USUAL, **options})


def resumed(scans, out, **options):
    """What is noted when this run is resumed for a step more."""
    hearing = Notes()
    pretrain(scans, out, **{"steps": 3, **options}, resume=True, progress=hearing)
    return hearing.notes


def resign(folder, change):
    """Change a checkpoint's manifest, and give it the digest that it then should have."""
    file = folder / "checkpoints" / "step-00000002" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["digest"]
    change(manifest)
    text = json.dumps(manifest, sort_keys=True)
    manifest["digest"] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"seed": 7}, "seed is 0, was 7"),
        ({"lr": 0.01, "clip": 1.0}, "lr is 0.001, was 0.01; clip is None, was 1.0"),
        ({"weight_decay": 0.1}, "weight_decay is 0.0, was 0.1"),
        ({"tasks": ["reconstruct_prev:t=2"]}, "tasks is"),
        ({"balancer": "rlw"}, "balancer is 'fixed', was 'rlw"),
        ({"accumulate": 2}, "accumulate is 1, was 2"),
    ],
)
def test_a_checkpoint_of_another_run_with_equal_shapes_and_scans_is_refused(scans, tmp_path, other, said):
    pretrain(scans, tmp_path / "ours")
    pretrain(scans, tmp_path / "theirs", **other)
    shutil.rmtree(tmp_path / "ours" / "checkpoints")
    shutil.copytree(tmp_path / "theirs" / "checkpoints", tmp_path / "ours" / "checkpoints")
    with pytest.raises(DataError) as told:
        resumed(scans, tmp_path / "ours")
    assert f"step-00000002: is a checkpoint of another run ({said}" in str(told.value)
    assert "start a new one" in str(told.value)
    assert "\n" not in str(told.value)


def test_what_may_differ_may_still_differ(scans, tmp_path):
    pretrain(scans, tmp_path / "r")
    shutil.move(scans, tmp_path / "moved")
    free = {"store": "disk", "checkpoint_every": 7, "log_every": 1, "keep": 1, "gradient_norms": True}
    assert resumed(tmp_path / "moved", tmp_path / "r", **free) == ["resumes after step 2"]


class Unregistered(TaskSpec):
    """As in a notebook."""

    name: ClassVar[str] = "unregistered"
    needs = frozenset({"pooled"})

    def build(self, backbone):
        return UnregisteredModule(backbone.pooled_channels)


class UnregisteredModule(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.judge = torch.nn.Linear(channels, 1)

    def forward(self, step):
        return TaskOutput(self.judge(step.features().pooled).square().mean())


def test_a_run_with_a_task_from_a_notebook_is_resumed_and_another_weight_is_refused(scans, tmp_path):
    pretrain(scans, tmp_path / "r", tasks=[Unregistered()])
    assert resumed(scans, tmp_path / "r", tasks=[Unregistered()]) == ["resumes after step 2"]
    pretrain(scans, tmp_path / "other", tasks=[Unregistered(weight=2)])
    shutil.rmtree(tmp_path / "r" / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "r" / "checkpoints")
    with pytest.raises(DataError, match="is a checkpoint of another run"):
        resumed(scans, tmp_path / "r", tasks=[Unregistered()])


def test_an_option_that_the_version_of_the_checkpoint_did_not_have_counts_as_its_default(scans, tmp_path):
    pretrain(scans, tmp_path / "r")
    resign(tmp_path / "r", lambda manifest: manifest["options"].pop("clip"))
    assert resumed(scans, tmp_path / "r") == ["resumes after step 2"]


@pytest.mark.parametrize("name", ["ssmtl-toolkit", "torch"])
def test_another_version_is_noted(scans, tmp_path, name):
    pretrain(scans, tmp_path / "r")
    resign(tmp_path / "r", lambda manifest: manifest["versions"].update({name: "0.0.1"}))
    first, _ = resumed(scans, tmp_path / "r")
    assert first.startswith(f"{name} is ")
    assert first.endswith(", was 0.0.1: the run continues, but not bit for bit as it would have")


def test_a_checkpoint_of_version_0_1_is_resumed_with_a_note(scans, tmp_path):
    pretrain(scans, tmp_path / "r")

    def older(manifest):
        manifest["version"] = manifest.pop("versions")["ssmtl-toolkit"]
        del manifest["options"]

    resign(tmp_path / "r", older)
    notes = resumed(scans, tmp_path / "r")
    assert len(notes) == 2
    assert "does not record its options" in notes[0]


ODD = {
    "no scans": lambda m: m.pop("scans"),
    "no optimizer": lambda m: m.pop("optimizer"),
    "an optimizer of words": lambda m: m.update(optimizer="Adam"),
    "no parameters": lambda m: m["optimizer"][0].update(params=[]),
    "a learning rate in words": lambda m: m["optimizer"][0].update(lr="fast"),
    "options as a list": lambda m: m.update(options=["seed", 0]),
    "an unknown option": lambda m: m["options"].update(speed=3),
    "versions as a number": lambda m: m.update(versions=3),
    "a step of truth": lambda m: m.update(step=True),
    "a step in words": lambda m: m.update(step="2"),
    "half a step": lambda m: m.update(step=2.0),
    "no step": lambda m: m.pop("step"),
    "no files": lambda m: m.pop("files"),
}


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD)
def test_a_manifest_that_says_something_else_than_ours_is_refused_in_one_line(scans, tmp_path, odd):
    pretrain(scans, tmp_path / "r")
    resign(tmp_path / "r", ODD[odd])
    with pytest.raises(SsmtlError) as told:
        resumed(scans, tmp_path / "r")
    assert told.value.exit_code in (2, 3)
    assert str(tmp_path / "r" / "checkpoints") in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["[" * 100000, '{"a":' * 100000, "[]", "5", "null", '"x"', "{}", "9" * 5000, "\xff"])
def test_a_manifest_of_another_kind_or_nested_too_deep_is_damaged(tmp_path, text):
    (tmp_path / "step-00000002").mkdir()
    (tmp_path / "step-00000002" / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="is not a complete checkpoint"):
        checkpoint.load(tmp_path / "step-00000002")


LINES = [
    "5",
    "[]",
    "null",
    "{}",
    '{"step": "1"}',
    '{"step": true}',
    '{"step": 1, "a/loss": [1]}',
    "[" * 99999,
    "\xff",
    "x",
]


def test_lines_of_metrics_that_are_not_ours_are_dropped_with_a_note(scans, tmp_path):
    whole = pretrain(scans, tmp_path / "whole", log_every=1, steps=3)
    pretrain(scans, tmp_path / "r", log_every=1)
    file = tmp_path / "r" / "metrics.jsonl"
    first, second = file.read_text().splitlines()
    file.write_bytes("\n".join([*LINES, first, *LINES, second, '{"step": 3, "cut']).encode("latin-1"))
    notes = resumed(scans, tmp_path / "r", log_every=1)
    assert f"{file}: {2 * len(LINES)} of its lines do not belong to this run, and were dropped" in notes
    assert file.read_text() == (whole.folder / "metrics.jsonl").read_text()

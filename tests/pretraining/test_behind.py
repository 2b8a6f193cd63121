"""Checkpoints are written while the training continues: of the step that they name, and not later than its end."""

import os
import threading
import time

import pytest
import torch

import ssmtl_toolkit
from ssmtl_toolkit import SsmtlError
from ssmtl_toolkit.pretraining.behind import Behind
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.progress import Progress

SMALL = {"backbone": "unet:encoder=plain,width=4", "size": 32, "batch_size": 4}
OPTIONS = {**SMALL, "tasks": ["moco_v2:queue=10", "reconstruct_next:t=1"], "checkpoint_every": 2, "keep": 0}


class Steps(Progress):
    """Notes after which steps a checkpoint was there, and ends the training after one of them."""

    def __init__(self, folder, ends=0):
        self.folder, self.ends, self.there = folder, ends, {}

    def stepped(self, step):
        self.there[step] = sorted(path.name for path in (self.folder / "checkpoints").glob("step-*"))
        if step == self.ends:
            raise SsmtlError("the end")


@pytest.fixture
def slow_disk(monkeypatch):
    """All that is written behind waits for the disk, which is slow for it."""

    def slow(descriptor, sync=os.fsync):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.4)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)


def pretrain(scans, out, **options):
    return ssmtl_toolkit.pretrain(data=str(scans), out=out, cache=out.parent / "cache", **OPTIONS, **options)


def states(folder):
    return {path.name: checkpoint.load(path).tensors for path in (folder / "checkpoints").iterdir()}


def test_a_checkpoint_is_of_its_step_though_the_training_goes_on_before_it_is_written(scans, tmp_path, slow_disk):
    steps = Steps(tmp_path / "r")
    found = states(pretrain(scans, tmp_path / "r", steps=4, progress=steps).folder)
    pretrain(scans, tmp_path / "waits", steps=2)
    expected = states(pretrain(scans, tmp_path / "waits", steps=4, resume=True).folder)
    assert steps.there[3] == []
    assert found.keys() == expected.keys() == {"step-00000002", "step-00000004"}
    for name, tensors in expected.items():
        assert all(torch.equal(found[name][key], tensor) for key, tensor in tensors.items()), name
    assert not torch.equal(*(found[name]["model.tasks.0.queue"] for name in found))


def test_a_training_that_fails_leaves_a_whole_checkpoint(scans, tmp_path, slow_disk):
    steps = Steps(tmp_path / "r", ends=3)
    with pytest.raises(SsmtlError, match="the end"):
        pretrain(scans, tmp_path / "r", steps=4, progress=steps)
    assert steps.there[3] == []
    assert states(tmp_path / "r").keys() == {"step-00000002"}
    assert (tmp_path / "r" / "backbone.safetensors").is_file()
    assert not list((tmp_path / "r").rglob("*.part"))


def test_what_was_raised_behind_is_raised_when_it_is_settled_and_once():
    behind, go = Behind(), threading.Event()

    def write():
        go.wait()
        raise SsmtlError("full")

    behind.settle(wait=True)  # nothing was begun
    behind.start(write)
    behind.settle(wait=False)
    go.set()
    with pytest.raises(SsmtlError, match="full"):
        behind.settle(wait=True)
    behind.settle(wait=True)
    behind.start(lambda: None)
    behind.settle(wait=True)

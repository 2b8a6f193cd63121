"""Trainings that are stopped by a signal after a step, and what must be equal when they are resumed."""

import json
import signal

import torch
from safetensors.torch import load_file

from ssmtl_toolkit.runtime.progress import Progress


class StopAt(Progress):
    """Sends a signal to this process after a step; feedback the notes."""

    def __init__(self, step=None, number=signal.SIGTERM):
        self.step, self.number, self.notes = step, number, []

    def stepped(self, step):
        if step == self.step:
            signal.raise_signal(self.number)

    def note(self, text):
        self.notes.append(text)


def ended(folder):
    """All that must be equal: weights, metrics, scores (but not how long it took)."""
    scores = json.loads((folder / "scores.json").read_text())
    scores["training"].pop("seconds")
    weights = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
    return weights, (folder / "metrics.jsonl").read_text(), scores


def assert_equal(a, b):
    assert a[1:] == b[1:]
    assert a[0].keys() == b[0].keys()
    assert all(torch.equal(a[0][k], b[0][k]) for k in a[0])

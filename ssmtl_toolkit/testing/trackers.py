"""Checks of trackers, by a run that was made up: two parts, odd names and values, a picture, an end; then resumed."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image

from ssmtl_toolkit.engine.tracker import State, TrackedRun, Tracker
from ssmtl_toolkit.specs import TrackerSpec
from ssmtl_toolkit.testing.case import Bench, check, fail, require

_ID = "0123456789abcdef"
_CONFIG = {"backbone": "unet:encoder=plain,width=8", "lr": 1e-3, "steps": 20, "skip_bad": False, "window": [-160, 240]}
_NAMES = ("slice_siam:t=2,weight=0.5/loss", "between:t=5mm/pairs", "Größe λ")
_VALUES = (0.25, 16.0, -1e-12)
_PARTS = ("pretrained-0", "scratch-0")
_STATES: tuple[State, ...] = ("interrupted", "failed", "finished")


@check(TrackerSpec, "it takes all that a run tells, and continues when the run is resumed")
def it_takes_a_run(bench: Bench) -> None:
    spec = cast("TrackerSpec", bench.spec)
    for begun, state in enumerate(_STATES):
        tracker = _opened(spec, bench.folder)
        where = tracker.where()
        require(isinstance(where, str) and where.isprintable(), f"where() gives {where!r}; give one line, or ''")
        _tell(tracker, bench.folder, first=10 * begun, state=state)


@check(TrackerSpec, "in the run folder it writes only what begins with its name")
def it_keeps_to_its_files(bench: Bench) -> None:
    spec, folder = cast("TrackerSpec", bench.spec), bench.folder / "run"
    folder.mkdir()
    _tell(_opened(spec, folder), bench.folder)
    other = sorted(path.name for path in folder.iterdir() if not path.name.startswith(spec.name))
    require(
        not other, f"it writes {', '.join(other[:3])}; call it {spec.name}…, so that it replaces no file of the run"
    )


@check(TrackerSpec, "it draws no random numbers")
def it_leaves_random_numbers(bench: Bench) -> None:
    spec = cast("TrackerSpec", bench.spec)
    before = _generators()
    _tell(_opened(spec, bench.folder), bench.folder)
    changed = [name for name, state in _generators().items() if state != before[name]]
    require(
        not changed,
        f"it draws from the global generator of {' and '.join(changed)}, so that tracked runs give other weights; make "
        f"a generator of its own",
    )


def _opened(spec: TrackerSpec, folder: Path) -> Tracker:
    try:
        tracker = spec.open(TrackedRun(folder, "checked", _ID, "finetune", _CONFIG))
    except ModuleNotFoundError as error:
        fail(f"it needs {error.name}, which is not installed; install it to check this")
    require(isinstance(tracker, Tracker), f"open() gives {type(tracker).__name__}; give a Tracker")
    return tracker


def _tell(tracker: Tracker, folder: Path, first: int = 0, state: State = "finished") -> None:
    picture = folder / "picture.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(picture)
    for part in _PARTS:
        tracker.training(part, first)
        tracker.scalars(part, first + 10, dict(zip(_NAMES, _VALUES, strict=True)))
        tracker.scalars(part, first + 20, {_NAMES[0]: math.nan, _NAMES[1]: math.inf})
    tracker.picture("samples/anchor", picture)
    tracker.scores({"arms/pretrained/iou": 0.5, "arms/scratch/iou": 0.25})
    tracker.end(state)


def _generators() -> dict[str, object]:
    """The states of the generators that a training draws from."""
    _, keys, place, *_ = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": (np.asarray(keys).tobytes(), place),
        "Python": random.getstate(),
    }

"""Passes a run on to the trackers of --track; one that fails is left out, and never ends the run."""

from __future__ import annotations

import contextlib
import functools
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config import Config
from ssmtl_toolkit.config.tracking import Tracking as Option
from ssmtl_toolkit.engine.tracker import State, TrackedRun, Tracker
from ssmtl_toolkit.foreign import by_the_user, in_one_line
from ssmtl_toolkit.installed import OURS
from ssmtl_toolkit.places import names_a_place
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import TrackerSpec

_STEP = "step"


class Tracking(Progress):
    """The open trackers of a run."""

    def __init__(self, report: Progress) -> None:
        """`report` is notified of trackers that fail."""
        self._report = report
        self._open: dict[str, Tracker] = {}
        self._part = ""

    def begin(self, specs: Sequence[TrackerSpec], run: TrackedRun) -> None:
        """Open the trackers, and say how to look at what they record."""
        for spec in specs:
            with self._left_out_if_it_fails(spec):
                tracker = spec.open(run)
                if not isinstance(tracker, Tracker):
                    raise TypeError(f"its open() gives {type(tracker).__name__}; give a Tracker")
                self._open[str(spec)] = tracker
                if where := tracker.where():
                    self._report.say(f"tracker   {spec.name}: {where}")

    def part(self, name: str) -> None:
        self._part = name

    def training(self, first: int, steps: int, images: int) -> None:
        self._each(lambda tracker: tracker.training(self._part, first))

    def logged(self, record: Mapping[str, float]) -> None:
        values = {name: value for name, value in record.items() if name != _STEP}
        self._each(lambda tracker: tracker.scalars(self._part, int(record[_STEP]), values))

    def end(self, state: State, scores: Mapping[str, float], pictures: Mapping[str, Path]) -> None:
        """Give what the run has come to, and close all."""
        for name, file in pictures.items():
            self._each(functools.partial(_picture, name, file))
        if scores:
            self._each(lambda tracker: tracker.scores(scores))
        self._each(lambda tracker: tracker.end(state))
        self._open.clear()

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            with self._left_out_if_it_fails(name):
                do(tracker)

    @contextlib.contextmanager
    def _left_out_if_it_fails(self, tracker: TrackerSpec | str) -> Iterator[None]:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # what it says of itself is said by us, in one line
                yield
        except BaseException as error:
            if by_the_user(error):
                raise
            self._open.pop(str(tracker), None)
            self._report.note(f"--track {tracker}: {_reason(error, tracker)}; the run continues without it")


def _picture(name: str, file: Path, tracker: Tracker) -> None:
    tracker.picture(name, file)


def _reason(error: BaseException, tracker: TrackerSpec | str) -> str:
    """Why a tracker is left out; of a package that is missing, how to install it."""
    if isinstance(error, ModuleNotFoundError) and error.name and isinstance(tracker, TrackerSpec):
        bundled = registry().origin(tracker)["distribution"] == OURS
        package = f"'{OURS}[{tracker.name}]'" if bundled else error.name
        return f"needs {error.name}, which is not installed (pip install {package})"
    return f"fails: {in_one_line(error)}"


def shared_options(config: Config) -> dict[str, Any]:
    """The options of a run by name, without those that name a path or a URL: trackers may send them elsewhere."""
    options = {name: value for name, value in config.to_json().items() if name not in Option.model_fields}
    return {name: value for name, value in options.items() if not any(map(_is_place, _texts(value)))}


def _is_place(text: str) -> bool:
    """Whether a text, or the value of an option in it, names a path or a URL."""
    options = text.partition(":")[2].split(",")
    return names_a_place(text) or any(names_a_place(option.rpartition("=")[2]) for option in options)


def _texts(value: Any) -> Iterator[str]:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str):
            yield one


def numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers in a tree of mappings, by their path with slashes; of statistics the mean alone."""
    found: dict[str, float] = {}
    for name, node in tree.items():
        value = node.get("mean", node) if isinstance(node, Mapping) else node
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{name}"] = value
    return found

"""What a tracker gets to know of a run, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker is opened for.

    Attributes:
        folder: its folder, into which a tracker may write; what it writes there begins with the tracker's name.
        name: what to call it.
        id: 16 hexadecimal digits, the same when the run is resumed.
        command: `run` or `finetune`.
        config: its options by name, as JSON values; those that name a path or a URL are omitted.
    """

    folder: Path
    name: str
    id: str
    command: str
    config: Mapping[str, Any]


class Tracker:
    """Records one run. Every method may be overridden; here they do nothing.

    If one of them raises, the user is warned once, and the run continues without the tracker. None may draw random
    numbers from the global generators of torch, NumPy and Python: equal runs give equal weights, tracked or not.
    """

    def where(self) -> str:
        """How to look at what is recorded, such as a command; "" if there is nothing to say."""
        return ""

    def training(self, part: str, step: int) -> None:
        """Scalars of `part` after `step` steps follow; if the run was resumed, some of them for the second time.

        `part` is "" for a pre-training; a fine-tuning has a part for each arm and seed, such as `pretrained-0`.
        """

    def scalars(self, part: str, step: int, values: Mapping[str, float]) -> None:
        """Values by name after `step` steps of a part, such as `slice_siam:t=2/loss`; NaN and infinity may occur."""

    def picture(self, name: str, file: Path) -> None:
        """A PNG file that the run has drawn."""

    def scores(self, values: Mapping[str, float]) -> None:
        """What the run has come to, by name with slashes, such as `arms/pretrained/iou/mean`."""

    def end(self, state: State) -> None:
        """The run has ended; nothing more will come."""

"""Progress as lines of text: early ones, then one at each tenth, each with the time to go."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ssmtl_toolkit.runtime.progress import Pace, Progress
from ssmtl_toolkit.text import duration

_SILENCE = 10  # seconds that nothing need be said


class Lines(Progress):
    """Gives what it is notified of to `write`, a line at a time."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write
        self.pace = self.reading = Pace(1)
        self._first = self._images = 0
        self._due = _Due(1)
        self._held_out: dict[str, float] = {}
        self._probe = ""

    def note(self, text: str) -> None:
        self.write(f"note: {text}")

    def say(self, text: str) -> None:
        self.write(text)

    def preparing(self, scans: int) -> None:
        self.reading, self._due = Pace(scans), _Due(scans)

    def prepared(self, name: str) -> None:
        self.reading.update(self.reading.done + 1)
        number, of = self.reading.done, self.reading.total
        if self.reading.elapsed > _SILENCE and number < of and self._due(number):
            self.write(f"reading   {number} of {of} scans{to_go(self.reading)}")

    def training(self, first: int, steps: int, images: int) -> None:
        self._first, self._images = first, images
        self.pace, self._due, self._held_out, self._probe = Pace(steps, first), _Due(steps), {}, ""

    def stepped(self, step: int) -> None:
        self.pace.update(step)
        if self.pace.known > 1 and self.pace.elapsed > _SILENCE and self._due.first:
            self._due.first = False
            self.write(f"step {step}/{self.pace.total}{to_go(self.pace)}")

    def logged(self, record: Mapping[str, float]) -> None:
        if "probe/iou" in record:  # shown with the next losses
            self._probe = f"  probe mIoU {record['probe/iou']:.3f}"
            return
        step = int(record["step"])
        self.pace.update(step)
        speed = (step - self._first) * self._images / max(self.pace.elapsed, 1e-9)
        self._held_out |= {k.removesuffix("/held_out"): v for k, v in record.items() if k.endswith("/held_out")}
        losses = "  ".join(self._loss(k.removesuffix("/loss"), v) for k, v in record.items() if k.endswith("/loss"))
        self.show(step, f"{speed:.0f} images/s", losses + self._probe)

    def show(self, step: int, speed: str, losses: str) -> None:
        """Show how far the training is."""
        if self._due(step):
            self._due.first = self.pace.to_go() is None
            self.write(f"step {step}/{self.pace.total}{to_go(self.pace)}  {speed}  {losses}")

    def _loss(self, label: str, loss: float) -> str:
        apart = f" (held out {self._held_out[label]:.4f})" if label in self._held_out else ""
        return f"{label} {loss:.4f}{apart}"


def to_go(pace: Pace) -> str:
    """How long the rest takes, to be written behind how much is done; "" as long as that is not known."""
    seconds = pace.to_go()
    return f"  about {duration(seconds)} to go" if seconds and pace.done < pace.total else ""


class _Due:
    """Which of `total` steps get a line: the first one, one after a hundredth, and one in each tenth.

    Attributes:
        first: whether no line has said yet how long it takes.
    """

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._shown = -2.0
        self.first = True

    def __call__(self, step: int) -> bool:
        """Whether this step gets a line; asked once for a step, in their order."""
        share = step / self._total
        now = math.floor(10 * share) if share >= 0.1 else -0.5 if share < 0.01 else 0
        later = now > self._shown
        self._shown = now
        return later

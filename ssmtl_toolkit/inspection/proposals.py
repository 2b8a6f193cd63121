"""What options suit the data, each by a stated rule, and how long a run with them takes on this machine."""

from __future__ import annotations

import shutil
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ssmtl_toolkit.data.uneven import usual_distance
from ssmtl_toolkit.inspection.alike import Stacks
from ssmtl_toolkit.inspection.distance import ProposedDistance, proposed_distance
from ssmtl_toolkit.inspection.seeing import Seen

_LARGEST, _STEP = 256, 32  # pixels: larger slices cost four times as much for twice the side
_BATCH = 16
_EPOCHS, _STEPS = 100, (1_000, 20_000)  # the default, and the steps below and above which another number suits
_QUEUE = 1024  # MoCo's keys in the paper
_GIGAFLOPS = 46.2  # of a forward and backward pass of the default network for a slice of 256 x 256 (torch's counter)
_EFFICIENCY = 0.65  # of numpy's matrix product that training reaches, measured 0.60 to 0.71 on one core
_AIR, _BONE = -700, 300  # HU: below the one is air, above the other bone or contrast agent


@dataclass(frozen=True)
class Proposals:
    """Options for `ssmtl run`, and why.

    Attributes:
        axis: to cut slices along.
        size: of slices, in pixels: that of the median slice, rounded up to a multiple of 32, at most 256.
        window: to clip to; None: not needed.
        prepare: a preparation that makes unevenly spaced slices even, at the usual distance; None: all are even.
        t: the distance by `distance.proposed_distance`; None without voxels.
        queue: of MoCo V2: the largest power of 2 that is at most half of the slices, at most 1024.
        epochs: 100, but at least 1,000 and at most 20,000 steps of 16 slices.
        hours: how long that takes on this machine's CPU with the default network, roughly; None if unknown.
        gpu: whether this machine seems to have a GPU, on which a run is much faster.
    """

    axis: str
    size: int
    window: tuple[float, float] | None
    prepare: str | None
    t: ProposedDistance | None
    queue: int
    epochs: int
    hours: float | None
    gpu: bool

    def to_json(self) -> dict[str, Any]:
        """All of them; `t` and `t_because` apart."""
        plain = asdict(self)
        plain["t"] = self.t and self.t.t
        plain["t_because"] = self.t and self.t.why
        plain["window"] = self.window and list(self.window)
        return plain

    @property
    def arguments(self) -> str:
        """The options as they are written after `ssmtl run --data DATA`."""
        window = f" --window {self.window[0]:g} {self.window[1]:g}" if self.window else ""
        tasks = "".join(f" --task reconstruct_{way}:t={self.t.t}" for way in ("prev", "next")) if self.t else ""
        prepare = f" --prepare {self.prepare}" if self.prepare else ""
        return f"--axis {self.axis} --size {self.size}{window}{prepare}{tasks} --epochs {self.epochs}"


def propose(usable: Sequence[Seen], stacks: Stacks, size: int, *, timed: bool = True) -> Proposals:
    """Propose options for scans that can be used, of which there must be one; `size` is that of their slices."""
    anchors = stacks.total
    looked = any(stack.products is not None for stack in stacks.stacks)
    epochs = _epochs(anchors)
    return Proposals(
        axis=Counter(one.axis for one in usable).most_common(1)[0][0],
        size=size,
        window=proposed_window(usable),
        prepare=proposed_resampling(usable),
        t=proposed_distance(stacks) if looked else None,
        queue=min(_QUEUE, 1 << max(0, (anchors // 2).bit_length() - 1)),
        epochs=epochs,
        hours=anchors * epochs * seconds_per_slice(size) / 3600 if timed else None,
        gpu=shutil.which("nvidia-smi") is not None,
    )


def proposed_size(usable: Sequence[Seen]) -> int:
    """The longer side of the median slice, rounded up to a multiple of 32, from 32 to 256."""
    longer = statistics.median(max(one.grid[1:]) for one in usable)
    return int(min(_LARGEST, max(_STEP, -(-longer // _STEP) * _STEP)))


def proposed_window(usable: Sequence[Seen]) -> tuple[float, float] | None:
    """-1000 to 1000 where the values are those of CT, in HU; else None: each slice is normalised by itself."""
    looks = [one.look for one in usable if one.look]
    ct = [look for look in looks if look.whole and look.low <= _AIR and look.usual[1] >= 0 and look.high >= _BONE]
    named = [one for one in usable if one.scan.modality.lower() in ("ct", "cta", "cbct")]
    most_are_ct = len(ct) > len(looks) / 2 if looks else len(named) > len(usable) / 2
    return (-1000.0, 1000.0) if most_are_ct else None


def proposed_resampling(usable: Sequence[Seen]) -> str | None:
    """Resample to the median of the distances between slices, if those of some scan are uneven."""
    headers = [one.header for one in usable if one.header]
    if not any(header.positions for header in headers):
        return None
    usual = [usual_distance(h.positions) if h.positions else h.spacing[h.slice_axis] for h in headers]
    return f"resample:stack={statistics.median(usual):.3g}"


def seconds_per_slice(size: int) -> float:
    """Estimate how long training on one slice takes with the default network, from how fast numpy multiplies."""
    matrix = np.ones((1024, 1024), np.float32)
    rounds = []
    for _ in range(4):
        started = time.perf_counter()
        matrix @ matrix
        rounds.append(time.perf_counter() - started)
    per_second = 2 * 1024**3 / min(rounds)
    return _GIGAFLOPS * 1e9 * (size / 256) ** 2 / (_EFFICIENCY * per_second)


def _epochs(anchors: int) -> int:
    least, most = (-(-steps * _BATCH // max(anchors, 1)) for steps in _STEPS)
    return max(1, min(max(_EPOCHS, least), most))

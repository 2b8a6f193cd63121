"""Steps whose losses or gradients are not finite: noticed before they change a weight, in pre-training and fine-tuning.

On a CPU, and wherever bad steps are skipped, each step is looked at before the optimizer acts. On a GPU that would make
every step wait for the device: there the device itself holds the optimizer back from the first bad step on, and what it
found is read two steps later, when it is long known.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ssmtl_toolkit.engine.ranks import sum_over_ranks

GRADIENT = "gradient"
_LATER = 2  # steps after which a GPU's result is read


@dataclass(frozen=True)
class BadStep:
    """A step, counted from 1, and what of it is not finite: losses by their names, and the largest gradient."""

    step: int
    values: Mapping[str, float]

    @property
    def losses(self) -> list[str]:
        """The names of the losses that are not finite."""
        return [name for name, value in self.values.items() if name != GRADIENT and not math.isfinite(value)]


def allowed_skips(on_nan: str) -> int:
    """How many bad steps in a row `--on-nan` skips; 0: the first ends the training.

    >>> allowed_skips("stop"), allowed_skips("skip:3")
    (0, 3)
    """
    return int(on_nan.partition(":")[2] or 0)


def buffers_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """The buffers that these modules have now; a walk over a whole model takes twenty times as long."""
    return [buffer for module in modules for buffer in module._buffers.values() if buffer is not None]


def _largest(gradients: list[Tensor]) -> Tensor:
    """The largest absolute value; NaN if there is one."""
    if not gradients:
        return torch.zeros(())
    if gradients[0].device.type == "cpu":  # a tenth of the time that the norm takes there
        return torch.stack([end for gradient in gradients for end in gradient.aminmax()]).abs().max()
    return torch.stack(torch._foreach_norm(gradients, math.inf)).max()


@dataclass
class Health:
    """Looks at each step of one training.

    Attributes:
        state: gives the tensors that a step changes beside what the optimizer does, such as buffers.
        skips: how many bad steps in a row are skipped.
        skipped: the steps that were, counted from 1.
    """

    optimizer: torch.optim.Optimizer
    state: Callable[[], Sequence[Tensor]]
    device: torch.device
    skips: int = 0
    skipped: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        held_back = getattr(self.optimizer, "_step_supports_amp_scaling", False)
        self.waits = self.device.type != "cuda" or self.skips > 0 or not held_back
        self._before: list[Tensor] = []
        self._first: Tensor | None = None  # on the device: what the first bad step gave, and its number
        self._pending: deque[tuple[torch.cuda.Event | None, Tensor, list[str]]] = deque()

    def begin(self) -> BadStep | None:
        """Before a step: remember what it may change; the bad step that came before, where that is known later."""
        if self.waits:
            self._before = [tensor.clone() for tensor in self.state()]
            return None
        return self._read() if len(self._pending) >= _LATER else None

    def check(self, step: int, losses: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> BadStep | None:
        """After the backward pass of a step: whether it is bad, where that is known now; `state` is then as before it.

        `losses` are sums over its batches; all ranks come to one answer.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        largest = _largest(gradients)
        names = [*losses, GRADIENT]
        values = [loss.detach().float() for loss in losses.values()]
        found = sum_over_ranks(torch.stack([*values, largest.float().to(values[0].device)]))
        if self.waits:
            return self._now(step, dict(zip(names, found.tolist(), strict=True)))
        self._hold_back(step, found, names)
        return None

    def settle(self) -> BadStep | None:
        """Before something is logged or written: the first bad step so far, also where it is not known yet."""
        bad = None
        while self._pending and bad is None:
            bad = self._read()
        return bad

    def too_many(self, step: int) -> bool:
        """Note that a bad step is skipped; whether that is one more in a row than allowed."""
        self.skipped.append(step)
        run = range(step - self.skips, step + 1)
        return set(run) <= set(self.skipped)

    def _now(self, step: int, values: Mapping[str, float]) -> BadStep | None:
        if all(map(math.isfinite, values.values())):
            return None
        with torch.no_grad():
            for tensor, before in zip(self.state(), self._before, strict=True):
                tensor.copy_(before)
        return BadStep(step, values)

    def _hold_back(self, step: int, found: Tensor, names: list[str]) -> None:
        """From the first bad step on, let the optimizer do nothing; the host does not wait for that."""
        now = torch.cat([found, found.new_tensor([float(step)])])
        first = torch.full_like(now, 0.0) if self._first is None else self._first
        self._first = torch.where((first[-1] == 0) & ~found.isfinite().all(), now, first)
        self.optimizer.found_inf = (self._first[-1] > 0).float()  # type: ignore[attr-defined]
        cuda = self.device.type == "cuda"
        host = torch.empty(self._first.shape, pin_memory=cuda)
        host.copy_(self._first, non_blocking=True)
        event = torch.cuda.Event() if cuda else None
        if event is not None:
            event.record()
        self._pending.append((event, host, names))

    def _read(self) -> BadStep | None:
        event, host, names = self._pending.popleft()
        if event is not None:
            event.synchronize()
        *values, step = host.tolist()
        return BadStep(int(step), dict(zip(names, values, strict=True))) if step else None

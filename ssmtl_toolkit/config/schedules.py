"""The course of the learning rate over a training: a pure function of the step, by timm's schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from ssmtl_toolkit import text as spec_text
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.text import did_you_mean

if TYPE_CHECKING:
    import torch
    from timm.scheduler.scheduler import Scheduler


class Course:
    """Sets the rates of an optimizer by timm's scheduler of the largest one; those of the parts keep their ratios."""

    def __init__(self, optimizer: torch.optim.Optimizer, scheduler: Scheduler) -> None:
        """`scheduler` is that of one rate, the largest of the optimizer's."""
        self._optimizer, self._scheduler = optimizer, scheduler
        rates = [group["lr"] for group in optimizer.param_groups]
        self._shares = [rate / max(rates) for rate in rates]

    def step(self, step: int) -> None:
        """Set the rates for the update after `step` others."""
        self._scheduler.step(step)
        (largest,) = (group["lr"] for group in self._scheduler.optimizer.param_groups)
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            group["lr"] = largest * share


class Schedule(Spec):
    """A learning rate over the steps; rates that differ by part keep their ratios."""

    kind: ClassVar[str] = "schedule"

    def build(self, optimizer: torch.optim.Optimizer, steps: int) -> Course | None:
        """Make what sets the rates of every update; None: they stay."""
        return None


class Constant(Schedule):
    """The same rate throughout."""

    name: ClassVar[str] = "constant"


class _Falling(Schedule):
    """A rate that rises from 0 in the first steps and then falls to 0."""

    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the rate rises.")

    def build(self, optimizer: torch.optim.Optimizer, steps: int) -> Course | None:
        import torch
        from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]

        rising, largest = round(self.warmup * steps), max(group["lr"] for group in optimizer.param_groups)
        first = largest / (rising + 1)  # at 0 the first step would be idle
        one = torch.optim.SGD([torch.zeros(())], lr=largest)  # timm warms all rates up from the same one
        made: Scheduler
        made, _ = create_scheduler_v2(
            one, sched=self.name, num_epochs=steps, warmup_epochs=rising, warmup_lr=first, **self._more()
        )
        return Course(optimizer, made)

    def _more(self) -> dict[str, Any]:
        """What timm's factory takes beside the number of steps."""
        return {}


class Cosine(_Falling):
    """Down along half a cosine."""

    name: ClassVar[str] = "cosine"


class Poly(_Falling):
    """Down as a power of what remains of the steps."""

    name: ClassVar[str] = "poly"
    positional: ClassVar[str | None] = "power"

    power: float = Field(0.9, gt=0, description="The power (nnU-Net: 0.9).")

    def _more(self) -> dict[str, Any]:
        return {"decay_rate": self.power}


_KNOWN: dict[str, type[Schedule]] = {schedule.name: schedule for schedule in (Constant, Cosine, Poly)}


def read_schedule(given: Any) -> Schedule:
    """Turn `cosine:warmup=0.1` into a schedule; a schedule is returned as it is.

    Raises:
        ValueError: no such schedule, or a wrong option of it.
    """
    if isinstance(given, Schedule):
        return given
    name, options = spec_text.split(str(given))
    if name not in _KNOWN:
        raise ValueError(f"no schedule {name!r}{did_you_mean(name, _KNOWN)} (known: {', '.join(_KNOWN)})")
    try:
        return _KNOWN[name].parse(options)
    except UsageError as error:
        raise ValueError(str(error)) from None

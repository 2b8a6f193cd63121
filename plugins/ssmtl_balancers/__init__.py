"""Bundled balancers: how the losses of several tasks are combined into one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import BalancerSpec, TaskSpec

if TYPE_CHECKING:
    from ssmtl_balancers import famo, gradients, module


class Fixed(BalancerSpec):
    """The weighted sum of the losses, each with its task's own weight (paper, eq. 1 and 3)."""

    name: ClassVar[str] = "fixed"

    def build(self, tasks: Mapping[str, TaskSpec]) -> module.Fixed:
        from ssmtl_balancers import module

        return module.Fixed(tasks)


class Uncertainty(BalancerSpec):
    """Learn a variance for each task and weight its loss by the inverse (Kendall et al., 2018)."""

    name: ClassVar[str] = "uncertainty"

    def build(self, tasks: Mapping[str, TaskSpec]) -> module.Uncertainty:
        from ssmtl_balancers import module

        return module.Uncertainty(tasks)


class Dwa(BalancerSpec):
    """Dynamic weight average: tasks whose loss falls slowly count more (Liu et al., 2019)."""

    name: ClassVar[str] = "dwa"

    window: int = Field(
        100, ge=1, le=1_000_000, description="Number of updates over which a loss is averaged (original: an epoch)."
    )
    temperature: float = Field(2.0, gt=0, description="Temperature T of the softmax; larger: more even weights.")

    def build(self, tasks: Mapping[str, TaskSpec]) -> module.Dwa:
        from ssmtl_balancers import module

        return module.Dwa(tasks, self.window, self.temperature)


class Rlw(BalancerSpec):
    """Random loss weighting: new random weights for every update (Lin et al., 2021)."""

    name: ClassVar[str] = "rlw"

    def build(self, tasks: Mapping[str, TaskSpec]) -> module.Rlw:
        from ssmtl_balancers import module

        return module.Rlw(tasks)


class Famo(BalancerSpec):
    """Fast adaptive multitask optimisation: all losses decrease at the same relative rate (Liu et al., 2023)."""

    name: ClassVar[str] = "famo"
    weighs: ClassVar[bool] = False

    lr: float = Field(0.025, gt=0, description="Learning rate of the task logits (Adam).")
    decay: float = Field(0.001, ge=0, description="Weight decay γ of the task logits.")

    def build(self, tasks: Mapping[str, TaskSpec]) -> famo.Famo:
        from ssmtl_balancers import famo

        return famo.Famo(tasks, self.lr, self.decay)


class _GradientSpec(BalancerSpec):
    """Options shared by the balancers that compare gradients."""

    at: Literal["features", "backbone"] = Field(
        "backbone",
        description="Where to compare gradients: at the backbone's weights or, cheaper, at the last shared features.",
    )

    def model_post_init(self, context: Any, /) -> None:
        if find_spec("torchjd") is None:
            raise UsageError(
                f"balancer {self.name!r} needs TorchJD, which is not installed: pip install 'ssmtl-toolkit[balancing]'"
            )


class PcGrad(_GradientSpec):
    """Remove from each gradient the part that conflicts with another task's (Yu et al., 2020); uses TorchJD."""

    name: ClassVar[str] = "pcgrad"

    def build(self, tasks: Mapping[str, TaskSpec]) -> gradients.PcGrad:
        from ssmtl_balancers import gradients

        return gradients.PcGrad(tasks, self.at)


class UpGrad(_GradientSpec):
    """The sum of the gradients, each projected so that no loss increases (Quinton and Rey, 2024); uses TorchJD."""

    name: ClassVar[str] = "upgrad"

    def build(self, tasks: Mapping[str, TaskSpec]) -> gradients.UpGrad:
        from ssmtl_balancers import gradients

        return gradients.UpGrad(tasks, self.at)


class Mgda(_GradientSpec):
    """The shortest convex combination of the gradients (Sener and Koltun, 2018); uses TorchJD."""

    name: ClassVar[str] = "mgda"

    at: Literal["features", "backbone"] = Field(
        "features",
        description="Where to compare gradients: at the last shared features (MGDA-UB) or at the backbone's weights.",
    )

    def build(self, tasks: Mapping[str, TaskSpec]) -> gradients.Mgda:
        from ssmtl_balancers import gradients

        return gradients.Mgda(tasks, self.at)


@hookimpl
def ssmtl_balancers() -> list[type[BalancerSpec]]:
    return [Fixed, Uncertainty, Dwa, Rlw, Famo, PcGrad, UpGrad, Mgda]

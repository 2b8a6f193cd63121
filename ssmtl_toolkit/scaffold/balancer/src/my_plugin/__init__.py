"""A balancer for ssmtl-toolkit: the geometric mean of the losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import BalancerSpec, TaskSpec

if TYPE_CHECKING:
    from my_plugin.module import GeometricMean


class MyPlugin(BalancerSpec):
    """The log of the geometric mean of the losses (Chennupati et al., 2019): small losses count as much."""

    # What users type: --balancer my_plugin
    name: ClassVar[str] = "my_plugin"

    # Each field is an option.
    least: float = Field(1e-3, gt=0, description="Added to each loss, so that one near zero does not take over.")

    def build(self, tasks: Mapping[str, TaskSpec]) -> GeometricMean:
        # Imported here, not at the top: torch takes seconds to import, and `ssmtl --help` does not need it.
        from my_plugin.module import GeometricMean

        exponents = {label: task.given_weight for label, task in tasks.items()}
        floors = {label: task.floor for label, task in tasks.items()}
        return GeometricMean(exponents, floors, self.least)


@hookimpl
def ssmtl_balancers() -> list[type[BalancerSpec]]:
    return [MyPlugin]

"""Bundled balancers: how the losses of several tasks become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import BalancerSpec, TaskSpec

if TYPE_CHECKING:
    from ssmtl_balancers.module import Fixed as FixedModule


class Fixed(BalancerSpec):
    """The weighted sum of the losses, each with its task's own weight (paper, eq. 1 and 3)."""

    name: ClassVar[str] = "fixed"

    def build(self, tasks: Mapping[str, TaskSpec]) -> FixedModule:
        from ssmtl_balancers.module import Fixed as FixedModule

        return FixedModule({label: task.weight for label, task in tasks.items()})


@hookimpl
def ssmtl_balancers() -> list[type[BalancerSpec]]:
    return [Fixed]

"""Bundled balancers: how the losses of several tasks become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import BalancerSpec

if TYPE_CHECKING:
    from ssmtl_balancers.module import Fixed as FixedModule


class Fixed(BalancerSpec):
    """The weighted sum of the losses, each with its task's own weight (paper, eq. 1 and 3)."""

    name: ClassVar[str] = "fixed"

    def build(self, weights: Mapping[str, float]) -> FixedModule:
        from ssmtl_balancers.module import Fixed as FixedModule

        return FixedModule(weights)


@hookimpl
def ssmtl_balancers() -> list[type[BalancerSpec]]:
    return [Fixed]

"""Drop slices at the ends of a scan."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import PreparationSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.data.preparation import Stage
    from ssmtl_toolkit.data.volume import Stack


class Trim(PreparationSpec):
    """Drop slices at both ends of a scan."""

    name: ClassVar[str] = "trim"

    share: float = Field(0.1, ge=0, lt=0.5, description="Share of the slices to drop at either end.")

    def prepare(self, stack: Stack, size: int) -> Stage:
        from ssmtl_toolkit.data.lattice import Lattice, Line
        from ssmtl_toolkit.data.preparation import Stage

        number, height, width = stack.grid
        dropped = int(self.share * number)
        kept = Line.of(number).cropped(dropped, number - dropped)
        return Stage.of_places(stack, Lattice(kept, Line.of(height), Line.of(width)))


@hookimpl
def ssmtl_preparations() -> list[type[PreparationSpec]]:
    return [Trim]

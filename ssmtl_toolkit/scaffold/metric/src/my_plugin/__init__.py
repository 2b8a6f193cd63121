"""A metric for ssmtl-toolkit: how far the predicted volume of a class is from the true one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import MetricSpec, Output

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.metric import Comparison


class MyPlugin(MetricSpec):
    """The difference of predicted and true volume, whichever is larger, in ml."""

    # What users type: --metric my_plugin:tolerance=0.5
    name: ClassVar[str] = "my_plugin"
    title: ClassVar[str] = "volume error"  # in tables, with the unit behind it
    unit: ClassVar[str] = "ml"
    digits: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = False
    output: ClassVar[Output] = "labels"  # so it scores each class of a label map; "image": each slice of an image

    # Each field is an option.
    tolerance: float = Field(0.0, ge=0, description="Errors up to this count as none, ml.")

    def score(self, comparison: Comparison) -> float | None:
        # Imported here, not at the top: `ssmtl --help` should not wait for NumPy.
        from my_plugin.volumes import volume_error

        return volume_error(comparison, self.tolerance)

    def remark(self) -> str:
        # Printed below tables, so that nobody takes the values for others.
        return f"errors up to {self.tolerance:g} ml count as none" if self.tolerance else ""


@hookimpl
def ssmtl_metrics() -> list[type[MetricSpec]]:
    return [MyPlugin]

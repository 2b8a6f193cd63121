"""An augmentation for ssmtl-toolkit: a smooth field of brightness, as the coils of an MR scanner leave one."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import AugmentationSpec, Change

if TYPE_CHECKING:
    from my_plugin.values import SmoothField


class MyPlugin(AugmentationSpec):
    """Make parts of a slice brighter than others, smoothly, as a coil that is near does (a bias field)."""

    # What users type: --augment my_plugin:by=1.5
    name: ClassVar[str] = "my_plugin"

    # place: where pixels come from (labels follow); values; batch: parts of other slices, with their labels.
    changes: ClassVar[frozenset[Change]] = frozenset({"values"})

    # Each field is an option; `p`, the probability that a slice is changed, is one of every augmentation.
    by: float = Field(1.5, gt=1, le=10, description="Largest factor at a corner, up or down.")

    def build(self) -> SmoothField:
        # Imported here, not at the top: torch takes seconds to import, and `ssmtl --help` does not need it.
        from my_plugin.values import SmoothField

        return SmoothField(self.by)


@hookimpl
def ssmtl_augmentations() -> list[type[AugmentationSpec]]:
    return [MyPlugin]

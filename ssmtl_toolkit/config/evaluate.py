"""Options of `ssmtl evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ssmtl_toolkit.config.base import Config
from ssmtl_toolkit.config.scoring import Scoring
from ssmtl_toolkit.data.slicing import EmptyFrames


class EvaluateConfig(Config, Scoring):
    """Options of `ssmtl evaluate`."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Labels": ("classes", "ignore_value", "ignore_affine", "empty_frames", "volume"),
        "Metrics": ("metrics", "surface", "tolerance"),
    }

    classes: str | None = Field(
        None, description="What the values mean: LV=500,RV=600,LA=420+421.  [default: see above]"
    )
    ignore_value: int | None = Field(None, description="Label value that means 'not annotated'.")
    ignore_affine: bool = Field(False, description="Compare voxel by voxel although the affines differ.")
    empty_frames: EmptyFrames = Field(
        "ignore", description="Take frames of 4-D labels without any label as: ignore (not annotated), background."
    )
    volume: int | None = Field(
        None, ge=0, description="Volume of 4-D labels that predictions are of.  [default: as predicted]"
    )

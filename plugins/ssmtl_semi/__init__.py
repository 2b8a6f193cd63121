"""Bundled ways to learn from unlabelled slices beside labelled ones: consistency of views, and the pretext tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import Output, SemiSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.semi import Semi


class MeanTeacher(SemiSpec):
    """Agree on a changed slice with what the averaged weights say of the slice itself (Tarvainen and Valpola, 2017)."""

    name: ClassVar[str] = "mean_teacher"

    ramp: float = Field(0.5, ge=0, le=1, description="Share of the time with unlabelled slices in which weight rises.")

    def build(self) -> Semi:
        from ssmtl_semi.consistency import MeanTeacher as Module

        return Module(self.weight, self.ramp)


class UniMatch(SemiSpec):
    """Learn from the averaged weights' labels where they are sure, by views with CutMix and dropped features.

    UniMatch (Yang et al., 2023), with the averaged weights as the teacher.
    """

    name: ClassVar[str] = "unimatch"

    threshold: float = Field(0.95, ge=0, lt=1, description="Least probability of a pixel's label to be learned from.")
    cutmix: float = Field(0.5, ge=0, le=1, description="Largest share of a view that a box of another slice takes.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Share of the encoder's channels dropped in the third view.")

    def build(self) -> Semi:
        from ssmtl_semi.consistency import UniMatch as Module

        return Module(self.weight, self.threshold, self.cutmix, self.dropout)


class Pretext(SemiSpec):
    """Continue with pretext tasks beside the labels, so that what they taught is not forgotten."""

    name: ClassVar[str] = "pretext"
    outputs: ClassVar[frozenset[Output]] = frozenset({"labels", "image"})
    teaches: ClassVar[bool] = False

    weight: float = Field(0.1, gt=0, description="Weight of the pretext tasks' losses, on top of their own.")
    start: float = Field(0.0, ge=0, lt=1, description="Share of the steps after which unlabelled slices are used.")
    tasks: tuple[str, ...] = Field(
        ("reconstruct_prev", "reconstruct_next"), min_length=1, description="The tasks, as for ssmtl run --task."
    )

    def pretext(self) -> Sequence[str]:
        return self.tasks

    def build(self) -> Semi:
        from ssmtl_semi.pretext import Pretext as Module

        return Module(self.weight)


@hookimpl
def ssmtl_semi() -> list[type[SemiSpec]]:
    return [MeanTeacher, UniMatch, Pretext]

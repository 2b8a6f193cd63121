"""Options of `ssmtl predict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ssmtl_toolkit.config.base import Config, Machine, Role

Existing = Literal["error", "skip", "overwrite"]


class PredictConfig(Config, Machine):
    """Options of `ssmtl predict`; options with the role NUMBERS change what is written for a scan."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Data": ("volume",),
        "Network": ("head",),
        "Machine": ("batch_size", "precision", "accelerator"),
        "Output": ("probabilities", "overlay", "largest_component", "existing"),
    }

    head: Annotated[str | None, Role.RECORD] = Field(
        None, description="Refuse a model with another head, e.g. denoising."
    )
    volume: int | None = Field(None, ge=0, description="Volume to take from 4-D files.  [default: as trained]")
    batch_size: Annotated[int, Role.MACHINE] = Field(16, ge=1, description="Slices per batch: bounds the memory.")
    probabilities: Annotated[bool, Role.RECORD] = Field(
        False, description="Also write NAME_probabilities.nii.gz, background first."
    )
    overlay: Annotated[bool, Role.RECORD] = Field(False, description="Also write NAME.png: labels over the slices.")
    largest_component: bool = Field(False, description="Keep only the largest connected part of each class.")
    existing: Annotated[Existing, Role.RECORD] = Field(
        "error", description="What to do with existing predictions; skip: keep those that this model wrote completely."
    )

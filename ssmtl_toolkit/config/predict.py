"""Options of `ssmtl predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ssmtl_toolkit.config.base import Alone, Config, Machine, Role
from ssmtl_toolkit.data.slicing import WhichVolume
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.text import did_you_mean, printable

Existing = Literal["error", "skip", "overwrite"]


class PredictConfig(Config, Machine):
    """Options of `ssmtl predict`; options with the role NUMBERS change what is written for a scan."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Data": ("volume",),
        "Network": ("head", "tta"),
        "Machine": ("batch_size", "precision", "accelerator"),
        "Output": ("smooth", "largest_component", "probabilities", "overlay", "existing"),
    }

    head: Annotated[str | None, Role.RECORD] = Field(
        None, description="Refuse a model with another head, e.g. denoising."
    )
    tta: Literal["none", "flips"] = Field(
        "none", description="flips: also predict mirrored slices and average; only for models trained with flips."
    )
    volume: WhichVolume = Field(
        None, description="Volume to take of 4-D files; all: each is a channel.  [default: as trained]"
    )
    batch_size: Annotated[int, Role.MACHINE] = Field(
        16, ge=1, le=65536, description="Slices per batch: bounds the memory."
    )
    probabilities: Annotated[bool, Role.RECORD] = Field(
        False, description="Also write NAME_probabilities.nii.gz, background first (none if classes overlap)."
    )
    overlay: Annotated[bool, Role.RECORD] = Field(False, description="Also write NAME.png: labels over the slices.")
    smooth: float = Field(
        0.0, ge=0, description="Smooth the probabilities along the slices: sigma of a Gaussian in mm; 0: off."
    )
    largest_component: Annotated[str, Alone("all")] = Field(
        "none",
        description="Keep only the largest connected part of these classes: all (as without a value), LV,RV, or auto: "
        "those for which the validation scans of the fine-tuning say so.",
    )
    existing: Annotated[Existing, Role.RECORD] = Field(
        "error", description="What to do with existing predictions; skip: keep those that this model wrote completely."
    )

    @field_validator("largest_component", mode="before")
    @classmethod
    def _all_or_none(cls, value: Any) -> Any:
        """Read true and false, which this option took before classes could be chosen."""
        return {True: "all", False: "none"}[value] if isinstance(value, bool) else value

    def largest(self, known: Sequence[str], advised: Sequence[str] | None = None) -> list[str]:
        """The classes of which only the largest part is kept, of those that the model knows.

        `advised` are those for which validation scans say so, None without these.

        Raises:
            UsageError: naming what is not a class.
        """
        text = self.largest_component
        if text in (special := {"all": known, "none": (), "auto": advised or ()}):
            return list(special[text])
        names = [text] if text in known else [name.strip() for name in text.split(",") if name.strip()]
        for name in names or [text]:
            if name not in known:
                hint = did_you_mean(name, [*special, *known])
                raise UsageError(
                    f"--largest-component: no class {printable(name)!r}{hint} (known: {', '.join(known)}, and all, "
                    f"none or auto); before a scan write --largest-component=all"
                )
        return names

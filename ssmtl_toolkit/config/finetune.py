"""Options of `ssmtl finetune`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny, field_validator

from ssmtl_toolkit.config.base import Config, Machine, Role, absolute, with_absolute_paths
from ssmtl_toolkit.config.scoring import Scoring
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, DatasetSpec, HeadSpec, MetricSpec, check_needs


class FinetuneConfig(Config, Slicing, Machine, Scoring):
    """Options of `ssmtl finetune`. Specs are given as text or as objects.

    Slices are cut as in the pre-training, except for what is set here.
    """

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Data": ("data", "classes", "ignore_value", "ignore_affine", "axis", "size", "volume", "window", "skip_bad"),
        "Patients and slices": (
            *("patient", "split", "train_scans", "slices_per_scan", "slices", "validation_scans", "test_scans"),
        ),
        "Network": ("source", "backbone", "head", "freeze", "min_transfer"),
        "Training": (
            *("steps", "batch_size", "lr", "encoder_lr", "decoder_lr", "weight_decay", "clip", "patience"),
            *("check_every", "seed", "seeds", "baseline"),
        ),
        "Machine": ("precision", "accelerator"),
        "Output": ("metrics", "surface", "tolerance", "log_every"),
    }

    data: Annotated[SerializeAsAny[DatasetSpec] | str, Role.PLACE] = Field(
        "phantom", description="Labelled scans: a folder, a manifest (.csv, .toml), or a dataset by name."
    )
    source: Annotated[Path | None, Role.PLACE] = Field(
        None, description="Pre-training run folder or backbone file; omit to train from scratch."
    )
    backbone: SerializeAsAny[BackboneSpec] | str | None = Field(
        None, description="Network; default: the pre-trained one, or unet from scratch."
    )
    head: SerializeAsAny[HeadSpec] | str = Field("segmentation", description="Downstream task, e.g. denoising.")

    classes: str | None = Field(
        None, description="Label classes by name, e.g. LV=500,LA=420+421, or known ones: LV,RV.  [default: all]"
    )
    ignore_value: int | None = Field(None, description="Label value that means 'not annotated'.")
    ignore_affine: bool = Field(
        False, description="Accept labels whose affine differs from the image's (match voxel by voxel)."
    )
    patient: str | None = Field(
        None, description="Regex on scan names; its first group is the patient, e.g. '(.+)_E[DS]'."
    )
    split: Annotated[Path | None, Role.PLACE] = Field(
        None, description="Take patients (and slices) from this file (from ssmtl data split)."
    )
    train_scans: int | None = Field(
        None, ge=1, description="Number of labelled scans to draw for training.  [default: all]"
    )
    slices_per_scan: int | None = Field(None, ge=1, description="Number of slices to draw from each.  [default: all]")
    slices: Literal["foreground", "any"] = Field(
        "foreground", description="Draw from slices that show a class, or from all annotated ones."
    )
    validation_scans: int = Field(
        0, ge=0, description="Labelled scans held out for early stopping; 0: always train --steps."
    )
    test_scans: int | None = Field(None, ge=1, description="Labelled scans held out for the test.  [default: a fifth]")

    steps: int = Field(500, ge=1, description="Optimizer steps; the maximum when stopping early.")
    patience: int = Field(5, ge=1, description="Stop after this many validation checks without improvement.")
    check_every: int = Field(50, ge=1, description="Steps between validation checks.")
    batch_size: int = Field(16, ge=1, description="Slices per batch.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of Adam, constant.")
    encoder_lr: float | None = Field(None, gt=0, description="Learning rate of the encoder.  [default: --lr]")
    decoder_lr: float | None = Field(None, gt=0, description="Learning rate of the decoder.  [default: --lr]")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of Adam (L2).")
    clip: float | None = Field(None, gt=0, description="Clip the norm of the gradient to this.")
    freeze: Literal["none", "encoder", "backbone"] = Field("none", description="Which part to freeze.")
    min_transfer: float | None = Field(
        None, ge=0, le=1, description="Minimum share of the backbone's parameters to load.  [default: the encoder]"
    )
    baseline: Annotated[Literal["none", "scratch"], Role.REPETITIONS] = Field(
        "none", description="scratch: also train the twin without pre-training."
    )
    seed: int = Field(0, ge=0, lt=2**62, description="Seed of everything random; repetitions count up from it.")
    seeds: Annotated[int, Role.REPETITIONS] = Field(
        1, ge=1, description="Repetitions, each with other weights, scans and slices."
    )

    skip_bad: Annotated[bool, Role.EXTENT] = Field(
        False, description="Continue without scans or labels that cannot be used."
    )
    log_every: Annotated[int, Role.RECORD] = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")

    @field_validator("source", "split")
    @classmethod
    def _absolute_path(cls, path: Path | None) -> Path | None:
        return absolute(path)

    @classmethod
    def default_text(cls, name: str) -> str:
        """The default of an option as `--help` shows it."""
        return "as pre-trained" if name in Slicing.model_fields else super().default_text(name)

    def resolve(self) -> ResolvedFinetune:
        """Turn texts into specs and check what can be checked without torch; `backbone` may stay None.

        Raises:
            UsageError: an unknown name, a wrong option, options that contradict each other.
        """
        plugins = registry()
        head = plugins.resolve(HeadSpec, self.head)
        specs = {
            "data": with_absolute_paths(plugins.dataset(self.data)),
            "head": head,
            "metrics": self.named_metrics(head.output),
            "backbone": None if self.backbone is None else plugins.resolve(BackboneSpec, self.backbone),
        }
        resolved = ResolvedFinetune.model_construct({*self.model_fields_set, *specs}, **{**dict(self), **specs})
        resolved.check()
        return resolved


class ResolvedFinetune(FinetuneConfig):
    """A configuration whose specs are objects that go together; `resolve` returns it."""

    data: Annotated[SerializeAsAny[DatasetSpec], Role.PLACE]
    head: SerializeAsAny[HeadSpec]
    metrics: Annotated[tuple[SerializeAsAny[MetricSpec], ...], Role.EXTENT]
    backbone: SerializeAsAny[BackboneSpec] | None  # None: that of the pre-training, whose file says which

    def resolve(self) -> ResolvedFinetune:
        """Return this."""
        return self

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            UsageError: naming them.
        """
        if self.backbone:
            check_needs(self.backbone, [self.head])
        self._check_source()
        for option in ("test_scans", "validation_scans"):
            if self.split is not None and getattr(self, option):
                flag = option.replace("_", "-")
                raise UsageError(f"--{flag}: already set by {self.split}; omit --split or --{flag}")
        if self.patient is not None:
            check_pattern(self.patient)
        if self.head.output == "image" and self.classes is not None:
            raise UsageError(f"head {self.head.name!r} uses no labels; omit --classes")

    def _check_source(self) -> None:
        if self.source is None and self.baseline == "scratch":
            raise UsageError("--baseline scratch needs a pre-training to compare with; give one with --from")
        if self.source is None and self.freeze != "none":
            raise UsageError(f"--freeze {self.freeze}: without --from there are no pre-trained weights to keep")
        for part, frozen in (("encoder", {"encoder", "backbone"}), ("decoder", {"backbone"})):
            if self.freeze in frozen and getattr(self, f"{part}_lr") is not None:
                raise UsageError(f"--{part}-lr: the {part} does not learn under --freeze {self.freeze}; omit one")


def check_pattern(pattern: str) -> re.Pattern[str]:
    """Compile the regex that finds the patient in a scan's name.

    Raises:
        UsageError: it is not a valid regex.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--patient {pattern!r} is not a regular expression: {error}") from None

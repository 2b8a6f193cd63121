"""Options of commands that compare ways of pre-training by what few labels make of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, SerializeAsAny, field_validator

from ssmtl_toolkit.config.base import Config, Machine, absolute, resolved_preparations, with_absolute_paths
from ssmtl_toolkit.config.finetune import check_pattern
from ssmtl_toolkit.config.recipes import DEFAULT
from ssmtl_toolkit.config.scoring import Scoring
from ssmtl_toolkit.config.tracking import Tracking
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import BackboneSpec, DatasetSpec
from ssmtl_toolkit.text import counted

Unit = Literal["patients", "slices"]

_BUDGET = re.compile(r"([1-9][0-9]{0,6})\s*(?:(patient|slice)s?)?")


@dataclass(frozen=True)
class Budget:
    """How much is labelled: whole patients, or single slices, each of another patient as far as possible.

    >>> str(Budget.read("4")), str(Budget.read("10slices")), Budget.read("1 slice").words
    ('4', '10slices', '1 slice')
    """

    number: int
    unit: Unit = "patients"

    @classmethod
    def read(cls, text: Any) -> Budget:
        """Read `4` or `10slices`.

        Raises:
            ValueError: it is neither.
        """
        if isinstance(text, Budget):
            return text
        match = None if isinstance(text, bool) else _BUDGET.fullmatch(str(text).strip())
        if match is None:
            raise ValueError("should be a number of patients, such as 4, or of slices, such as 10slices")
        return cls(int(match[1]), "slices" if match[2] == "slice" else "patients")

    def __str__(self) -> str:
        return f"{self.number}{'' if self.unit == 'patients' else self.unit}"

    @property
    def words(self) -> str:
        """The same for a person."""
        return counted(self.number, self.unit[:-1])


class FewLabels(Config, Slicing, Machine, Scoring, Tracking):
    """What these commands have in common: draws, patients, data, and options of all trainings."""

    draws: int = Field(5, ge=1, description="How often labelled patients are drawn; 4 or more give intervals.")
    pretrainings: int = Field(3, ge=1, description="Pre-trainings of each method, by other seeds, for every draw.")
    backbone: SerializeAsAny[BackboneSpec] | str = Field("unet", description="Network.")
    recipe: str = Field(DEFAULT, description="How all of them are fine-tuned: strong, paper, or a .toml file.")

    patient: str | None = Field(
        None, description="Regex on scan names; its first group is the patient, e.g. '(.+)_E[DS]'."
    )
    split: Path | None = Field(None, description="Take patients from this file (from ssmtl data split).")
    test_scans: int | None = Field(None, ge=1, description="Labelled scans held out for the test.  [default: a fifth]")
    seed: int = Field(0, ge=0, lt=2**62, description="Seed of the split, the draws and the pre-trainings.")

    unlabelled: SerializeAsAny[DatasetSpec] | str | None = Field(
        None, description="More scans to pre-train on; those of validation and test patients are left out."
    )
    classes: str | None = Field(
        None, description="Label classes by name, e.g. LV=500,LA=420+421, or known ones: LV,RV.  [default: all]"
    )
    ignore_value: int | None = Field(None, description="Label value that means 'not annotated'.")
    ignore_affine: bool = Field(
        False, description="Accept labels whose affine differs from the image's (match voxel by voxel)."
    )
    skip_bad: bool = Field(False, description="Continue without scans or labels that cannot be used.")

    pretrain: dict[str, Any] = Field({}, description="Options of ssmtl run for all methods.")
    finetune: dict[str, Any] = Field({}, description="Options of ssmtl finetune for all methods.")

    report: bool = Field(True, description="Write report.html beside the tables.")

    @field_validator("split")
    @classmethod
    def _absolute_path(cls, path: Path | None) -> Path | None:
        return absolute(path)

    @classmethod
    def default_text(cls, name: str) -> str:
        """The default of an option as `--help` shows it; slices are cut as the data set suggests."""
        return "as the data set suggests, or 256" if name == "size" else super().default_text(name)

    def resolve(self) -> Self:
        """Turn texts into specs and check what can be checked without the data.

        Raises:
            UsageError: an unknown name, a wrong option, options that contradict each other.
        """
        plugins = registry()
        if self.patient is not None:
            check_pattern(self.patient)
        more = None if self.unlabelled is None else with_absolute_paths(dataset_of(self.unlabelled))
        specs = {
            "backbone": plugins.resolve(BackboneSpec, self.backbone),
            "prepare": resolved_preparations(self.prepare),
            "unlabelled": more,
            "track": self.trackers(),
        }
        return self.model_copy(update=specs)

    def write(self) -> str:
        """Return the TOML text that reads back to this configuration."""
        tables = {name: options for name in ("pretrain", "finetune") if (options := getattr(self, name))}
        return super().write() + (f"\n{tomli_w.dumps(tables)}" if tables else "")

    def given(self, names: Sequence[str]) -> dict[str, Any]:
        """Those of these options that were given."""
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}

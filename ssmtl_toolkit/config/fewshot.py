"""Options of `ssmtl fewshot`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, SerializeAsAny, field_validator

from ssmtl_toolkit.config.few_labels import Budget, FewLabels
from ssmtl_toolkit.distance import Distance
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import SemiSpec


class FewshotConfig(FewLabels):
    """Options of `ssmtl fewshot`. Specs are given as text or as objects."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Comparison": (*("methods", "budgets", "draws", "pretrainings", "t", "backbone", "semi", "recipe"),),
        "Patients": ("patient", "split", "test_scans", "validation_scans", "score", "seed"),
        "Data": (
            *("unlabelled", "classes", "ignore_value", "ignore_affine", "axis", "prepare", "size", "volume"),
            *("window", "normalise", "skip_bad"),
        ),
        "Machine": ("precision", "accelerator"),
        "Output": ("metrics", "surface", "tolerance", "report", "track"),
    }

    methods: tuple[str, ...] = Field(
        ("ssmtl", "ssmtl_contrast"),
        description="Method by name, or a .toml file with tables [methods.NAME]; repeatable; each is compared with its "
        "twin from scratch. See --list.",
    )
    budgets: tuple[Annotated[Budget, BeforeValidator(Budget.read), PlainSerializer(str, return_type=str)], ...] = Field(
        (), description="Labelled patients, e.g. 4, or slices, e.g. 10slices; repeatable.  [default: 1, 2, 4, …]"
    )
    t: Distance = Field("5mm", description="Distance t of ±t and slice pairs, in slices or mm.")
    semi: SerializeAsAny[SemiSpec] | str | None = Field(
        None, description="Add to every method its twin that learns from unlabelled scans too, e.g. unimatch."
    )
    validation_scans: int = Field(0, ge=0, description="Labelled scans to choose options by, with --score validation.")
    score: Literal["test", "validation"] = Field("test", description="Whose scans are scored.")

    @field_validator("semi", mode="before")
    @classmethod
    def _no_semi(cls, value: Any) -> Any:
        return None if value == "none" else value

    def resolve(self) -> Self:
        """Turn texts into specs and check what can be checked without the data.

        Raises:
            UsageError: an unknown name, a wrong option, options that contradict each other.
        """
        twice = [str(budget) for budget in self.budgets if self.budgets.count(budget) > 1]
        if twice:
            raise UsageError(f"--budget {twice[0]}: is given twice; give it once")
        if self.score == "validation" and not (self.validation_scans or self.split):
            raise UsageError("--score validation: there are none; give --validation-scans")
        semi = None if self.semi is None else registry().resolve(SemiSpec, self.semi)
        return super().resolve().model_copy(update={"semi": semi})

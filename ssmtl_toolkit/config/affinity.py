"""Options of `ssmtl affinity`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, PlainSerializer, SerializeAsAny, field_serializer, field_validator

from ssmtl_toolkit.config.few_labels import Budget, FewLabels
from ssmtl_toolkit.config.fewshot import FewshotConfig
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import Spec, TaskSpec


class AffinityConfig(FewLabels):
    """Options of `ssmtl affinity`. Specs are given as text or as objects."""

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Comparison": ("tasks", "steps", "budget", "draws", "pretrainings", "slices", "backbone", "recipe"),
        "Patients": ("patient", "split", "validation_scans", "test_scans", "seed"),
        "Data": FewshotConfig.sections["Data"],
        "Machine": FewshotConfig.sections["Machine"],
        "Output": FewshotConfig.sections["Output"],
    }

    tasks: tuple[SerializeAsAny[TaskSpec] | str, ...] = Field(
        (), description="Pretext task, e.g. reconstruct_prev:t=5mm; give two or more."
    )
    steps: int = Field(300, ge=1, description="Steps of each pre-training.")
    budget: Annotated[Budget, BeforeValidator(Budget.read), PlainSerializer(str, return_type=str)] = Field(
        Budget(2), description="Labelled patients to fine-tune on, e.g. 2, or slices, e.g. 10slices."
    )
    pretrainings: int = Field(2, ge=1, description="Pre-trainings of each mix, by other seeds, for every draw.")
    slices: int = Field(
        20, ge=2, description="Labelled slices of training patients that cheap scores see, and as many of others."
    )
    validation_scans: int | None = Field(
        None, ge=1, description="Labelled scans by which mixes are compared.  [default: a fifth]"
    )
    test_scans: int | None = Field(
        None, ge=1, description="Labelled scans set aside, for a test later.  [default: a fifth]"
    )

    @field_validator("tasks", mode="before")
    @classmethod
    def _specs_or_texts(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str | Spec) for item in value):
            raise ValueError("expected a list of tasks or their texts, such as 'reconstruct_prev:t=2'")
        return value

    @field_serializer("tasks")
    def _texts(self, tasks: tuple[TaskSpec | str, ...]) -> list[str]:
        return [task if isinstance(task, str) else task.full() for task in tasks]

    def resolve(self) -> Self:
        """Turn texts into specs and check what can be checked without the data.

        Raises:
            UsageError: fewer than two tasks, one that is given twice, an unknown name, a wrong option.
        """
        tasks = tuple(registry().resolve(TaskSpec, task) for task in self.tasks)
        if len(tasks) < 2:
            raise UsageError(
                f"{len(tasks) or 'no'} pretext task{' is' if tasks else 's are'} given; whether tasks go together is "
                f"asked of two or more: --task A --task B"
            )
        if twice := [str(task) for task in tasks if tasks.count(task) > 1]:
            raise UsageError(f"--task {twice[0]}: is given twice; give it once")
        return super().resolve().model_copy(update={"tasks": tasks})

    def mixes(self) -> dict[str, tuple[str, ...]]:
        """The tasks of each mix, by its name: each alone, each pair, and all; of a resolved configuration."""
        tasks = [str(task) for task in self.tasks]
        sizes = dict.fromkeys((1, 2, len(tasks)))
        return {" + ".join(mix): mix for size in sizes for mix in combinations(tasks, size)}

    def fewshot(self, validation_scans: int) -> FewshotConfig:
        """The options of the comparison that measures what each mix is worth, on validation patients."""
        shared = self.given([name for name in FewLabels.model_fields if name in FewshotConfig.model_fields])
        own = {"budgets": (self.budget,), "pretrainings": self.pretrainings, "score": "validation"}
        length = {} if "epochs" in self.pretrain else {"steps": self.steps}
        pretrain = {"pretrain": length | self.pretrain}
        return FewshotConfig.of({**shared, **own, **pretrain, "validation_scans": validation_scans}).resolve()

"""The option --track, which the commands that train have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, SerializeAsAny, field_serializer, field_validator

from ssmtl_toolkit.config.base import Role
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import Spec, TrackerSpec


class Tracking(BaseModel, defer_build=True):
    """Where runs are recorded beside their folders."""

    track: Annotated[tuple[SerializeAsAny[TrackerSpec] | str, ...], Role.RECORD] = Field(
        (), description="Record the run with tensorboard, wandb, mlflow, trackio or csv too; repeatable; none."
    )

    @field_validator("track", mode="before")
    @classmethod
    def _trackers(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str | Spec) else value
        if not isinstance(value, list | tuple):
            raise ValueError("expected a spec or a list of specs")
        return () if list(value) == ["none"] else value

    @field_serializer("track")
    def _tracker_texts(self, specs: tuple[TrackerSpec | str, ...]) -> list[str]:
        return [spec if isinstance(spec, str) else spec.full() for spec in specs]

    def trackers(self) -> tuple[TrackerSpec, ...]:
        """The trackers as specs.

        Raises:
            UsageError: an unknown name, a wrong option, one given twice.
        """
        specs = tuple(registry().resolve(TrackerSpec, given) for given in self.track)
        if twice := next((str(spec) for spec in specs if specs.count(spec) > 1), None):
            raise UsageError(f"--track {twice}: is given twice; give it once")
        return specs


def grouped(trackers: Sequence[TrackerSpec], group: str) -> tuple[TrackerSpec, ...]:
    """These trackers with a name for the runs that belong together, unless they have one."""
    return tuple(spec if spec.group else spec.model_copy(update={"group": group}) for spec in trackers)

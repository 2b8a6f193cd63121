"""A tracker for ssmtl-toolkit: a page of notes on each run, in words, for a lab book."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import TrackerSpec

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.tracker import TrackedRun, Tracker


class MyPlugin(TrackerSpec):
    """A page of notes on each run, my_plugin.md in its folder."""

    # What users type: --track my_plugin:digits=2
    name: ClassVar[str] = "my_plugin"

    # Each field is an option. Without options a tracker works without an account and without a network.
    digits: int = Field(3, ge=0, le=9, description="Decimal places of losses and scores.")

    def open(self, run: TrackedRun) -> Tracker:
        # Imported here, not at the top: `ssmtl --help` should not wait for the packages of a tracker. If one of them
        # is missing, or anything else fails, the user is warned and the run continues.
        from my_plugin.notes import Notes

        return Notes(run, self.digits)


@hookimpl
def ssmtl_trackers() -> list[type[TrackerSpec]]:
    return [MyPlugin]

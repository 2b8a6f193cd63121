"""What `predict` returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.store import Skipped
from ssmtl_toolkit.downstream.ensemble import Member
from ssmtl_toolkit.runtime.results import Rows, Shown


@dataclass(frozen=True, repr=False)
class Predicted(Shown):
    """The end of a prediction; `evaluate` takes it for its folder.

    Attributes:
        folder: where the predictions are, with prediction.json.
        model: the file of the model, or the folder of the fine-tuning whose models predict together.
        models: these, in order.
        digest: identifies the model, or all of them.
        head: the model's, as text.
        classes: what the values of the label maps mean; None: the predictions are images.
        written: the predictions of this call, without what goes beside them.
        failed: scans that could not be predicted, with the reasons.
        skipped: scans that were not to be predicted, with the reasons.
        slices: how many were predicted.
        seconds: of the whole call.
        seconds_of_network: of these, those from the voxels of a scan to its labels or image.
    """

    folder: Path
    model: Path
    models: tuple[Member, ...]
    digest: str
    head: str
    classes: Classes | None
    written: tuple[Path, ...]
    failed: tuple[Skipped, ...]
    skipped: tuple[Skipped, ...]
    slices: int
    seconds: float
    seconds_of_network: float

    def __fspath__(self) -> str:
        return str(self.folder)

    def shown(self) -> tuple[str, Rows]:
        counts = {"written": self.written, "failed": self.failed, "skipped": self.skipped}
        told = ", ".join(f"{len(items)} {word}" for word, items in counts.items() if items or word == "written")
        return f"Predicted in {self.folder}: {told}, by {self.model}", ()

    @property
    def summary(self) -> dict[str, Any]:
        """What `ssmtl predict --json` prints."""
        return {
            "model": str(self.model),
            "models": [member.to_json() for member in self.models],
            "head": self.head,
            "classes": self.classes and self.classes.to_json(),
            "digest": self.digest,
            "out": str(self.folder),
            "written": [str(file) for file in self.written],
            "failed": [item.to_json() for item in self.failed],
            "skipped": [item.to_json() for item in self.skipped],
            "slices": self.slices,
            "seconds": round(self.seconds, 3),
            "seconds_of_network": round(self.seconds_of_network, 3),
        }

"""What one call of `predict` works with: the models and the options, which go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config import PredictConfig, Role
from ssmtl_toolkit.downstream.contrasts import Input
from ssmtl_toolkit.downstream.ensemble import Ensemble
from ssmtl_toolkit.downstream.jobs import Wanted
from ssmtl_toolkit.downstream.model import Flip, ModelSpec
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.text import printable

_FOR_LABELS = ("probabilities", "overlay", "largest_component", "smooth")


@dataclass(frozen=True)
class Call:
    """Which models predict, and how."""

    ensemble: Ensemble
    model_spec: ModelSpec
    config: PredictConfig

    @classmethod
    def open(cls, source: Path, config: PredictConfig, progress: Progress, specs: Sequence[type[Spec]] = ()) -> Call:
        """Read the models, and refuse options that do not fit them; `specs` are known beside those of plugins."""
        ensemble = Ensemble.open(source, progress, specs)
        model_spec = ensemble.model_spec
        if config.volume is not None:
            slicing = model_spec.slicing.model_copy(update={"volume": config.volume})
            model_spec = replace(model_spec, slicing=slicing)
            slicing.check_frames()
        call = cls(ensemble, model_spec, config)
        _check(call)
        flips = f", also of mirrored slices ({', '.join(sorted(call.flips))})" if call.flips else ""
        progress.say(f"{ensemble.words}{flips}")
        if config.largest_component == "auto":
            progress.say(f"largest   {_advised(ensemble.largest)}")
        return call

    @property
    def wanted(self) -> Wanted:
        """What is written for each scan."""
        return Wanted(self.config.probabilities, self.config.overlay)

    @property
    def takes(self) -> Input:
        """What the models predict from."""
        spec = self.model_spec
        return Input(spec.channels, spec.contrasts, spec.slicing.in_time)

    @property
    def about(self) -> dict[str, Any]:
        """What prediction.json begins with."""
        return {
            "model": str(self.ensemble.source),
            "models": [member.to_json() for member in self.ensemble.members],
            "head": str(self.model_spec.head),
            "classes": self.model_spec.classes and self.model_spec.classes.to_json(),
        }

    @property
    def options(self) -> dict[str, Any]:
        """The options that change what is written for a scan."""
        return {**self.config.of_roles(Role.NUMBERS), "volume": self.model_spec.slicing.volume}

    @property
    def largest(self) -> list[str]:
        """The classes of which only the largest part is kept.

        Raises:
            UsageError: one is not a class of the models.
        """
        assert self.model_spec.classes is not None
        return self.config.largest(self.model_spec.classes.names, self.ensemble.largest)

    @property
    def flips(self) -> frozenset[Flip]:
        """Which way slices are also mirrored.

        Raises:
            UsageError: the models were not trained with that.
        """
        return self.ensemble.flips() if self.config.tta == "flips" else frozenset()


def _check(call: Call) -> None:
    config, model_spec = call.config, call.model_spec
    if config.head is not None and config.head.partition(":")[0] != model_spec.head.name:
        raise UsageError(
            f"{printable(call.ensemble.source)}: is a model for {model_spec.head.name!r}, not for {config.head!r}; "
            f"check --from"
        )
    if model_spec.classes is not None:
        config.largest(model_spec.classes.names)
        if config.smooth and model_spec.slicing.in_time:
            raise UsageError("--smooth: is in mm along the slices, and the model was trained with --axis time; omit it")
        return
    for name in _FOR_LABELS:
        if getattr(config, name) != PredictConfig.model_fields[name].default:
            raise UsageError(
                f"--{name.replace('_', '-')} is for labels, and head {model_spec.head.name!r} gives none; omit it"
            )


def _advised(classes: Sequence[str] | None) -> str:
    """Of which classes `--largest-component auto` keeps the largest part alone, in words."""
    if classes is None:
        return "parts: none, the models know nothing of validation scans (ssmtl finetune --validation-scans)"
    return f"parts: {printable(', '.join(classes)) or 'none'}, as the validation scans say"

"""Options that say what predictions are scored by, and the metrics that come of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import BaseModel, Field, SerializeAsAny, field_serializer, field_validator

from ssmtl_toolkit.config.base import Role
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import MetricSpec, Output, Spec

DEFAULTS: dict[Output, tuple[str, ...]] = {"labels": ("iou", "dice", "hd95", "surface_dice"), "image": ("psnr", "ssim")}
"""The metrics that are always computed, in the order of tables, the one to look at first coming first."""

_TAKEN = {"classes", "name", "noisy", "not_scored", "penalised", "slices", "tp", "fp", "fn", "verdict", "dice_pooled"}

_EXTRAS = {"monai": ("MONAI", "'ssmtl-toolkit[metrics]'")}  # what a package is called, and what installs it


class Scoring(BaseModel, defer_build=True):
    """What predictions are scored by: the default metrics, and those that are named."""

    surface: Annotated[bool | None, Role.EXTENT] = Field(
        None, description="Also score HD95 and surface Dice.  [default: if MONAI is installed]"
    )
    tolerance: Annotated[float, Role.EXTENT] = Field(1.0, ge=0, description="Tolerance of the surface Dice, mm.")
    metrics: Annotated[tuple[SerializeAsAny[MetricSpec] | str, ...], Role.EXTENT] = Field(
        (),
        description="Also score this, e.g. surface_dice:tolerance=2; repeatable.",
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _metrics_or_texts(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str | Spec) for item in value):
            raise ValueError("expected a list of metrics or their texts, such as 'surface_dice:tolerance=2'")
        return value

    @field_serializer("metrics")
    def _metric_texts(self, metrics: tuple[MetricSpec | str, ...]) -> list[str]:
        return [metric if isinstance(metric, str) else metric.full() for metric in metrics]

    def named_metrics(self, output: Output) -> tuple[MetricSpec, ...]:
        """The metrics that the user names, as specs.

        Raises:
            UsageError: an unknown name, one that is given twice, one that scores other predictions than `output`, or
                one whose packages are not installed.
        """
        metrics = tuple(self._within(registry().resolve(MetricSpec, metric)) for metric in self.metrics)
        names = [metric.name for metric in metrics]
        for metric in metrics:
            if names.count(metric.name) > 1:
                raise UsageError(f"metric {metric.name!r} is given twice; give it once")
            if metric.output != output:
                known = [spec.name for spec in registry().of(MetricSpec) if spec.output == output]
                raise UsageError(
                    f"metric {metric.name!r} scores {_SCORED[metric.output]}, not {_SCORED[output]}; "
                    f"choose among {', '.join(known)}"
                )
            if not is_free(metric.name):
                raise UsageError(f"metric {metric.name!r}: files of scores call something else so; rename it")
            if reason := missing_packages([metric]):
                raise UsageError(reason)
        return metrics

    def chosen_metrics(self, output: Output) -> tuple[MetricSpec, ...]:
        """All metrics to score by: the defaults (with `surface`, those that need MONAI too), and the named ones.

        A named metric replaces the default of its name.

        Raises:
            UsageError: as `named_metrics`; or `surface` without MONAI.
        """
        chosen = {spec.name: spec for spec in self._defaults(output)}
        return tuple((chosen | {spec.name: spec for spec in self.named_metrics(output)}).values())

    def _defaults(self, output: Output) -> list[MetricSpec]:
        specs = [self._within(registry().resolve(MetricSpec, name)) for name in DEFAULTS[output]]
        more = [spec for spec in specs if spec.packages]
        reason = missing_packages(more, " (--surface)")
        if reason and self.surface:
            raise UsageError(reason)
        with_more = not reason if self.surface is None else self.surface
        return [spec for spec in specs if with_more or not spec.packages]

    def _within(self, metric: MetricSpec) -> MetricSpec:
        """The same, with --tolerance if it is the surface Dice and was given none of its own."""
        if metric.name != "surface_dice" or "tolerance" in metric.model_fields_set:
            return metric
        return registry().resolve(MetricSpec, f"surface_dice:tolerance={self.tolerance!r}")

    def unused(self, metrics: Iterable[MetricSpec]) -> list[str]:
        """A line if --tolerance is given, but none of these metrics takes it."""
        if self.tolerance == type(self).model_fields["tolerance"].default:
            return []
        surface = next((metric for metric in metrics if metric.name == "surface_dice"), None)
        if surface is not None and getattr(surface, "tolerance", None) == self.tolerance:
            return []
        why = "no surface Dice is computed" if surface is None else f"--metric {surface} has its own"
        return [f"--tolerance {self.tolerance:g}: has no effect, {why}"]

    def omitted(self, output: Output) -> str:
        """Which default metrics are not computed for want of a package, and what installs it; "" if none."""
        specs = [registry().resolve(MetricSpec, name) for name in DEFAULTS[output]]
        lacking = [spec for spec in specs if _not_installed([spec])]
        if self.surface is not None or not lacking:
            return ""
        called, extra = _EXTRAS[_not_installed(lacking)[0]]
        return f"no {_titles(lacking)} without {called}: pip install {extra}"


_SCORED: dict[Output, str] = {"labels": "label maps", "image": "images"}


def is_free(name: str) -> bool:
    """Whether a metric may have this name: files of scores call nothing else so."""
    return name not in _TAKEN and not name.startswith("noisy_") and not name.endswith("_per_scan")


def missing_packages(metrics: Sequence[MetricSpec], option: str = "") -> str:
    """Why these metrics cannot be computed here, and what to install; "" if they can. `option`: what wants them."""
    lacking = _not_installed(metrics)
    if not lacking:
        return ""
    called, extra = _EXTRAS.get(lacking[0], (lacking[0], lacking[0]))
    verb = "need" if len(metrics) > 1 else "needs"
    return f"{_titles(metrics)}{option} {verb} {called}, which is not installed: pip install {extra}"


def _not_installed(metrics: Iterable[MetricSpec]) -> list[str]:
    packages = dict.fromkeys(package for metric in metrics for package in metric.packages)
    return [package for package in packages if find_spec(package) is None]


def _titles(metrics: Iterable[MetricSpec]) -> str:
    return " and ".join(metric.title or metric.name for metric in metrics)

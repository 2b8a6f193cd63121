"""The metrics that test scans are scored by: what each is called, its unit and digits, and which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssmtl_toolkit.specs import Output

_UNDEFINED = "-"


@dataclass(frozen=True)
class Metric:
    """A metric as files and tables know it, and how its values are printed.

    Attributes:
        key: its name in JSON, and as a column of CSV files.
        name: its name in tables.
        output: it scores the predictions of heads with this output.
        unit: of its values; empty for a ratio.
        digits: printed after the decimal point.
        higher_is_better: which way is better.
        pooled: a class's value is over all voxels of all test scans, not the mean of the scans' values.
        needs_monai: it is computed by MONAI only, if at all (`--surface`).
        mean_name: what its mean over the classes is called; by default as the metric.
    """

    key: str
    name: str
    output: Output = "labels"
    unit: str = ""
    digits: int = 3
    higher_is_better: bool = True
    pooled: bool = False
    needs_monai: bool = False
    mean_name: str = ""

    @property
    def heading(self) -> str:
        """The heading of its column: its name and unit."""
        return self._with_unit(self.name)

    @property
    def mean(self) -> str:
        """The name of its mean over the classes, as in the columns of an experiment and among published values."""
        return self.mean_name or self.name

    @property
    def mean_heading(self) -> str:
        """The heading of a column of such means."""
        return self._with_unit(self.mean)

    def _with_unit(self, name: str) -> str:
        return f"{name} ({self.unit})" if self.unit else name

    def number(self, value: float | None, sign: bool = False) -> str:
        """Print a value, with its sign if it is a difference; a dash if it is undefined."""
        return _UNDEFINED if value is None else f"{value:{'+' if sign else ''}.{self.digits}f}"

    def spread(self, values: Mapping[str, Any], sign: bool = False) -> str:
        """Print `mean ± sd` of what `statistics.spread` returns; the mean alone if it has no deviation."""
        deviation = "" if values["sd"] is None else f" ± {self.number(values['sd'])}"
        return self.number(values["mean"], sign) + deviation

    def difference(self, values: Mapping[str, Any]) -> str:
        """Print `mean ± sd` of what `statistics.paired` returns, the mean with its sign."""
        return self.spread(values, sign=True)

    def interval(self, ends: Sequence[float] | None) -> str:
        """Print the interval of a difference; a dash if there is none."""
        return _UNDEFINED if ends is None else " to ".join(self.number(end, sign=True) for end in ends)


_TABLE = (
    Metric("iou", "IoU", pooled=True, mean_name="mIoU"),
    Metric("dice", "Dice"),
    Metric("hd95", "HD95", unit="mm", digits=2, higher_is_better=False, needs_monai=True),
    Metric("surface_dice", "surface Dice", needs_monai=True),
    Metric("psnr", "PSNR", output="image", unit="dB", digits=2),
    Metric("ssim", "SSIM", output="image", needs_monai=True),
)

METRICS = {metric.key: metric for metric in _TABLE}
"""All metrics by their keys; of each output in the order of tables, the one to look at first coming first."""


def metrics_of(output: Output, surface: bool = True) -> tuple[Metric, ...]:
    """The metrics of heads of an output; those that need MONAI only with `surface`."""
    return tuple(m for m in _TABLE if m.output == output and (surface or not m.needs_monai))


def monai_metrics(output: Output) -> str:
    """Name the metrics of an output that need MONAI, for help texts and messages."""
    return " and ".join(m.name for m in metrics_of(output) if m.needs_monai)


def lower_is_better(metrics: Iterable[Metric]) -> list[str]:
    """The line below a table of these metrics that says of which a lower value is better; none if of none."""
    names = [m.name for m in metrics if not m.higher_is_better]
    return [f"{', '.join(names)}: lower is better."] if names else []

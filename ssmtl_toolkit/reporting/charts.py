"""Charts by matplotlib as SVG whose colours follow the page, light or dark, and whose text is text."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ssmtl_toolkit.reporting.parts import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Mapping[float, float] | Mapping[int, float]
Shape = Literal["line", "dashed", "dotted", "points", "both"]

_INK, _SOFT, _LINE = "#fe01fd", "#fe02fd", "#fe03fd"  # stand for the page's colours until the SVG is written
_COLOURS = tuple(f"#fd0{i}fe" for i in range(7))
_NAMES = {_INK: "ink", _SOFT: "soft", _LINE: "line"} | {colour: f"c{i}" for i, colour in enumerate(_COLOURS)}
_SHAPES: Mapping[Shape, dict[str, Any]] = {
    "line": {"ls": "-"},
    "dashed": {"ls": "--", "lw": 1.2},
    "dotted": {"ls": ":", "lw": 1.6},
    "points": {"ls": "", "marker": "o", "ms": 4},
    "both": {"ls": "-", "marker": "o", "ms": 4},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ssmtl",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": _INK,
    "text.parse_math": False,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
}


def colour(number: int) -> str:
    """The colour of series `number`; the last, gray, is for what is compared with."""
    return _COLOURS[number % (len(_COLOURS) - 1)]


GRAY = _COLOURS[-1]


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        points: y by x.
        colour: of `colour`, or `GRAY`.
        band: how far a band around it reaches on each side, by x.
    """

    name: str
    points: Points
    colour: str
    shape: Shape = "line"
    band: Points | None = None


def curves(title: str, series: Sequence[Series], x: str, y: str, alt: str, *, log: bool = False) -> Chart:
    """Draw curves over a common axis; those without points are skipped."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for one in series:
            if not one.points:
                continue
            xs, ys = list(one.points), list(one.points.values())
            axes.plot(xs, ys, color=one.colour, label=one.name, **_SHAPES[one.shape])
            if one.band:
                low, high = ([one.points[at] + side * one.band[at] for at in xs] for side in (-1, 1))  # type: ignore[index]
                axes.fill_between(xs, low, high, color=one.colour, alpha=0.18, lw=0)
        axes.set(xlabel=x, ylabel=y)
        if log:
            axes.set_yscale("log")
        _legend(axes)

    return chart(title, draw, alt)


def _legend(axes: Axes) -> None:
    """Names below the chart, where they cover nothing."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        columns = 2 if max(map(len, names)) > 18 else 3
        axes.figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), columns))


def chart(title: str, draw: Callable[[Figure], None], alt: str, size: tuple[float, float] = (5.8, 3.4)) -> Chart:
    """Draw into a figure of so many inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Chart(title, themed(stream.getvalue()), alt)


def themed(svg: str) -> str:
    """An SVG of matplotlib's for a page: its colours by name, without what only files need."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", svg)
    svg = svg.replace("xlink:href", "href")
    for placeholder, name in _NAMES.items():
        svg = svg.replace(placeholder, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", svg).replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


def with_own_ids(svg: str, own: str) -> str:
    """The drawing with `own` before each of its ids, so that a page can hold several."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}", svg)

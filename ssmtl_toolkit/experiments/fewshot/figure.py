"""The figure as a file of its own."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ssmtl_toolkit.reporting.bands import draw_bands, units


def figure(summary: Mapping[str, Any]) -> str:
    """Score against labels, as `draw_bands` draws it. Returns SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(1 + 4.5 * len(units(summary)), 3.6), layout="constrained")
    draw_bands(drawn, summary)
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "ssmtl", "svg.fonttype": "none"}):
        drawn.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()

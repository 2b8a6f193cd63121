"""How alike slices are that lie t apart, on real scans, and which t the rule of `t=auto` takes there.

python benchmarks/distances.py ../shared/data/msd_hippocampus ../shared/data/sunnybrook_lv …
"""

from __future__ import annotations

import sys
from pathlib import Path

from ssmtl_toolkit import data_info

SHOWN = (1, 2, 3, 4, 5, 8, 10)


def main(folders: list[str]) -> None:
    """Print a Markdown table with a row for each data set."""
    print("| set | slices, mm | " + " | ".join(f"t = {t}" for t in SHOWN) + " | t=auto, because |")
    print("|" + "---|" * (len(SHOWN) + 3))
    for folder in folders:
        info = data_info(folder, deep=True, timed=False)
        cells = []
        for t in SHOWN:
            correlation, errors, share = info.stacks.correlation(t), info.stacks.errors(t), info.stacks.share(t)
            if correlation is None or errors is None:
                cells.append("-")
            else:
                cells.append(f"{correlation:.2f}, {100 * share:.0f} %, {errors.copy:.2f}")
        counts = sorted(one.grid[0] for one in info.usable)
        spacing = info.stacks.spacing
        size = f"{counts[0]} to {counts[-1]}, {spacing:.3g}"
        chosen = info.proposals and info.proposals.t
        reason = f"**{chosen.t}**: {chosen.why}" if chosen else "-"
        print(f"| {Path(folder).name} | {size} | " + " | ".join(cells) + f" | {reason} |")


if __name__ == "__main__":
    main(sys.argv[1:])

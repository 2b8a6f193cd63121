"""How long a step takes with each pretext task, alone and beside ±t, against ±t.

python benchmarks/tasks.py [--rounds N] [--json] [--only WORD] [--quick]
"""

from __future__ import annotations

from collections.abc import Iterator

from balancers import step
from timing import Group, Ratio, Way, main

PAIR = ("reconstruct_prev", "reconstruct_next")
COVERED = ("reconstruct_prev:mask=0.75", "reconstruct_next:mask=0.75")
NEW = (
    *("inpaint", "denoise", "restore"),
    *("contrast", "dense_contrast", "vicreg", "slice_position", "slice_fusion", "locate"),
)
CASES = {
    "±t": PAIR,
    "±t, mask=0.75": COVERED,
    **{task: (task,) for task in NEW},
    **{f"±t + {task}": (*PAIR, task) for task in NEW},
    "±t, mask=0.75 + inpaint": (*COVERED, "inpaint"),
}


def rows(quick: bool) -> Iterator[Group]:
    names = list(CASES)[: 2 if quick else None]
    ways = {name: Way(step, ("fixed", CASES[name], 32 if quick else 64)) for name in names}
    yield Group("tasks", ways, [Ratio(name, "±t") for name in names[1:]], rounds=9)


if __name__ == "__main__":
    main(__doc__, rows)

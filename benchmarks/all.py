"""All that is claimed about speed, in one table: every program in turn, each in a process of its own.

python benchmarks/all.py [--rounds N] [--json] [--only WORD] [--quick]
python benchmarks/all.py --docs                       # and put the table into docs/speed.md
python benchmarks/all.py --docs step.json store.json  # what programs have printed with --json; other rows stay
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timing
from timing import Row, as_json, headed, machine, parser

PROGRAMS = (
    *("start", "step", "finetune_step", "predict", "data_path", "store", "scoring", "scaling"),
    *("layout", "recomputing", "gradients", "allocator", "augmentation", "open_store"),
)
DOCS = Path(__file__).parents[1] / "docs" / "speed.md"


def measured(program: str, options: list[str]) -> dict[str, Any]:
    """What a program prints; of one that fails, a row that says so."""
    command = [sys.executable, Path(__file__).parent / f"{program}.py", "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        failed = Row(program, "", "", f"{program}.py", figure=f"failed with code {done.returncode}")
        return json.loads(as_json(machine(), [], [failed]))
    return json.loads(done.stdout)


def together(parts: Iterable[dict[str, Any]]) -> tuple[str, list[float], list[Row]]:
    """Machine, load and rows of several programs."""
    parts = list(parts)
    machines = ", ".join(dict.fromkeys(part["machine"] for part in parts))
    return (
        machines,
        [load for part in parts for load in part["load"]],
        [Row(**r) for part in parts for r in part["rows"]],
    )


def among(text: str, machine: str, load: list[float], rows: list[Row]) -> str:
    """A table of a document, in which these rows replace those on the same, or follow those of their program."""
    head, *lines = (line for line in text.splitlines() if line)
    before, _, busy = head.rstrip(".").partition(", load ")
    machines = ", ".join(dict.fromkeys((before, machine)))
    cells = [line[2:-2].split(" | ") for line in lines[2:]]
    for row in (row.cells() for row in rows):
        same = [i for i, old in enumerate(cells) if old[:2] == row[:2]]
        behind = [i + 1 for i, old in enumerate(cells) if old[-1] == row[-1]] or [len(cells)]
        cells[same[0] if same else behind[-1] : same[0] + 1 if same else behind[-1]] = [row]
    return f"{timing.head(machines, [*map(float, busy.split(' to ')), *load])}\n\n{timing.table(cells)}"


def main() -> None:
    """Print one table of all programs."""
    options = parser(__doc__)
    options.add_argument("--docs", nargs="*", type=Path, metavar="JSON", help="Into docs/speed.md.")
    given = options.parse_args()
    if given.docs:
        found = together(json.loads(file.read_text()) for file in given.docs)
    else:
        passed = ["--only", given.only, *(["--rounds", str(given.rounds)] if given.rounds else [])]
        found = together(measured(program, passed + ["--quick"] * given.quick) for program in PROGRAMS)
    if given.docs is not None:
        from levers_table import fill, filled

        fill("all.py", among(filled("all.py", DOCS), *found) if given.docs else headed(*found), DOCS)
    print((as_json if given.json else headed)(*found))


if __name__ == "__main__":
    main()

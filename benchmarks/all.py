"""All that is claimed about speed, in one table: every program in turn, each in a process of its own.

python benchmarks/all.py [--rounds N] [--json] [--only WORD] [--quick]
python benchmarks/all.py --docs                       # and put the table into docs/speed.md
python benchmarks/all.py --docs step.json store.json  # of what programs have printed with --json, in this order
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from timing import Row, as_json, headed, machine, parser

PROGRAMS = (
    *("start", "step", "finetune_step", "predict", "data_path", "store", "scoring", "scaling"),
    *("layout", "recomputing", "allocator", "augmentation", "open_store"),
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


def main() -> None:
    """Print one table of all programs."""
    options = parser(__doc__)
    options.add_argument("--docs", nargs="*", type=Path, metavar="JSON", help="Write the table into docs/speed.md.")
    given = options.parse_args()
    if given.docs:
        found = together(json.loads(file.read_text()) for file in given.docs)
    else:
        passed = ["--only", given.only, *(["--rounds", str(given.rounds)] if given.rounds else [])]
        found = together(measured(program, passed + ["--quick"] * given.quick) for program in PROGRAMS)
    if given.docs is not None:
        from levers_table import fill

        fill("all.py", headed(*found), DOCS)
    print((as_json if given.json else headed)(*found))


if __name__ == "__main__":
    main()

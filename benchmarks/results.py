"""Fill the tables of docs/results.md: the experiments in benchmarks/results/, on real data.

    python benchmarks/results.py ../shared/data runs/results

Finished rows are not repeated, so it can be stopped and restarted at any time; several processes share the work. The
choice of settings comes first; the chosen values are in the files of the test tables.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import ssmtl_toolkit as ssmtl
from ssmtl_toolkit.cli.console import RichProgress, stderr
from ssmtl_toolkit.experiments.table import markdown

HERE = Path(__file__).parent
DATA = {"hippocampus": "msd_hippocampus", "sunnybrook": "sunnybrook_lv"}
START, END = "<!-- made by benchmarks/results.py: {name} -->", "<!-- end -->"


def write_docs(name: str, text: str) -> None:
    """Put a table between its marks in docs/results.md."""
    file = HERE.parent / "docs" / "results.md"
    before, mark, rest = file.read_text(encoding="utf-8").partition(START.format(name=name))
    if not mark:
        raise SystemExit(f"{file}: has no line {START.format(name=name)!r}")
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{file}: has no line {END!r} after that of {name!r}")
    file.write_text(f"{before}{mark}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def tables(text: str) -> str:
    """Keep the tables alone, without title, data and remarks."""
    return "\n\n".join(part for part in text.split("\n\n") if part.startswith("|")).strip()


def main() -> None:
    """Run what is missing, and write the tables into docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    started = time.perf_counter()
    for name in (*(f"{part}_choice" for part in DATA), *DATA, "hippocampus_balancers"):
        data = f'folder:"{given.data / DATA[name.partition("_")[0]]}"'
        done = ssmtl.experiment(
            HERE / "results" / f"{name}.toml", data=data, out=given.out, progress=RichProgress(stderr())
        )
        write_docs(name, tables(markdown(done.summary)))
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()

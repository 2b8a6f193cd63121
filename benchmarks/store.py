"""Preparing scans for the first time, and opening many that are in the cache.

python benchmarks/store.py [--rounds N] [--json] [--only WORD] [--quick]
"""

from __future__ import annotations

import functools
import itertools
import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
from made_up import write_scans
from timing import Act, Figure, Group, Ratio, Way, main, scratch_folder, timed

from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.store import build_store
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans, open_store
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import Scan

Shape = tuple[int, int, int]
MANY = 5000
NIBABEL = "nibabel's get_fdata, file by file"


@functools.cache
def written(number: int, shape: Shape) -> list[Scan]:
    """Scans for all ways."""
    return write_scans(Path(tempfile.mkdtemp()), number, shape)


def build(number: int, shape: Shape, size: int) -> Act:
    """Build a store in a cache of its own each time; they are removed at the end, which is not timed."""
    scans, readers = written(number, shape), installed_readers()
    folder, caches = scratch_folder(), itertools.count()
    return lambda: build_store(scans, readers, Slicing(size=size), folder / str(next(caches)))


def read(number: int, shape: Shape) -> Act:
    scans = written(number, shape)

    def all_files() -> None:
        for scan in scans:
            nib.load(scan.path).get_fdata()  # type: ignore[no-untyped-call]

    return all_files


def second_start(rounds: int, number: int = MANY) -> str:
    """Seconds to list and open the scans of a folder that are in the cache."""
    folder = Path(tempfile.mkdtemp())
    write_scans(folder / "scans", number, (24, 24, 12))
    dataset, cache, progress = dataset_of(f"folder:{folder / 'scans'}"), folder / "cache", Progress()

    def start() -> None:
        open_store(list_scans(dataset, cache), Slicing(size=32), cache, progress, skip_bad=False)

    first = timed(start)
    again = [timed(start) for _ in range(rounds)]
    wall, cpu = (statistics.median(getattr(one, kind) for one in again) for kind in ("wall", "cpu"))
    shutil.rmtree(folder)
    return f"{wall:.2f} s, CPU {cpu:.2f} s (median of {rounds}; the first start took {first.wall:.1f} s)"


def rows(quick: bool) -> Iterator[Group | Figure]:
    cases: dict[str, tuple[int, Shape, tuple[int, ...], str]] = {
        "60 of 35 x 51 x 35": (60, (35, 51, 35), (64,), "≤ 1.0"),
        "8 of 256 x 256 x 200": (8, (256, 256, 200), (256, 128), "≤ 0.6"),
    }
    for name, (number, shape, sizes, target) in cases.items():
        if quick and number < 60:
            continue
        made = (2 if quick else number, shape)
        for size in sizes:
            ways = {"ours": Way(build, (*made, size)), NIBABEL: Way(read, made)}
            ratios = [Ratio("ours", NIBABEL, target)]
            yield Group(f"first start over .nii.gz, {name}, {size} px", ways, ratios, rounds=5)
    if not quick:
        yield Figure(f"second start over {MANY:,} files", second_start, "≤ 0.5 s")


if __name__ == "__main__":
    main(__doc__, rows)

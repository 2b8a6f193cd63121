"""Whether labels of the slices that `ssmtl data suggest` names are worth more than those of slices drawn at random.

    python benchmarks/suggest.py run ../shared/data runs/suggest      # hours on 2 cores; can be stopped and resumed
    python benchmarks/suggest.py table                                # prints what is done

Of the training patients' slices, none of them blank, so many are chosen, labelled (the labels are there) and learned
from by the strong recipe, after a pre-training on the same patients; all ways of choosing start from the same weights.
"spread" allows of a patient no more slices than are needed. Validation patients are scored; test patients are in none
of it. Nothing in the choice was tuned by these figures. Shares its machinery with levers.py.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from levers import SETS, Job, Work, done, options, run
from levers_table import Scores, difference, markdown, spread

from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.downstream.suggest import blank_slices, suggest
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import list_scans, open_store
from ssmtl_toolkit.sources import dataset_of

RESULTS = Path(__file__).parent / "results" / "suggest.jsonl"
PRETEXT = "±t + contrast"
DRAWS = 10
NUMBERS = (5, 10, 20)  # slices
WAYS = ("random", "suggested", "random, spread", "suggested, spread")


def jobs() -> Iterator[Job]:
    """All trainings: every way of choosing before the next draw, which is also the seed of the pre-training."""
    for draw in range(DRAWS):
        for data in ("hippocampus", "chaos"):
            for number in NUMBERS:
                for way in WAYS:
                    yield Job(data, f"{number} slices", way, PRETEXT, draw, draw)


@dataclass
class Choosing(Work):
    """Chooses the slices of a draw in one of `WAYS`."""

    def drawn(self, job: Job) -> Path:
        """A split with the chosen slices."""
        whole = self.split(job.data)
        number, most = int(job.budget.split()[0]), None
        if "spread" in job.recipe:
            most = -(-number // len(whole.train))
        file = self.out / "chosen" / f"{job.folder}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.is_file():
                choose = self.suggested if "suggested" in job.recipe else self.at_random
                slices: dict[str, list[int]] = {}
                for scan, row in choose(job, number, most):
                    slices.setdefault(scan, []).append(row)
                chosen = {scan: tuple(sorted(rows)) for scan, rows in slices.items()}
                split = Split(whole.train, (), whole.validation, whole.pattern, (chosen,))
                file.write_text(json.dumps(split.to_json()))
        return file

    def images(self, job: Job) -> str:
        """The scans, without their labels."""
        return f"folder:{self.root / SETS[job.data].folder / 'images'}"

    def suggested(self, job: Job, number: int, most: int | None) -> list[tuple[str, int]]:
        """As the command suggests."""
        chosen = suggest(
            self.pretrained(job.data, PRETEXT, job.draw),
            dataset_of(self.images(job)),
            number,
            cache=self.cache,
            per_patient=most,
            without=self.written(f"suggest-{job.folder}", self.split(job.data)),
            seed=job.draw,
        )
        return [(one.scan.name, one.row) for one in chosen]

    def at_random(self, job: Job, number: int, most: int | None) -> list[tuple[str, int]]:
        """Slices of training patients in random order, without more of a patient than allowed."""
        every = list_scans(dataset_of(self.images(job)), self.cache)
        train = set(self.split(job.data).train)
        scans = [scan for scan in every if scan.patient in train]
        store = open_store(scans, Slicing(**SETS[job.data].cut), self.cache, Progress(), skip_bad=False)
        blank = blank_slices(store)
        places = [(one.scan.name, row) for one in store.scans for row in range(one.count) if not blank[one.start + row]]
        taken: Counter[str] = Counter()
        chosen: list[tuple[str, int]] = []
        for i in np.random.default_rng([job.draw, 1]).permutation(len(places)):
            scan, row = places[i]
            if len(chosen) < number and (most is None or taken[scan] < most):
                chosen.append((scan, row))
                taken[scan] += 1
        return chosen


def table() -> str:
    """A line for each set and number of slices: the scores, and what the choice adds to chance, draw by draw."""
    scores, rows = Scores(done(RESULTS)), []
    for data in ("hippocampus", "chaos"):
        for number in NUMBERS:
            of = {way: scores.of("iou", data=data, budget=f"{number} slices", recipe=way) for way in WAYS}
            gains = [difference(of["suggested"], of["random"]), difference(of[WAYS[3]], of[WAYS[2]])]
            rows.append([data, str(number), *(spread(of[way]) for way in WAYS), *gains])
    return markdown(["set", "slices", *WAYS, "suggested - random", "the same, spread"], rows)


def main() -> None:
    """Run what is missing, or print the table."""
    given = options(__doc__).parse_args()
    if given.command == "run":
        work = Choosing(given.data, given.out.absolute(), RESULTS, recipes={way: {"surface": False} for way in WAYS})
        run(work, jobs(), given.only, time.time() + 60 * given.minutes)
    else:
        print(table())


if __name__ == "__main__":
    main()

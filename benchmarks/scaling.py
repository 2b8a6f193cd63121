"""What a run costs with a hundred times as many scans, in two processes, while it saves, and where it waits for a GPU.

python benchmarks/scaling.py [--rounds N] [--json] [--only WORD] [--quick]
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from made_up import random_store, trainer
from timing import Act, Figure, Group, Ratio, Way, main, timed
from torch.overrides import TorchFunctionMode

from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.pretraining.trainer import Trainer

FCN = "fcn:encoder=resnet18"
NETWORK, PAIR, SIZE, SLICES = "unet:encoder=resnet18", ("reconstruct_prev", "reconstruct_next"), 64, 60
READS = ("item", "tolist", "cpu", "numpy", "nonzero", "equal", "__bool__", "__float__", "__int__", "__index__")


def mapped(scans: int) -> SliceStore:
    """A store in a file that is empty and mapped, as large ones are."""
    small = random_store(scans=scans, slices=SLICES, size=1)
    number = scans * SLICES * SIZE * SIZE
    file = Path(tempfile.mkdtemp()) / "slices"
    with file.open("wb") as written:
        written.truncate(2 * number)
    slices = torch.from_file(str(file), shared=False, size=number, dtype=torch.float16)
    return replace(small, slices=slices.reshape(-1, 1, SIZE, SIZE))


def training(scans: int) -> Trainer:
    return trainer(NETWORK, PAIR, SIZE, 16, mapped(scans))


def step(scans: int) -> Act:
    return training(scans)._update


def _memory(scans: int, steps: int, answer: Any) -> None:
    made = training(scans)
    for _ in range(steps):
        made._update()
    lines = Path("/proc/self/status").read_text().splitlines()
    answer.put(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")))


def memory(rounds: int) -> str:
    """Memory that is not of files, after ten steps with 20 and with 2,000 scans."""
    context, found = multiprocessing.get_context("spawn"), {}
    for scans in (20, 2000):
        answer = context.Queue()
        process = context.Process(target=_memory, args=(scans, 10, answer))
        process.start()
        found[scans] = answer.get()
        process.join()
    return f"{found[2000] / found[20]:.2f} ({found[20]:.0f} and {found[2000]:.0f} MB, 1)"


def two_processes(rounds: int) -> str:
    """Images a second of two processes with a thread each, of twice those of one."""
    folder = Path(tempfile.mkdtemp())

    def speed(devices: int, i: int) -> float:
        usual = ["--data", "phantom:patients=4", "--backbone", NETWORK, "--size", SIZE, "--cache", folder / "cache"]
        tasks = [word for task in PAIR for word in ("--task", task)]
        more = ["--steps", "13", "--devices", devices, "--accelerator", "cpu", "--out", folder / f"{devices}-{i}"]
        command = [sys.executable, "-m", "ssmtl_toolkit", "run", *usual, *tasks, *more]
        subprocess.run([str(word) for word in command], capture_output=True, check=True)
        images: float = json.loads((folder / f"{devices}-{i}" / "summary.json").read_text())["images_per_second"]
        return images

    speed(1, -1)
    ratios = [speed(2, i) / (2 * speed(1, i)) for i in range(rounds)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {rounds})"


def save(rounds: int) -> str:
    """Seconds that the training waits for a save: checkpoint and backbone of 14 M parameters."""
    made = trainer(NETWORK, PAIR, SIZE, 4)
    made._update()
    number = sum(parameter.numel() for parameter in made.model.parameters()) / 1e6

    def once() -> None:
        made.step += 1
        made._save()

    timed(once)
    times = [timed(once) for _ in range(rounds)]
    wall, cpu = (statistics.median(getattr(one, kind) for one in times) for kind in ("wall", "cpu"))
    return f"{wall:.3f} s, CPU {cpu:.3f} s ({number:.1f} M parameters, median of {rounds})"


class Waits(TorchFunctionMode):
    """Counts calls that read a value, for which the host waits on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        masked = name == "__getitem__" and isinstance(args[1], torch.Tensor) and args[1].dtype == torch.bool
        if name in READS or masked:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def waits(rounds: int) -> str:
    """Reads of a value a step, each of which waits on a GPU; checks that only a CPU makes are not counted."""
    told, kinds = [], {"±t + slice_siam": (NETWORK, (*PAIR, "slice_siam")), "moco_v2": (FCN, ("moco_v2",))}
    for name, (backbone, tasks) in kinds.items():
        made = trainer(backbone, tasks, 32, 4)
        made.update.health.check = lambda *_: None  # type: ignore[method-assign]  # it reads later on a GPU
        made._update()
        with Waits() as counted:
            made._update()
        of = ", ".join(f"{number} {call}" for call, number in counted.counts.items())
        told.append(f"{name} {counted.counts.total()}" + (f" ({of})" if of else ""))
    return "; ".join(told)


def rows(quick: bool) -> Iterator[Group | Figure]:
    if quick:
        yield Figure("save, 14 M parameters", save, "≤ 0.05 s")
        return
    yield Figure("save, 14 M parameters", save, "≤ 0.05 s")
    yield Figure("waits of the host in a step: values read (copies are not counted)", waits, "0")
    ways = {"2,000 scans": Way(step, (2000,), apart=True), "20 scans": Way(step, (20,), apart=True)}
    yield Group("step with 2,000 scans, 64 px", ways, [Ratio("2,000 scans", "20 scans", "≤ 1.05")], times=2)
    yield Figure("memory with 2,000 scans against 20", memory, "≤ 1.15", rounds=1)
    yield Figure("2 processes of a thread each, against twice one", two_processes, "≥ 0.95", rounds=3)


if __name__ == "__main__":
    main(__doc__, rows)

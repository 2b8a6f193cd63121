"""What a run costs with a hundred times as many scans, from a cold disk, in two processes, while it saves, and waits.

python benchmarks/scaling.py [--rounds N] [--json] [--only WORD] [--quick]
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_up import held, random_store, trainer, write_scans
from timing import Act, Figure, Group, Ratio, Way, answered, main, timed
from torch.overrides import TorchFunctionMode

from ssmtl_toolkit.data.sampling import Plan, Sampler
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.store import SliceStore, build_store
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.pretraining.trainer import Trainer
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of

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


def anonymous(scans: int, steps: int) -> float:
    """MB that are not of files, after so many steps."""
    made = training(scans)
    for _ in range(steps):
        made._update()
    return held("RssAnon")


def memory(rounds: int) -> str:
    """Memory that is not of files, after ten steps with 20 and with 2,000 scans, each in a process of its own."""
    few, many = (answered(anonymous, scans, 10) for scans in (20, 2000))
    return f"{many / few:.2f} ({few:.0f} and {many:.0f} MB, 1)"


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
    """Seconds that the training waits for a save of 14 M parameters, and the CPU's with what a thread writes behind."""
    made = trainer(NETWORK, PAIR, SIZE, 4)
    made._update()
    number = sum(parameter.numel() for parameter in made.model.parameters()) / 1e6

    def once() -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.thread_time()
        made._save()
        return time.perf_counter() - wall, time.thread_time() - cpu

    times, all_of_it = [], []
    for _ in range(1 + rounds):
        made._update()
        process = time.process_time()
        times.append(once())
        made.saver.settle(wait=True)
        all_of_it.append(time.process_time() - process)
    wall, cpu = (statistics.median(kind) for kind in zip(*times[1:], strict=True))
    whole = statistics.median(all_of_it[1:])
    return (
        f"{wall:.3f} s, CPU {cpu:.3f} s; with what is written behind CPU {whole:.3f} s ({number:.1f} M parameters, "
        f"median of {rounds})"
    )


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


def _drop(files: Iterable[Path]) -> None:
    """Let the system forget what it holds of these files."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _rows(sampler: Sampler, index: int) -> torch.Tensor:
    draw = sampler.draw(index)
    return torch.from_numpy(np.concatenate([draw.anchors, *(rows for rows, _ in draw.companions)]))


def _milliseconds(load: Callable[[int], Any], first: int, rest: float) -> tuple[float, float]:
    """What each of eight batches takes of the calling thread, wall and CPU, as medians; it rests in between."""
    walls, cpus = [], []
    for i in range(first, first + 8):
        time.sleep(rest)
        wall, cpu = time.perf_counter(), time.thread_time()
        load(i)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.thread_time() - cpu)
    return 1000 * statistics.median(walls[1:]), 1000 * statistics.median(cpus[1:])


def cold(rounds: int) -> str:
    """What the training thread waits for a batch of 16 slices of 256 px with ±5, from files that are not in memory."""
    folder, found = Path(tempfile.mkdtemp()), dict[str, list[tuple[float, float]]]()
    scans = write_scans(folder / "scans", 24, (64, 64, 50), ".nii")
    store = build_store(scans, installed_readers(), Slicing(size=256), folder / "cache", placement="disk")
    files, one = list((folder / "cache" / "slices").glob("*/*.safetensors")), folder / "one file"
    store.slices[:].numpy().tofile(one)
    sampler = Sampler(Plan(store.extents, [{"a": {"before": (-5,), "behind": (5,)}}] * len(scans)), 16, 0)
    for i in range(rounds):
        load = Loader(store, sampler, torch.device("cpu"))
        _drop([*files, one])
        whole = torch.from_file(str(one), shared=False, size=math.prod(store.slices.shape), dtype=torch.float16)
        mapped = whole.view(store.slices.shape)
        ways: dict[str, tuple[Callable[[int], Any], float]] = {
            "one file, mapped": (lambda i, mapped=mapped: mapped.index_select(0, _rows(sampler, i)), 0.0),
            "read": (load._draw, 0.0),
            "read ahead, in steps of 50 ms": (load._drawn, 0.05),
        }
        for name, (act, rest) in ways.items():
            _drop(files)
            found.setdefault(name, []).append(_milliseconds(act, 8 * i, rest))
    shutil.rmtree(folder)
    medians = {name: [statistics.median(kind) for kind in zip(*of, strict=True)] for name, of in found.items()}
    return ", ".join(f"{name} {wall:.1f} ms, CPU {cpu:.1f} ms" for name, (wall, cpu) in medians.items())


def starts(rounds: int) -> str:
    """CPU seconds of a first and a second start (listing, preparing, opening), with more and more scans."""
    told = []
    for number in (20, 200, 2000):
        folder = Path(tempfile.mkdtemp())
        write_scans(folder / "scans", number, (24, 24, 12))

        def start(folder: Path = folder) -> None:
            scans = list_scans(dataset_of(str(folder / "scans")), folder / "cache")
            build_store(scans, installed_readers(), Slicing(size=32), folder / "cache", placement="disk")

        first, second, *more = (timed(start).cpu for _ in range(1 + rounds))
        told.append(f"{number} scans {first:.2f} and {statistics.median([second, *more]):.2f} s")
        shutil.rmtree(folder)
    return "; ".join(told)


def rows(quick: bool) -> Iterator[Group | Figure]:
    if quick:
        yield Figure("save, 14 M parameters", save, "≤ 0.05 s")
        return
    yield Figure("save, 14 M parameters", save, "≤ 0.05 s")
    yield Figure("waits of the host in a step: values read (transfers: tests/project/test_counts.py)", waits, "0")
    yield Figure("cold disk: what a step waits for its slices", cold, rounds=3)
    yield Figure("CPU of a first and of a second start, beside imports", starts, rounds=3)
    ways = {"2,000 scans": Way(step, (2000,), apart=True), "20 scans": Way(step, (20,), apart=True)}
    yield Group("step with 2,000 scans, 64 px", ways, [Ratio("2,000 scans", "20 scans", "≤ 1.05")], times=2)
    yield Figure("memory with 2,000 scans against 20", memory, "≤ 1.15", rounds=1)
    yield Figure("2 processes of a thread each, against twice one", two_processes, "≥ 0.95", rounds=3)


if __name__ == "__main__":
    main(__doc__, rows)

"""How long commands take to start, against bare scripts that import the same and do the same.

    python benchmarks/start.py [--rounds N] [--json] [--only WORD] [--quick]

Each is a process of its own, and finds all modules compiled, as they are once installed. "To the end of the first step"
is until its first line of metrics.jsonl is there, of a run that is given its memory layout: a trial of layouts is worth
many steps, and no part of a start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from timing import Act, Group, Ratio, Way, main, scratch_folder

SSMTL = (sys.executable, "-m", "ssmtl_toolkit")
NAMES = """
import click, pluggy
from pydantic import BaseModel, Field
from rich.console import Console
from rich.table import Table
"""
STEP = """
import pathlib, sys
import lightning_fabric, nibabel, numpy, segmentation_models_pytorch as smp, torch
torch.manual_seed(0)
unet = smp.Unet("resnet34", encoder_weights=None, in_channels=1).train()
optimizer = torch.optim.Adam(unet.parameters(), lr=1e-3, fused=True)
anchor, prev = torch.randn(2, 16, 1, 64, 64).unbind()
loss = torch.nn.functional.mse_loss(unet(anchor), prev)
loss.backward()
optimizer.step()
pathlib.Path(sys.argv[1]).write_text(f"{float(loss)}\\n")
"""
SCORES = """
import sys
import click, nibabel, numpy as np, pluggy, scipy.ndimage
from pydantic import BaseModel, Field
from rich.console import Console
from rich.table import Table
truth, predicted = (np.asarray(nibabel.load(file).dataobj).astype(np.int64).ravel() for file in sys.argv[1:])
table = np.bincount(5 * truth + predicted, minlength=25).reshape(5, 5)
print(2 * table.diagonal() / (table.sum(0) + table.sum(1)))
"""


COMPILED = {**os.environ, "PYTHONPYCACHEPREFIX": str(scratch_folder())}  # by the turn before the first round
COMPILED.pop("PYTHONDONTWRITEBYTECODE", None)


def process(*command: str) -> Act:
    return lambda: subprocess.run(command, capture_output=True, check=True, env=COMPILED)


def until(mark: Path, command: tuple[str, ...]) -> Act:
    """Run a command until a file holds something; then it is killed, as the rest of it is not measured."""

    def wait() -> None:
        mark.unlink(missing_ok=True)
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=COMPILED)
        while not (mark.is_file() and mark.stat().st_size):
            if running.poll() is not None:
                raise SystemExit(f"{command}: ended before {mark} was there: {running.communicate()[1].decode()}")
            time.sleep(0.002)
        running.kill()
        running.communicate()

    return wait


def first_step() -> Act:
    folder = scratch_folder()
    usual = ["run", "--data", "phantom:patients=4", "--size", "64", "--backbone", "unet:encoder=resnet34"]
    usual += ["--task", "reconstruct_prev", "--cache", str(folder / "cache"), "--accelerator", "cpu"]
    usual += ["--channels-last", "off"]
    subprocess.run([*SSMTL, *usual, "--steps", "1", "--out", str(folder / "filled")], capture_output=True, check=True)
    runs = iter(range(10**6))

    def one() -> None:
        out = folder / f"run-{next(runs)}"
        until(out / "metrics.jsonl", (*SSMTL, *usual, "--steps", "1000", "--out", str(out)))()

    return one


def bare_step() -> Act:
    mark = scratch_folder() / "loss"
    return until(mark, (sys.executable, "-c", STEP, str(mark)))


def evaluation(ours: bool) -> Act:
    folder = scratch_folder()
    for i, name in enumerate(("label.nii.gz", "pred.nii.gz")):
        labels = np.random.default_rng(i).integers(0, 5, (32, 32, 8)).astype(np.uint8)
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / name)  # type: ignore[no-untyped-call]
    label, pred = str(folder / "label.nii.gz"), str(folder / "pred.nii.gz")
    if ours:
        return process(*SSMTL, "evaluate", "--pred", pred, "--label", label, "--no-surface")
    return process(sys.executable, "-c", SCORES, label, pred)


def rows(quick: bool) -> Iterator[Group]:
    imports = "importing the names of click, pluggy, rich, pydantic"
    names = Way(process, (sys.executable, "-c", NAMES))
    ways = {"ssmtl --help": Way(process, (*SSMTL, "--help")), imports: names}
    ratios = [Ratio("ssmtl --help", imports, "≤ 0.5")]
    if not quick:
        ways["ssmtl plugins list"] = Way(process, (*SSMTL, "plugins", "list"))
        ratios.append(Ratio("ssmtl plugins list", imports, "≤ 1.0"))
    yield Group("command", ways, ratios, rounds=15)
    if not quick:
        script = "a script that reads both and counts"
        ways = {"ours": Way(evaluation, (True,)), script: Way(evaluation, (False,))}
        yield Group("ssmtl evaluate, one small pair", ways, [Ratio("ours", script, "≤ 1.3")], rounds=9)
        script = "a script that imports the same and does one"
        ways = {"ours": Way(first_step), script: Way(bare_step)}
        title = "from the start of the process to the end of the first step, resnet34 U-Net, 64 px"
        yield Group(title, ways, [Ratio("ours", script, "≤ 1.08")])


if __name__ == "__main__":
    main(__doc__, rows)

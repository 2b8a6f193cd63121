"""Long tests, run by `make soak`: kill a run again and again, at random moments, and compare the end."""

import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from helpers.small import write_scan
from ssmtl_toolkit.runtime import checkpoint

TASKS = ["reconstruct_prev:t=1", "reconstruct_next:t=1", "slice_siam:t=1", "moco_v2:queue=10"]


def command(scans, tmp_path, *more):
    flags = ["--backbone", "unet:encoder=plain,width=4", "--size", "32", "--batch-size", "4", "--steps", "150"]
    flags += ["--checkpoint-every", "7", "--log-every", "3", "--accumulate", "2", "--data", str(scans)]
    tasks = [part for task in TASKS for part in ("--task", task)]
    start = [sys.executable, "-m", "ssmtl_toolkit", "run", "--cache", str(tmp_path / "cache")]
    return [*start, *(more if "--resume" in more else [*flags, *tasks, *more])]


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_a_run_killed_again_and_again_at_random_moments_ends_with_the_same_bits(tmp_path, seed):
    for i in range(4):
        write_scan(tmp_path / "scans" / f"p{i}.nii.gz", seed=i)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(tmp_path / "scans", tmp_path, "--out", whole), check=True, capture_output=True)
    chance = random.Random(seed)
    kills = 0
    more = ["--out", cut]
    while True:
        process = subprocess.Popen(command(tmp_path / "scans", tmp_path, *more), stderr=subprocess.DEVNULL)
        before = (cut / "metrics.jsonl").stat().st_size if (cut / "metrics.jsonl").exists() else 0
        while process.poll() is None and not (
            (cut / "metrics.jsonl").exists() and (cut / "metrics.jsonl").stat().st_size != before
        ):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 1.0))
        if process.poll() is None and kills < 6:
            process.send_signal(signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
        more = ["--resume", cut]
    assert kills >= 2
    ours, theirs = (checkpoint.newest(folder / "checkpoints", print).tensors for folder in (whole, cut))
    assert set(ours) == set(theirs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert (whole / "metrics.jsonl").read_bytes() == (cut / "metrics.jsonl").read_bytes()
    ours, theirs = (load_file(folder / "backbone.safetensors") for folder in (whole, cut))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert not list(cut.rglob("*.part"))

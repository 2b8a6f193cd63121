"""Several processes that train together: one that hangs, fails or is gone ends all, is named, and the run resumes."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from helpers.odd_rank import HOW
from helpers.places import ROOT
from helpers.processes import read_until, second_rank, wait_until_gone
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.heartbeat import _Rank

OPTIONS = {"backbone": "unet:encoder=plain,width=4", "size": 32, "batch_size": 2, "accumulate": 2, "precision": "bf16"}
OPTIONS |= {"checkpoint_every": 5, "log_every": 1, "devices": 2, "accelerator": "cpu"}
OPTIONS |= {"channels_last": "off"}  # a long run would try both layouts, and the whole one it is compared to is short
FLAGS = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
TASK = "reconstruct_next:t=1"
TIMEOUT = 3
PATIENT = 60  # on a busy machine a step may take longer than TIMEOUT, and this is no test of it
ON_TWO = """
import json, sys, ssmtl_toolkit
places, options, cut = json.loads(sys.argv[1])
ssmtl_toolkit.pretrain(**places, **options, out="whole")
ssmtl_toolkit.pretrain(**places, **options, out=cut, resume=True)
"""


def command(scans, tmp_path, *more):
    given = ["run", *FLAGS, "--data", str(scans), "--task", TASK, "--cache", str(tmp_path / "cache"), *map(str, more)]
    return [sys.executable, "-m", "ssmtl_toolkit", *given]


def wait_for(path, seconds=120):
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} does not appear"
        time.sleep(0.05)


def test_a_process_is_dead_when_it_has_ended_even_if_nobody_has_asked_for_its_exit_code():
    process = subprocess.Popen(["sleep", "100"])
    rank = _Rank(1, os.uname().nodename, process.pid, ("127.0.0.1", 1))
    assert not rank.is_dead()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert rank.is_dead()
    process.wait()
    assert rank.is_dead()
    assert not _Rank(1, "elsewhere", process.pid, ("127.0.0.1", 1)).is_dead()


def start_and_strike(scans, tmp_path, number, on, delay=0.0, timeout=TIMEOUT):
    """Start a run of two ranks, or resume it, and send a signal to one of them after its next checkpoint.

    Returns the process that got it, what was said, the exit code, and how many seconds later all were gone.
    """
    out = ("--resume", "cut") if (tmp_path / "cut").exists() else ("--out", "cut")
    before = newest(tmp_path / "cut").step if out[0] == "--resume" else 0
    options = ("--steps", 90000, "--rank-timeout", timeout, *out)
    process = subprocess.Popen(command(scans, tmp_path, *options), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    told = read_until(process.stderr, "step ")
    wait_for(tmp_path / "cut" / "checkpoints" / f"step-{before + 5:08d}")
    time.sleep(delay)
    struck = (process.pid, second_rank(process))[on]
    os.kill(struck, number)
    clock = time.monotonic()
    told += process.communicate(timeout=60)[1]
    return struck, told, process.returncode, time.monotonic() - clock


def newest(folder):
    return checkpoint.newest(folder / "checkpoints", pytest.fail)


def assert_equal_to_one_that_was_never_stopped(scans, tmp_path):
    """Two ranks finish the run, and do the whole of another."""
    steps = newest(tmp_path / "cut").step + 4
    (tmp_path / "two.py").write_text(ON_TWO)
    places = {"data": str(scans), "cache": str(tmp_path / "cache"), "tasks": [TASK]}
    given = json.dumps([places, {**OPTIONS, "steps": steps}, "cut"])
    subprocess.run([sys.executable, "two.py", given], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    whole, cut = newest(tmp_path / "whole"), newest(tmp_path / "cut")
    assert cut.step == steps
    assert set(whole.tensors) == set(cut.tensors)
    assert all(torch.equal(tensor, cut.tensors[name]) for name, tensor in whole.tensors.items())
    assert (tmp_path / "whole" / "metrics.jsonl").read_bytes() == (tmp_path / "cut" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_and_ended_and_the_run_resumes_with_the_same_bits(scans, tmp_path):
    other, told, code, seconds = start_and_strike(scans, tmp_path, signal.SIGSTOP, on=1)
    assert code == 1, told
    assert seconds < TIMEOUT + 15, told
    assert re.search(rf"error: rank 1 \(process {other} on .*\) did not answer for {TIMEOUT} s; resume with: ", told)
    assert "not expected" not in told
    assert wait_until_gone(other, seconds=1)
    assert_equal_to_one_that_was_never_stopped(scans, tmp_path)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_two_ranks_of_which_one_is_killed_again_and_again_end_with_the_same_bits(scans, tmp_path, seed):
    chance = random.Random(seed)
    for _ in range(3):
        on = chance.randrange(2)
        _, told, code, seconds = start_and_strike(scans, tmp_path, signal.SIGKILL, on, chance.uniform(0, 1), PATIENT)
        assert code == (1 if on else -signal.SIGKILL), told
        assert f"error: rank {on} (process " in told
        assert "ended without a message" in told
        assert seconds < 15, told
    assert_equal_to_one_that_was_never_stopped(scans, tmp_path)
    print("3 kills, equal bits")


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("launcher", ["devices", "torchrun"])
@pytest.mark.parametrize("on", [0, 1])
@pytest.mark.parametrize("how", sorted(HOW))
def test_whatever_becomes_of_a_rank_all_end_soon_and_the_last_checkpoint_is_good(scans, tmp_path, how, on, launcher):
    odd = ("--plugin", ROOT / "tests" / "helpers" / "odd_rank.py", "--task", f"odd_rank:how={how},on={on}")
    given = command(scans, tmp_path, *odd, "--steps", 90000, "--rank-timeout", TIMEOUT, "--out", "r")
    if launcher == "torchrun":
        given[1:2] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    process = subprocess.Popen(given, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(tmp_path / "r" / "checkpoints" / "step-00000005")
    clock = time.monotonic()
    told = process.communicate(timeout=100)[1]  # until the last one has closed it
    took = time.monotonic() - clock
    assert process.returncode != 0
    assert took < TIMEOUT + 15, told
    named = "task 'odd_rank" if how in ("raise", "sys.exit") else f"rank {on} (process "
    assert named in told, told
    assert newest(tmp_path / "r").step == 5
    print(f"{how} on rank {on} by {launcher}: all ended after {took:.1f} s")

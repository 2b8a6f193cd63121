"""`--resume auto`: the same command starts a run and continues it, as a job that is queued again and again needs."""

import os
import signal
import subprocess
import sys

import pytest

from helpers.places import ROOT
from helpers.processes import read_until
from helpers.small import SMALL
from helpers.stopping import StopAt
from ssmtl_toolkit.cli import console
from ssmtl_toolkit.runtime import checkpoint

RUN = ("run", "--backbone", SMALL, "--size", 32, "--batch-size", 4, "--task", "reconstruct_prev:t=1", "--log-every", 1)


@pytest.fixture
def stop_at(monkeypatch):
    """Send a signal to the command when a step is done."""

    class Stopping(console.RichProgress):
        step = None

        def stepped(self, step):
            super().stepped(step)
            StopAt(Stopping.step, signal.SIGUSR1).stepped(step)

    monkeypatch.setattr(console, "RichProgress", Stopping)

    def stop(step):
        Stopping.step = step

    return stop


def test_the_same_command_starts_a_run_continues_it_and_leaves_a_finished_one_alone(ssmtl, scans, tmp_path, stop_at):
    again = (*RUN, "--data", scans, "--steps", 6, "--out", "r", "--resume", "auto")
    stop_at(3)
    assert ssmtl(*again).returncode == 128 + signal.SIGUSR1
    (tmp_path / "options.toml").write_text("steps = 7\nlr = 0.001\n")
    stop_at(None)
    done = ssmtl(*again, "--config", "options.toml")
    assert done.returncode == 0, done.stderr
    assert "resumes after step 3" in done.stderr
    assert checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail).step == 6
    weights = (tmp_path / "r" / "backbone.safetensors").read_bytes()
    assert ssmtl(*again).returncode == 0
    assert (tmp_path / "r" / "backbone.safetensors").read_bytes() == weights
    other = ssmtl(*again, "--lr", 0.5)
    assert other.returncode == 2
    assert "r: cannot be resumed with other options: lr is 0.5, was 0.001" in other.stderr


def test_a_fine_tuning_continues_inside_its_repetition(ssmtl, labelled, pretrained, stop_at):
    small = ("--train-scans", 2, "--slices-per-scan", 2, "--test-scans", 2, "--steps", 6, "--no-surface")
    again = ("finetune", "--from", pretrained, "--data", labelled, *small, "--out", "t", "--resume", "auto")
    stop_at(4)
    stopped = ssmtl(*again)
    assert stopped.returncode == 128 + signal.SIGUSR1
    assert "step 4 of 6 of pretrained-0 is saved" in stopped.stderr
    stop_at(None)
    done = ssmtl(*again)
    assert done.returncode == 0, done.stderr
    assert "pretrained-0: resumed after step 4" in done.stderr


@pytest.mark.parametrize("command", ["run", "finetune"])
def test_it_needs_a_folder_and_takes_no_other_one(ssmtl, tmp_path, command):
    done = ssmtl(command, "--resume", "auto")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--resume auto: continues the run in --out if there is one; add --out" in done.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert "full: is not empty" in ssmtl(command, "--resume", "auto", "--out", "full").stderr


@pytest.mark.slow
def test_the_batch_script_queues_a_job_again_that_slurm_warned(ssmtl, scans, tmp_path):
    shims = {"srun": 'echo $$ > pid; exec "$@"', "scontrol": 'echo "$@" > scontrol'}
    shims["ssmtl"] = f'exec {sys.executable} -m ssmtl_toolkit "$@"'
    for name, line in shims.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    given = [*map(str, (*RUN, "--data", scans)), "--out", "r"]
    job = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}
    job |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "ssmtl"}
    script = ROOT / "examples" / "slurm.sh"
    process = subprocess.Popen(
        [script, *given, "--steps", "90000"], cwd=tmp_path, env=job, stderr=subprocess.PIPE, text=True
    )
    read_until(process.stderr, "step ")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGUSR1)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGUSR1, told
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"
    saved = checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail).step
    done = ssmtl(*given, "--resume", "auto", "--steps", saved + 1)
    assert f"resumes after step {saved}" in done.stderr
    assert done.returncode == 0, done.stderr

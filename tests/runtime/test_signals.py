"""What a scheduler, a closing terminal or a person sends to a command: it saves, leaves, and says what it was."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading

import pytest
from filelock import FileLock

import ssmtl_toolkit as toolkit
from helpers.processes import read_until, second_rank, wait_until_gone
from helpers.small import SMALL
from ssmtl_toolkit.experiments.runs import Runs
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.interrupt import InterruptedRunError, interrupts
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.specs import DatasetSpec

HEARD = [signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]
FLAGS = ("--backbone", SMALL, "--size", "32", "--batch-size", "4", "--task", "reconstruct_prev:t=1", "--log-every", "1")


@pytest.fixture(autouse=True)
def as_started_by_a_person():
    """Under nohup or in the background of a script, tests and what they start would ignore some signals."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM, *HEARD)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Send(Progress):
    """Sends a signal to this process at a step, or when the first scan is prepared."""

    def __init__(self, number, step=0):
        self.number, self.step = number, step

    def stepped(self, step):
        if step == self.step:
            signal.raise_signal(self.number)

    def prepared(self, name):
        if not self.step:
            signal.raise_signal(self.number)


def pretrain(scans, out, progress):
    options = {"backbone": SMALL, "size": 32, "batch_size": 4, "tasks": ["reconstruct_prev:t=1"], "steps": 6}
    return toolkit.pretrain(data=str(scans), out=out, cache=out.parent / "cache", progress=progress, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *HEARD])
def test_every_signal_that_comes_before_a_kill_saves_and_is_named(scans, tmp_path, number):
    name = "Ctrl-C" if number == signal.SIGINT else number.name
    with pytest.raises(InterruptedRunError, match=f"stopped by {name}; step 3 of 6 is saved") as told:
        pretrain(scans, tmp_path / "r", Send(number, 3))
    assert told.value.exit_code == 128 + number
    assert checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail).step == 3
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", HEARD)
def test_a_signal_that_is_ignored_when_the_command_starts_stays_so(scans, tmp_path, number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert pretrain(scans, tmp_path / "r", Send(number, 3)).summary["steps"] == 6
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_signal_while_scans_are_prepared_leaves_before_training(scans, tmp_path):
    with pytest.raises(InterruptedRunError, match="stopped by SIGUSR1; nothing was trained yet"):
        pretrain(scans, tmp_path / "r", Send(signal.SIGUSR1))
    assert not (tmp_path / "r" / "run.toml").exists()


def test_predict_and_evaluate_leave_between_two_scans(labelled, tuned, tmp_path):
    two = [labelled / "images" / f"{name}.nii.gz" for name in ("a_pre", "b_pre")]
    with pytest.raises(InterruptedRunError, match="stopped by SIGUSR2; 1 of 2 scans are done"):
        toolkit.predict(tuned, two, out=tmp_path / "p", progress=Send(signal.SIGUSR2))
    toolkit.predict(tuned, two, out=tmp_path / "p", existing="overwrite")
    with pytest.raises(InterruptedRunError, match="stopped by SIGHUP; nothing was written") as told:
        toolkit.evaluate(tmp_path / "p", labelled / "labels", progress=Send(signal.SIGHUP), surface=False)
    assert told.value.exit_code == 129


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *HEARD[:-1]])
def test_the_second_signal_leaves_at_once(number):
    code = (
        "import signal, sys\nfrom ssmtl_toolkit.runtime.interrupt import interrupts\n"
        f"signal.signal(signal.SIGINT, signal.SIG_DFL)\nnumber = {int(number)}\nwith interrupts:\n"
        "    signal.raise_signal(number)\n    print(interrupts.number, flush=True)\n"
        "    signal.raise_signal(number)\n    print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-number, f"{int(number)}\n")


def test_the_echo_of_a_signal_is_no_second_one():
    """A closing terminal sends SIGHUP to the shell and to its job, and the shell sends it to the job again."""
    echo = threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGHUP))
    with interrupts:
        echo.start()
        signal.raise_signal(signal.SIGHUP)
        assert interrupts.number == signal.SIGHUP
        assert not echo.is_alive()


def test_the_cpu_limit_may_be_told_again_and_again_while_the_state_is_saved():
    with interrupts:
        for _ in range(3):
            signal.raise_signal(signal.SIGXCPU)
        assert interrupts.number == signal.SIGXCPU
    assert signal.getsignal(signal.SIGXCPU) is signal.SIG_DFL


def command(scans, tmp_path, *more):
    cache = str(tmp_path / "cache")
    return [sys.executable, "-m", "ssmtl_toolkit", "run", "--data", str(scans), *FLAGS, "--steps", "90000",
            "--out", str(tmp_path / "r"), "--cache", cache, *more]  # fmt: skip


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_is_saved(scans, tmp_path):
    master, slave = pty.openpty()

    def own_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    process = subprocess.Popen(command(scans, tmp_path), **streams, preexec_fn=own_terminal)
    os.close(slave)
    shown = b""
    while b"images/s" not in shown:
        shown += os.read(master, 4096)
    os.close(master)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail).step > 0


def two_ranks(scans, tmp_path):
    """A run of two processes that is training, and what it has said so far."""
    options = ("--devices", "2", "--accelerator", "cpu")
    process = subprocess.Popen(command(scans, tmp_path, *options), stderr=subprocess.PIPE, text=True)
    return process, read_until(process.stderr, "step ")


@pytest.mark.slow
def test_the_second_of_two_ranks_leaves_when_the_first_is_killed(scans, tmp_path):
    process, _ = two_ranks(scans, tmp_path)
    other = second_rank(process)
    os.kill(other, signal.SIGSTOP)  # it cannot notice by a broken connection
    process.kill()
    process.wait()
    os.kill(other, signal.SIGCONT)
    assert wait_until_gone(other, seconds=20)
    process.stderr.close()


@pytest.mark.slow
def test_a_signal_to_the_second_of_two_ranks_saves_and_both_leave(scans, tmp_path):
    process, told = two_ranks(scans, tmp_path)
    os.kill(second_rank(process), signal.SIGUSR1)
    told += process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGUSR1, told
    assert told.count("stopped by SIGUSR1") == 1
    assert checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail).step > 0


def test_waiting_for_a_lock_that_another_process_does_not_release_is_ended_by_one_signal(tmp_path):
    runs = Runs(tmp_path / "e", tmp_path / "cache", Progress(), ())
    (tmp_path / "cache").mkdir()
    door = FileLock(tmp_path / "cache" / ".door.lock")
    with FileLock(runs.lock("table")), door, interrupts:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(InterruptedRunError, match="stopped by Ctrl-C; rerun the command"), runs.in_turn("table"):
            pytest.fail("it did not wait")
        with pytest.raises(InterruptedRunError, match="stopped by Ctrl-C; nothing was trained"):
            list_scans(registry().resolve(DatasetSpec, "phantom:patients=1"), tmp_path / "cache")

"""`--cluster`: slices and rows made by processes of Dask are those of one process, also if a worker is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

import ssmtl_toolkit as toolkit
from helpers.decodes import count_decodes
from helpers.processes import read_until, wait_until_gone
from helpers.small import SMALL, write_pair, write_scan
from ssmtl_toolkit.config.prepare import PrepareConfig
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.experiments.execution import RowsFailedError
from ssmtl_toolkit.pretraining.preparing import prepare_slices
from ssmtl_toolkit.runtime.cluster import NO_DASHBOARD, Task, check_cluster, opened
from ssmtl_toolkit.runtime.progress import Progress

distributed = pytest.importorskip("distributed")

TABLE = """
[backbones]
small = "unet:encoder=plain,width=4"

[pretrain]
size = 32
batch_size = 8
steps = STEPS
checkpoint_every = 5

[finetune]
classes = "big=10,small=20"
train_scans = 1
slices_per_scan = 2
steps = 2
seeds = 1
surface = false

[split]
train = 2
test = 2

[rows.scratch]
backbone = "small"

[rows.ssmtl]
backbone = "small"
tasks = ["reconstruct_next:t=1"]

[rows.longer]
backbone = "small"
tasks = ["reconstruct_next:t=1"]
finetune = { steps = 3 }

[rows.far]
backbone = "small"
tasks = ["reconstruct_next:t=50"]
"""


class Told(Progress):
    """Keeps what it hears, and calls `react` with each text."""

    def __init__(self, react=lambda text: None):
        self.texts, self.react = [], react

    def note(self, text):
        self.texts.append(text)
        self.react(text)

    say = note

    def prepared(self, name):
        self.react(name)


@pytest.fixture(scope="module")
def workers():
    """Two processes of Dask on this machine, as `dask worker` starts them."""
    options = {"processes": True, "threads_per_worker": 1, "host": "127.0.0.1", **NO_DASHBOARD}
    with distributed.LocalCluster(n_workers=2, silence_logs=50, memory_limit=0, **options) as cluster:
        yield cluster


@pytest.fixture
def table(tmp_path):
    """Writes the table with so many steps of pre-training, and labelled scans of five patients beside it."""

    def write(steps):
        for seed, name in enumerate("abcde"):
            write_pair(tmp_path / "labelled", name, seed=seed)
        (tmp_path / "table.toml").write_text(TABLE.replace("STEPS", str(steps)))
        return {"source": tmp_path / "table.toml", "data": str(tmp_path / "labelled")}

    return write


def slices_in(cache):
    """Of each piece in a cache its voxels, as bytes, and what it says of itself, which has no order in files."""
    pieces = {}
    for file in (cache / "slices").rglob("*.safetensors"):
        with safe_open(file, "numpy") as opened_piece:
            pieces[file.name] = opened_piece.get_tensor("slices").tobytes(), opened_piece.metadata()
    return pieces


def rows_of(summary):
    names = ("id", "status", "columns", "gain", "failed")
    return [{name: row.get(name) for name in names} for row in summary["rows"]]


def compare(table, tmp_path, name, **how):
    """The summary of the table, of which one row fails."""
    with pytest.raises(RowsFailedError, match="row 'far': task 'reconstruct_next:t=50': no scan has slices") as failed:
        toolkit.experiment(table["source"], data=table["data"], out=tmp_path / name, cache=tmp_path / "cache", **how)
    return failed.value.summary


@pytest.mark.parametrize(
    ("text", "words"),
    [
        *[("local:0", "expected local:4"), ("slrm", "expected local:4"), ("10.0.0.1:8786", "expected local:4")],
        ("gone.json", "gone.json: no such file; start dask scheduler"),
    ],
)
def test_a_cluster_that_cannot_be_meant_is_refused(text, words):
    with pytest.raises(UsageError, match=words):
        check_cluster(text)


@pytest.mark.parametrize("package", ["distributed", "dask_jobqueue"])
def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(package, monkeypatch, ssmtl, scans):
    monkeypatch.setitem(sys.modules, package, None)
    done = ssmtl("data", "prepare", scans, "--cluster", "slurm:8")
    assert done.returncode == 2
    assert f"--cluster slurm:8: needs {package}, which is not installed: pip install 'ssmtl-toolkit[cluster]'" in (
        done.stderr
    )


def test_slices_made_by_workers_are_those_of_one_process_and_a_run_decodes_nothing(
    workers, scans, tmp_path, ssmtl, monkeypatch
):
    (scans / "bad.nii.gz").write_bytes(b"no scan")
    options = ["--size", 32, "--window", 0, 900, "--normalise", "data", "--json"]
    alone = ssmtl("data", "prepare", scans, *options, "--cache", "one", "--skip-bad")
    assert alone.returncode == 0, alone.stderr
    together = ssmtl("data", "prepare", scans, *options, "--cache", "two", "--cluster", workers.scheduler_address)
    assert together.returncode == 3
    assert "1 of 5 scans cannot be used:" in together.stderr
    summary, expected = json.loads(together.stdout), json.loads(alone.stdout)
    assert {**summary, "cache": ""} == {**expected, "cache": ""}
    assert (summary["scans"], summary["made"], summary["slices"]) == (4, 4, 48)
    assert [item["scan"] for item in summary["failed"]] == ["bad"]
    assert "bad.nii.gz" in summary["failed"][0]["reason"]
    assert slices_in(tmp_path / "one") == slices_in(tmp_path / "two")
    assert len(slices_in(tmp_path / "two")) == 4

    again = ssmtl(
        "data", "prepare", scans, *options[:-1], "--cache", "two", "--cluster", workers.scheduler_address, "--skip-bad"
    )
    assert again.returncode == 0, again.stderr
    assert "4 scans: 0 made, 4 found in the cache; 48 slices" in again.stderr

    (scans / "bad.nii.gz").unlink()
    decodes = count_decodes(monkeypatch)
    run = ["--data", scans, *options[:-1], "--cache", "two", "--steps", 1, "--backbone", SMALL, "--out", "run"]
    done = ssmtl("run", *run, "--task", "reconstruct_next:t=1")
    assert done.returncode == 0, done.stderr
    assert not decodes


@pytest.mark.slow
def test_rows_done_by_workers_are_those_of_one_process(workers, table, tmp_path):
    experiment, told = table(steps=2), Told()
    alone = compare(experiment, tmp_path, "one")
    together = compare(experiment, tmp_path, "two", cluster=workers.scheduler_address, progress=told)
    assert rows_of(together) == rows_of(alone)
    assert sum(text.startswith("ssmtl: pre-training in") for text in told.texts) == 1  # two rows share it
    (failed,) = [text for text in told.texts if " failed (" in text]
    assert failed.startswith("far: pre-training failed (")
    done = [text for text in told.texts if " is done (" in text]
    assert {text.partition(" is")[0] for text in done} == {
        *("scratch: fine-tuning", "ssmtl: pre-training", "ssmtl: fine-tuning", "longer: fine-tuning"),
    }


def _explode(progress):
    raise RuntimeError("by a fault\nof its own")


def _kill(progress):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.soak
def test_faults_of_workers_are_told_in_a_line_each(tmp_path):
    ends = {}
    with opened("local:2", Progress()) as cluster:
        cluster.run([Task("a", _explode, ()), Task("b", _kill, ()), Task("c", _kill, (), after=0)], ends.__setitem__)
    assert ends[0].failed == "the worker failed with RuntimeError: by a fault; its log has more"
    assert ends[1].failed == "every worker that did it was killed; check their memory and logs"
    assert "RuntimeError" in ends[2].failed


@pytest.mark.slow
def test_slices_are_those_of_one_process_although_a_worker_is_killed(workers, tmp_path):
    for seed in range(12):
        write_scan(tmp_path / "scans" / f"p{seed}.nii.gz", seed=seed)
    killed = []

    def kill_one(name):
        if not killed:
            killed.append(next(nanny.pid for nanny in workers.workers.values() if nanny.pid))
            os.kill(killed[0], signal.SIGKILL)

    config = PrepareConfig.of({"data": str(tmp_path / "scans"), "size": 32}).resolve()
    prepare_slices(config, tmp_path / "one", Progress())
    done = prepare_slices(config, tmp_path / "two", Told(kill_one), workers.scheduler_address)
    assert killed
    assert (done.scans, done.failed) == (12, ())
    assert slices_in(tmp_path / "two") == slices_in(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.soak
def test_rows_of_workers_that_are_killed_are_done_again_to_the_same_table(workers, table, tmp_path):
    experiment = table(steps=40)
    alone = compare(experiment, tmp_path, "one")
    killed = []

    def kill_all(text):
        if "pre-training in" in text and not killed:
            time.sleep(1)  # in the middle of it, if the machine is not slow
            killed.extend(nanny.pid for nanny in workers.workers.values())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    told = Told(kill_all)
    together = compare(experiment, tmp_path, "two", cluster=workers.scheduler_address, progress=told)
    assert len(killed) == 2
    assert any("is lost; " in text for text in told.texts), told.texts
    assert rows_of(together) == rows_of(alone)


@pytest.mark.slow
@pytest.mark.soak
def test_ctrl_c_stops_the_workers_after_a_step_and_the_same_command_resumes(table, tmp_path):
    experiment = table(steps=400)
    words = ["experiment", str(experiment["source"]), "--data", experiment["data"], "--out", "out", "--cache", "cache"]
    command = [sys.executable, "-m", "ssmtl_toolkit", *words, "--cluster", "local:2"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    told = read_until(process.stderr, "ssmtl: pre-training in")
    workers = [int(child) for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    while not list(tmp_path.glob("out/pretrain/unet-reconstruct_next-*/checkpoints/step-*")):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    told += process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert told.strip().endswith("stopped by Ctrl-C; rerun the command to resume")
    assert all(wait_until_gone(pid, seconds=10) for pid in workers)
    (run,) = tmp_path.glob("out/pretrain/unet-reconstruct_next-*/checkpoints")
    saved = max(int(step.name.partition("-")[2]) for step in run.glob("step-*"))
    assert 0 < saved < 400
    told = Told()
    compare(experiment, tmp_path, "out", progress=told)
    assert any(f"after step {saved}" in text or f"step {saved}" in text for text in told.texts), told.texts


@pytest.mark.slow
@pytest.mark.soak
def test_a_scheduler_without_workers_or_that_is_lost_or_cannot_be_reached_is_told(tmp_path):
    import dask

    file = tmp_path / "scheduler.json"
    words = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler = subprocess.Popen([sys.executable, *words, "--scheduler-file", str(file)], stderr=subprocess.DEVNULL)
    while not file.exists():
        time.sleep(0.1)
    told = Told(lambda text: (scheduler.kill(), scheduler.wait()))
    with dask.config.set({"distributed.comm.timeouts.connect": "2s"}):
        with (
            pytest.raises(SsmtlError, match="its scheduler is lost; rerun the command"),
            opened(str(file), told) as one,
        ):
            one.run([Task("a", _explode, ())], lambda i, end: None)
        with pytest.raises(SsmtlError, match=r"cannot be used .*; check that its scheduler"), opened(str(file), told):
            pytest.fail("it is gone")
    assert told.texts == [f"--cluster {file}: there is no worker yet; waiting for one"]

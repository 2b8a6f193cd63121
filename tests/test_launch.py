"""Which process of a run writes: launchers that connect processes, and variables that are left over from others."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest
import torch

from ssmtl_toolkit import SsmtlError, UsageError
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.launch import Launch, launch
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress

FLAGS = ("--backbone", "unet:encoder=plain,width=4", "--size", 32, "--batch-size", 4, "--accelerator", "cpu")
TASK = ("--task", "reconstruct_next:t=1")
NAMES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LEFTOVERS = [
    {"RANK": "1"},
    {"LOCAL_RANK": "1"},
    {"NODE_RANK": "1"},
    {"GROUP_RANK": "1"},
    {"SLURM_PROCID": "1"},
    {"SLURM_NTASKS": "1", "SLURM_PROCID": "3"},
    {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train"},  # the shell of an allocation: one process
    {"RANK": "1", "WORLD_SIZE": "1", "MASTER_ADDR": "pod-0", "MASTER_PORT": "29500"},
    {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1", "RANK": "1", "LOCAL_RANK": "1"},
    {"RANK": "", "LOCAL_RANK": "-1"},
]
NO_LAUNCHER_OF_OURS = [
    {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},  # mpirun
    {"PMI_RANK": "1", "PMI_SIZE": "2"},
    {"PMIX_RANK": "1", "JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2"},
    {"RANK": "1", "WORLD_SIZE": "-1"},
    {"RANK": "7", "WORLD_SIZE": "1", "PET_NODE_RANK": "1"},
]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in [*NAMES, *(name for name in os.environ if name.startswith(("SLURM_", "TORCHELASTIC_")))]:
        monkeypatch.delenv(name, raising=False)


def setenv(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def wait_for(processes, seconds):
    """Exit codes and outputs of processes that must all end in this time."""
    try:
        told = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], told


HELD = """
import sys, time
from pathlib import Path
from ssmtl_toolkit.runtime.folder import hold_folder
with hold_folder(Path(sys.argv[1]), resume=False):
    print("held", flush=True)
    time.sleep(120)
"""


ON_TWO = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
BY_TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
BY_SRUN = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `r`."""
    process = subprocess.Popen([sys.executable, "-c", HELD, tmp_path / "r"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("command", ["run", "finetune"])
def test_a_folder_that_is_held_is_refused_whatever_the_environment_says(ssmtl, monkeypatch, holder, tmp_path, command):
    before = sorted(tmp_path.joinpath("r").rglob("*"))
    for variables in ({}, *LEFTOVERS, *NO_LAUNCHER_OF_OURS):
        setenv(monkeypatch, variables)
        done = ssmtl(command, "--data", "phantom:patients=3", "--steps", 1, "--out", "r")
        assert done.returncode == 1
        assert f"another process ({holder.pid} on {socket.gethostname()}) is training" in done.stderr
        assert sorted(tmp_path.joinpath("r").rglob("*")) == before
        for name in variables:
            monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("variables", LEFTOVERS)
def test_a_leftover_in_the_environment_does_not_keep_a_run_from_writing(ssmtl, monkeypatch, tmp_path, variables):
    setenv(monkeypatch, variables)
    done = ssmtl("run", *FLAGS, *TASK, "--data", "phantom:patients=1", "--steps", 1, "--out", "r", "--strategy", "ddp")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "r\n"
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["steps"] == 1


@pytest.mark.slow
def test_leftovers_do_not_keep_several_devices_from_training_together(ssmtl_process, tmp_path):
    options = (*FLAGS, *TASK, "--data", "phantom:patients=1", "--steps", 2, "--devices", 2, "--log-every", 1)
    left = {"RANK": "1", "LOCAL_RANK": "1", "NODE_RANK": "1", "SLURM_PROCID": "1", "SLURM_NTASKS": "1"}
    done = ssmtl_process("run", *options, "--out", "r", "--json", **left)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    assert checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail).about["world_size"] == 2
    assert len((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()) == 2
    again = ssmtl_process("run", *options, "--out", "r", **left)
    assert again.returncode == 2
    assert "r: is not empty" in again.stderr


@pytest.mark.parametrize("command", ["run", "finetune", "experiment"])
@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "pod-0", "MASTER_PORT": "29500"},
        {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "pod-0", "MASTER_PORT": "29500"},
        {"WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "bash", "LOCAL_RANK": "1"},
    ],
)
def test_one_of_several_processes_that_nothing_connects_is_refused(ssmtl, monkeypatch, tmp_path, variables, command):
    (tmp_path / "e.toml").write_text("")
    setenv(monkeypatch, variables)
    given = {
        "run": ("run", *FLAGS, *TASK, "--data", "phantom:patients=1", "--steps", 1),
        "finetune": ("finetune", "--data", "phantom:patients=3", "--steps", 1),
        "experiment": ("reproduce", "table2", "--data", "phantom:patients=3", "--quick"),
    }[command]
    done = ssmtl(*given, "--out", "r")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "they would train 2 copies into one folder" in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("variables", "devices", "nodes"),
    [
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash"}, 1, 1),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_NAME": "train"}, 1, 1),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, 4, 1),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}, 1, 1),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, 2, 1),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, 2, 1),
        ({"WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_PORT": "1"}, 2, 1),
        ({"LOCAL_RANK": "0", "RANK": "1", "MASTER_PORT": "1"}, 2, 1),  # two machines, taken for one
        ({"LOCAL_RANK": "2", "MASTER_PORT": "1"}, 2, 1),
        ({}, 1, 2),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, 1, 2),
        ({"NODE_RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, 1, 2),
    ],
)
def test_what_a_launcher_says_must_fit_the_devices_and_nodes_of_the_run(monkeypatch, variables, devices, nodes):
    setenv(monkeypatch, variables)
    with pytest.raises(UsageError, match=r"copies into one folder|do not fit --devices|nothing connects the machines"):
        make_fabric(RunConfig(accelerator="cpu"), Progress(), devices, nodes)


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "found"),
    [
        ({}, 1, 1, Launch()),
        ({}, 2, 1, Launch()),
        ({"RANK": "1", "LOCAL_RANK": "0"}, 1, 1, Launch()),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NAME": "x"}, 2, 1, Launch()),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "x"}, 2, 1, Launch()),
        ({**ON_TWO, "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 2, 1, Launch("Fabric", 1, True)),
        ({**ON_TWO, "LOCAL_RANK": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, 2, 1, Launch("Fabric", 1, True)),
        ({**ON_TWO, "LOCAL_RANK": "0", "NODE_RANK": "1"}, 2, 2, Launch("Fabric", 2, True)),
        ({**ON_TWO, "NODE_RANK": "1", "RANK": "1"}, 2, 2, Launch("Fabric", 2, True)),
        (BY_TORCHRUN, 2, 1, Launch("torchrun", 1, True)),
        ({**BY_SRUN, "SLURM_NODEID": "0"}, 2, 1, Launch("SLURM", 1, True)),
    ],
)
def test_the_rank_is_the_one_that_fabric_trains_with(monkeypatch, variables, devices, nodes, found):
    setenv(monkeypatch, variables)
    assert launch(devices, nodes) == found
    fabric = make_fabric(RunConfig(accelerator="cpu"), Progress(), devices, nodes)
    assert fabric.global_rank == found.rank
    assert fabric.is_global_zero == (found.rank == 0)


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [("run", "RANK", "x"), ("finetune", "SLURM_NTASKS", "zwei"), ("reproduce", "LOCAL_RANK", "\x1b[31m")],
)
def test_a_variable_that_is_no_number_is_one_line(ssmtl_process, command, name, value):
    given = ("table2",) if command == "reproduce" else ("--steps", 1)
    done = ssmtl_process(command, *given, "--data", "phantom:patients=3", "--out", "r", **{name: value})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: environment variable {name}: expected a number, got '")
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def started(tmp_path, launcher, *options):
    """The processes of one run on two devices, started from outside as by srun or torchrun."""
    given = ["run", *FLAGS, *TASK, "--data", "phantom:patients=1", "--steps", 2, "--devices", 2, *options]
    common = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = ["-m", "ssmtl_toolkit", *map(str, given)]
    if launcher == "torchrun":
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
        each = [{}]
    else:
        job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
        job |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "MASTER_PORT": free_port()}
        each = [{**job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"]
    return [
        subprocess.Popen(
            [sys.executable, *command], env={**common, **variables}, cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for variables in each
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "SLURM"])
def test_processes_started_from_outside_train_one_network_or_are_all_refused(tmp_path, launcher):
    codes, told = wait_for(started(tmp_path, launcher, "--out", "r"), 120)
    assert set(codes) == {0}, told
    assert "".join(out for out, _ in told).strip() == "r"  # one of them speaks
    newest = checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail)
    assert newest.about["world_size"] == 2

    clock = time.perf_counter()
    codes, told = wait_for(started(tmp_path, launcher, "--out", "r"), 60)
    assert set(codes) == ({1} if launcher == "torchrun" else {2})  # torchrun's own exit code is 1
    assert all("r: is not empty" in err for _, err in told)
    assert time.perf_counter() - clock < 45
    again = checkpoint.newest(tmp_path / "r" / "checkpoints", pytest.fail)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in newest.tensors.items())


def test_a_holder_that_was_killed_holds_nothing(ssmtl, holder, tmp_path):
    holder.kill()
    holder.wait()
    done = ssmtl("run", *FLAGS, *TASK, "--data", "phantom:patients=1", "--steps", 1, "--out", "r")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "r" / ".lock.json").exists()


def test_a_run_in_progress_is_named_and_not_offered_to_be_resumed(tmp_path, holder):
    (tmp_path / "r" / "run.toml").write_text("")
    import ssmtl_toolkit

    for resume in (False, True):
        with pytest.raises(SsmtlError, match=rf"another process \({holder.pid} on "):
            ssmtl_toolkit.pretrain(steps=1, out=tmp_path / "r", resume=resume, data="phantom:patients=1")


@pytest.mark.slow
def test_processes_have_left_their_group_when_the_interpreter_ends(tmp_path):
    (tmp_path / "train.py").write_text(
        "import atexit, pathlib, os\n"
        "from torch import distributed\n"
        "import ssmtl_toolkit\n"
        "def tell():  # registered first, so it runs last\n"
        "    pathlib.Path(f'end-{os.getpid()}').write_text(str(distributed.is_initialized()))\n"
        "atexit.register(tell)\n"
        "ssmtl_toolkit.pretrain(data='phantom:patients=1', backbone='unet:encoder=plain,width=4', size=32,\n"
        "    tasks=['reconstruct_next:t=1'], steps=1, devices=2, accelerator='cpu', out='r')\n"
        "assert distributed.is_initialized()  # the next run in this process meets the same group\n"
    )
    done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [file.read_text() for file in tmp_path.glob("end-*")] == ["False", "False"]

"""The run folder: what a kill leaves in it, what a failed start leaves of it, and which one cannot be used."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ssmtl_toolkit
from ssmtl_toolkit import SsmtlError, UsageError
from ssmtl_toolkit.runtime.folder import dated_folder, hold_folder, network_file_system
from ssmtl_toolkit.runtime.interrupt import InterruptedRunError
from ssmtl_toolkit.runtime.progress import Progress

BACKBONE = ("--backbone", "unet:encoder=plain,width=4")
SHORT = ("--size", 32, "--batch-size", 4)
FLAGS = (*BACKBONE, *SHORT)
RUN = ("run", *FLAGS, "--task", "reconstruct_next:t=1", "--data", "phantom:patients=1", "--steps")
TUNE = ("finetune", "--head", "denoising", *FLAGS, "--data", "phantom:patients=3", "--test-scans", 1, "--no-surface")
KILLED = """
import os, signal, sys
from pathlib import Path
from ssmtl_toolkit.data.files import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("finished") / "r"
    ssmtl_toolkit.pretrain(
        out=folder, cache=folder.parent / "cache", data="phantom:patients=1", backbone="unet:encoder=plain,width=4",
        tasks=["reconstruct_next:t=1"], size=32, batch_size=4, steps=2,
    )  # fmt: skip
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "r")


def killed_while_writing(file):
    done = subprocess.run([sys.executable, "-c", KILLED, file])
    assert done.returncode == -signal.SIGKILL
    (left,) = file.parent.glob(f".{file.name}.*")
    return left


@pytest.mark.parametrize(
    "name", ["run.toml", "backbone.safetensors", "summary.json", "snapshots/epoch-0001.safetensors"]
)
def test_a_run_that_was_killed_while_it_wrote_resumes_at_once(ssmtl, run, name):
    left = killed_while_writing(run / name)
    done = ssmtl("run", "--resume", run, "--steps", 3)
    assert done.returncode == 0, done.stderr
    assert not left.exists()


def test_what_other_writers_left_half_written_is_removed_too(run):
    half = [
        run / ".metrics.jsonl.1-2.part",
        run / ".tmpA1b2C3",
        run / "checkpoints" / ".step-00000003.part" / "state.safetensors",
    ]
    half += [run / "pretrained-0" / ".model.safetensors.1-2.part", run / "scratch-12" / ".tmpabcdef"]
    half += [run / "pretrained-0" / "checkpoints" / ".step-00000003.part" / "manifest.json"]
    for file in half:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("half")
    with hold_folder(run, resume=True):
        assert not any(file.exists() for file in half)
    assert not list(run.rglob(".step*"))


def test_files_of_the_user_are_never_removed(run):
    names = ["thesis.part", ".thesis.part", ".notes.12-34.part", ".tmp", ".tmpabcdefg", "checkpoints/mine.part"]
    names += ["d.part/x", ".step-00000003/x", "old/.run.toml.1-2.part", ".backbone.safetensors.part", ".tmpabcdef/x"]
    for name in names:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("mine")
    with hold_folder(run, resume=True):
        pass
    assert [name for name in names if not (run / name).is_file()] == []


@pytest.mark.parametrize(
    "name",
    [
        "thesis.part",
        "d.part/x",
        ".hidden",
        ".x.1-2.part",
        "metrics.part",
        ".tmpabcdef",
        ".backbone.safetensors.1-2.part",
    ],
)
def test_a_folder_with_anything_of_the_user_in_it_is_not_empty(ssmtl, tmp_path, name):
    file = tmp_path / "r" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    for command in ((*RUN, 1), TUNE):
        done = ssmtl(*command, "--out", "r")
        assert done.returncode == 2
        assert "r: is not empty" in done.stderr
    assert file.read_text() == "mine"
    assert sorted(tmp_path.joinpath("r").rglob("*")) == sorted(
        {file, *file.parents} - {*tmp_path.joinpath("r").parents} - {tmp_path / "r"}
    )


def test_a_start_that_was_killed_leaves_an_empty_folder(run, tmp_path):
    left = killed_while_writing(tmp_path / "new" / "run.toml")
    for name in (".lock", ".lock.json"):
        (tmp_path / "new" / name).write_text("")
    with hold_folder(tmp_path / "new", resume=False):
        assert not left.exists()


BAD = {
    "data": ("run", *FLAGS, "--steps", 1, "--data", "no/such/folder"),
    "scan": ("run", *FLAGS, "--steps", 1, "--data", "bad"),
    "encoder": ("run", *SHORT, "--data", "phantom:patients=1", "--backbone", "unet:encoder=resnet35"),
    "distance": (*RUN, 1, "--task", "slice_siam:t=900"),
    "cache": (*RUN, 1, "--cache", "/proc/nothing"),
    "split": (*RUN, 1, "--without", "none.json"),
    "accelerator": (*RUN, 1, "--accelerator", "tpux"),
    "labels": ("finetune", *FLAGS, "--data", "bad"),
    "source": ("finetune", *FLAGS, "--data", "phantom:patients=3", "--from", "none"),
    "test": (*TUNE[:-3], "--test-scans", 99),
}


@pytest.mark.parametrize("command", BAD.values(), ids=BAD)
def test_a_start_that_fails_leaves_no_folder(ssmtl, tmp_path, command):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.nii").write_text("no scan")
    done = ssmtl(*command)
    assert done.returncode in {1, 2, 3}
    assert "not expected" not in done.stderr
    assert "given 2 times" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_start_that_fails_leaves_the_users_folders(ssmtl, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for out in ("a/b", "a/c/d"):
        assert ssmtl(*BAD["data"], "--out", out).returncode == 3
    assert sorted(tmp_path.joinpath("a").rglob("*")) == [tmp_path / "a" / "b"]


def test_a_start_that_fails_leaves_a_folder_that_holds_something_by_now(tmp_path):
    with hold_folder(tmp_path / "a" / "r", resume=False):
        (tmp_path / "a" / "other").mkdir()
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "other"]


class Interrupt(Progress):
    """Sends Ctrl-C when the first scan is prepared, and looks at the folder."""

    def __init__(self, folder):
        self.folder, self.held = folder, False

    def prepared(self, name):
        self.held = (self.folder / ".lock.json").exists()
        signal.raise_signal(signal.SIGINT)


def test_an_interrupted_start_leaves_no_folder(scans, tmp_path):
    out = tmp_path / "runs" / "r"
    progress = Interrupt(out)
    with pytest.raises(InterruptedRunError) as told:
        ssmtl_toolkit.pretrain(
            data=str(scans), out=out, cache=tmp_path / "cache", progress=progress, backbone=BACKBONE[1], size=32,
            tasks=["reconstruct_next:t=1"], steps=1,
        )  # fmt: skip
    assert told.value.exit_code == 130
    assert progress.held
    assert not (tmp_path / "runs").exists()


def test_a_lock_taken_while_another_start_removes_the_folder_is_a_real_one(tmp_path):
    """Failed starts, side by side in one folder: never do two hold it."""
    code = """
import sys
from pathlib import Path
from ssmtl_toolkit.runtime.folder import hold_folder
from ssmtl_toolkit import SsmtlError
folder, held = Path(sys.argv[1]), 0
for _ in range(150):
    try:
        with hold_folder(folder, resume=False):
            (folder.parent.parent / "alone").mkdir()
            (folder.parent.parent / "alone").rmdir()
            held += 1
    except SsmtlError as error:
        assert "another process" in str(error), error
print(held)
"""
    folder = tmp_path / "runs" / "r"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    told = [process.communicate(timeout=120) for process in processes]
    assert [err for _, err in told] == [""] * 3
    assert sum(int(out) for out, _ in told) > 0
    assert not list(folder.glob("*.json"))


@pytest.mark.parametrize("command", ["run", "finetune"])
def test_an_out_that_cannot_be_a_folder_is_one_line(ssmtl, tmp_path, command):
    given = {"run": (*RUN, 1), "finetune": TUNE}[command]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nowhere").symlink_to("missing")
    for out in (
        "x" * 300,
        "a/" * 3 + "x" * 300 + "/r",
        "file",
        "file/r",
        "nowhere",
        "/proc/r",
        "a\x1b[31m" + "x" * 300,
    ):
        for flag in ("--out", "--resume"):
            done = ssmtl(*(given if flag == "--out" else given[:1]), flag, out)
            lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            assert done.returncode in {1, 2}, out
            assert lines == [done.stderr.splitlines()[-1]]
            assert out.replace("\x1b", "\\x1b") in lines[0]
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "a").exists()


def test_a_file_that_cannot_be_written_is_named(ssmtl, run):
    (run / "summary.json").unlink()
    (run / "summary.json").mkdir()
    done = ssmtl("run", "--resume", run, "--steps", 3)
    assert done.returncode == 1
    assert f"error: {run}/summary.json: cannot be written (Is a directory)" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_without_permission_is_one_line(tmp_path):
    closed = tmp_path / "closed"
    (closed / "r").mkdir(parents=True)
    tmp_path.chmod(0o755)
    for mode, out in ((0o500, closed / "new"), (0o555, closed / "new"), (0o000, closed / "r")):
        closed.chmod(mode)
        child = os.fork()
        if child == 0:
            try:
                os.seteuid(65534)
                with hold_folder(out, resume=False):
                    pass
            except (SsmtlError, UsageError) as error:
                os._exit(0 if f"{out}: cannot be written (Permission denied)" in str(error) else 3)
            finally:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, (mode, out)
    closed.chmod(0o755)


@pytest.mark.slow
def test_a_repetition_without_its_model_is_made_again(ssmtl, tmp_path):
    done = ssmtl(*TUNE, "--steps", 2, "--train-scans", 1, "--slices-per-scan", 2, "--out", "t")
    assert done.returncode == 0, done.stderr
    model = tmp_path / "t" / "scratch-0" / "model.safetensors"
    model.unlink()
    assert ssmtl("finetune", "--resume", "t").returncode == 0
    assert model.is_file()


def test_a_run_without_a_folder_gets_one_of_its_own_also_within_the_same_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20261127-120000")
    folders = []
    for _ in range(3):
        folders.append(dated_folder("unet"))
        folders[-1].mkdir(parents=True)
    names = ["20261127-120000-unet", "20261127-120000-unet-2", "20261127-120000-unet-3"]
    assert folders == [Path("runs", name) for name in names]


def test_a_network_file_system_is_known_by_the_table_of_mounts(tmp_path):
    (tmp_path / "a b" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    table = tmp_path / "mounts"
    inner = str(tmp_path / "a b").replace(" ", "\\040")
    table.write_text(f"/dev/sda1 / ext4 rw 0 0\nhost:/x {tmp_path} nfs4 rw 0 0\n/dev/sdb1 {inner} xfs rw 0 0\n")
    assert network_file_system(tmp_path / "new" / "run", table) == "nfs4"
    assert network_file_system(tmp_path / "a b" / "run", table) == ""
    assert network_file_system(tmp_path / "link", table) == ""
    table.write_text(f"{table.read_text()}//host/share {inner} cifs rw 0 0\n")
    assert network_file_system(tmp_path / "link" / "run", table) == "cifs"
    assert network_file_system(tmp_path, tmp_path / "missing") == ""

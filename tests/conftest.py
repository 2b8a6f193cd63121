"""Fixtures: small real NIfTI scans made on the spot, the shared real data where it is there, the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# One thread for each process: tests run side by side, and equal bits need equal numbers of threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SSMTL_REPORT"] = "0"  # what draws pictures after a training is tested where it is asked for

import pytest

pytest.register_assert_rewrite("helpers")

import nibabel as nib
import numpy as np
from filelock import FileLock
from hypothesis import settings

from helpers.places import shared_data
from helpers.small import SMALL, write_pair, write_scan
from ssmtl_toolkit.cli import main

settings.register_profile("untimed", deadline=None)  # a busy machine is no fault; what is slow is measured elsewhere
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def place_of_meeting() -> Iterator[None]:
    """Training by several processes leaves MASTER_PORT set; who is started by the next test must not meet there."""
    before = {name: os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def hippocampus() -> Path:
    folder = shared_data() / "msd_hippocampus"
    if not folder.is_dir():
        pytest.skip("the real data is not here; set SSMTL_TEST_DATA")
    return folder


@pytest.fixture
def sunnybrook() -> Path:
    folder = shared_data() / "sunnybrook_lv"
    if not folder.is_dir():
        pytest.skip("the real data is not here; set SSMTL_TEST_DATA")
    return folder


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with four scans of 12 slices."""
    for i in range(4):
        write_scan(tmp_path / "scans" / f"p{i}.nii.gz", seed=i)
    return tmp_path / "scans"


@dataclass
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ssmtl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run the command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")

    def call(*args: object) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        out, err = capfd.readouterr()
        return Done(int(end.value.code or 0), out, err)

    return call


@pytest.fixture
def ssmtl_process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, with these environment variables."""

    def call(*args: object, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "160", **variables}
        command = [sys.executable, "-m", "ssmtl_toolkit", *map(str, args)]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=300,
        )

    return call


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a folder that all workers of this run of pytest read: the first who wants it fills it, others wait."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, whole = base / name, base / f"{name}.whole"
        with FileLock(base / f"{name}.lock"):
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                whole.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def labelled(made_once: Callable[..., Path]) -> Path:
    """Ten labelled scans of five patients, `a_pre`, `a_post`, `b_pre` …; do not write there."""

    def fill(root: Path) -> None:
        for i, patient in enumerate("abcde"):
            write_pair(root, f"{patient}_pre", seed=2 * i)
            write_pair(root, f"{patient}_post", seed=2 * i + 1)

    return made_once("labelled", fill)


@pytest.fixture(scope="session")
def pretrained(labelled: Path, made_once: Callable[..., Path]) -> Path:
    """The folder of a short pre-training on these scans, 32 x 32 pixels; do not write there."""
    from ssmtl_toolkit import pretrain

    def fill(base: Path) -> None:
        tasks = ["reconstruct_prev:t=1", "reconstruct_next:t=1"]
        options = {"data": str(labelled), "backbone": SMALL, "size": 32, "steps": 6, "tasks": tasks}
        pretrain(out=base / "run", cache=base / "cache", **options)

    return made_once("pretrained", fill) / "run"


@pytest.fixture(scope="session")
def tuned(labelled: Path, pretrained: Path, made_once: Callable[..., Path]) -> Path:
    """The folder of a short fine-tuning, with its twin from scratch and two seeds; do not write there."""
    from ssmtl_toolkit import finetune

    def fill(base: Path) -> None:
        options = {"classes": "big=10,small=20", "train_scans": 2, "slices_per_scan": 3, "test_scans": 4, "seeds": 2}
        options |= {
            "steps": 60,
            "batch_size": 4,
            "lr": 5e-3,
            "baseline": "scratch",
            "surface": False,
            "recipe": "paper",
        }
        finetune(pretrained, data=str(labelled), out=base / "run", cache=base / "cache", **options)

    return made_once("tuned", fill) / "run"


@pytest.fixture(scope="session")
def mmwhs(made_once: Callable[..., Path]) -> Path:
    """A fake MM-WHS download: 20 + 20 phantom patients with its names, values and orientations; do not write there.

    Every third pixel and second slice only, of five hearts for each modality that noise tells apart, so that it is
    quick. Odd as the real one: LA is 421 in one file, six of the MR scans were not acquired sagittally, names and
    suffixes vary, there are unlabelled test scans.
    """
    return made_once("mmwhs", write_mmwhs)


def write_mmwhs(root: Path) -> None:
    from ssmtl_datasets.phantom import make_scan

    rng = np.random.default_rng(0)
    for modality, word in (("ct", "ct"), ("mri", "mr")):
        hearts = [make_scan(i + 1, modality, seed=7) for i in range(5)]
        for i in range(20):
            made = hearts[i % 5]
            image, label = made.image[::3, ::3, ::2], made.label[::3, ::3, ::2]
            image = image + rng.normal(0, 5, image.shape)
            affine = made.affine @ np.diag([3, 3, 2, 1])
            if word == "ct" and i == 3:
                label = np.where(label == 420, 421, label)
            if word == "mr" and i in (0, 2, 5, 9, 12, 19):
                image, label = image.transpose(0, 2, 1), label.transpose(0, 2, 1)
                affine = affine[:, [0, 2, 1, 3]]
            folder = root / f"{word}_train"
            folder.mkdir(exist_ok=True)
            suffix = ".nii" if i == 1 else ".nii.gz"
            nib.save(nib.Nifti1Image(image.astype(np.int16), affine), folder / f"{word}_train_{1001 + i}_image{suffix}")
            kind = np.float32 if i == 2 else np.uint16
            nib.save(nib.Nifti1Image(label.astype(kind), affine), folder / f"{word}_train_{1001 + i}_label{suffix}")
        unlabelled = root / f"{word}_test"
        unlabelled.mkdir()
        nib.save(nib.Nifti1Image(image.astype(np.int16), affine), unlabelled / f"{word}_test_2001_image.nii.gz")

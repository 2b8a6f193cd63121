"""The run folder: its files, and who may write into it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.launch import is_first_process

BACKBONE, CONFIG, METRICS, SUMMARY, CHECKPOINTS = (
    "backbone.safetensors",
    "run.toml",
    "metrics.jsonl",
    "summary.json",
    "checkpoints",
)
SNAPSHOTS = "snapshots"
PREDICTION = "prediction.json"  # beside predictions: by which model, and which value is which class
FINETUNE, SPLIT, MODEL, SCORES, RECEIPT = (
    "finetune.toml",
    "split.json",
    "model.safetensors",
    "scores.json",
    "receipt.json",
)


def snapshot(folder: Path, epoch: int) -> Path:
    """Where a run keeps its backbone as it was after `epoch` epochs."""
    return folder / SNAPSHOTS / f"epoch-{epoch:04d}.safetensors"


@contextlib.contextmanager
def own(folder: Path, resume: bool, config: str = CONFIG) -> Iterator[None]:
    """Hold the run folder, known by its file `config`, for this process; a second run in it is refused."""
    if not is_first_process():
        yield
        return
    if resume and not (folder / config).is_file():
        raise UsageError(f"{folder}: there is no run to resume (no {config}); give the folder of an earlier run")
    if not resume and folder.is_dir() and any(p.name != ".lock" and p.suffix != ".part" for p in folder.iterdir()):
        go_on = f", or go on with that run by --resume {folder}" if (folder / config).is_file() else ""
        raise UsageError(f"{folder}: is not empty; choose another --out{go_on}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(blocking=False)
    except Timeout:
        raise SsmtlError(f"{folder}: another process is training in this folder; wait for it or stop it") from None
    except OSError as error:
        raise SsmtlError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error
    with lock:
        for part in [
            *folder.glob("*.part"),
            *folder.glob(".*.part"),
            *(folder / SNAPSHOTS).glob(".*.part"),
            *(folder / CHECKPOINTS).glob(".*.part"),
        ]:
            shutil.rmtree(part) if part.is_dir() else part.unlink()  # left by a run that was killed while writing
        yield

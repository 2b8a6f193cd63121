"""The run folder: its files, and who may write into it."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from ssmtl_toolkit.data.files import write_json
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.text import printable

BACKBONE, CONFIG, METRICS, SUMMARY, CHECKPOINTS = (
    "backbone.safetensors",
    "run.toml",
    "metrics.jsonl",
    "summary.json",
    "checkpoints",
)
SNAPSHOTS = "snapshots"
SAMPLES = "samples"  # pictures of fixed slices
CASES = "cases"  # pictures of the worst and the best test scans
BAD_STEP = "bad-step.safetensors"  # the step whose loss or gradient was not finite
HEADS = "heads.safetensors"  # the pretext tasks' own parts, as of the last step
REPORT = "report.html"
LOG, ENVIRONMENT = "log.txt", "environment.json"
BEST = "best.safetensors"  # the backbone of the step that the probe found best


FINETUNE, SPLIT, UNLABELLED, MODEL, SCORES, TRANSFER = (
    "finetune.toml",
    "split.json",
    "unlabelled.json",
    "model.safetensors",
    "scores.json",
    "transfer.json",
)
ENSEMBLE = "ensemble-{}.json"  # of an arm
FOLDS, FOLD = "splits_final.json", "fold-{}"  # of a cross-validation: the list of its folds, and the folder of one
_TODO = "choose another --out"
LOCK, HOLDER = ".lock", ".lock.json"  # who holds the folder is recorded in a file of its own: a lock's may be emptied

_FILES = (
    *(CONFIG, BACKBONE, HEADS, BEST, BAD_STEP, METRICS, SUMMARY, REPORT),
    *(FINETUNE, SPLIT, UNLABELLED, MODEL, SCORES, TRANSFER, FOLDS, HOLDER, ENVIRONMENT),
    *map(ENSEMBLE.format, ("pretrained", "scratch")),
)
_REPLACING = r"\.(?:{})\.(?:[0-9a-f]{{8}}-)?\d+-\d+\.part"  # as `disk.half_of` names them, and earlier builds did
_HALF_FILE = re.compile(
    _REPLACING.format("|".join([*map(re.escape, _FILES), r"epoch-\d{4,}\.safetensors"]))
    + r"|\.tmp[0-9A-Za-z]{6}"  # so safetensors names its own
)
_HALF_FOLDER = re.compile(r"\.step-\d{8,}\.part")
_EMPTY = re.compile(rf"\.lock|\.lock\.json|{_REPLACING.format('|'.join(map(re.escape, (CONFIG, FINETUNE, HOLDER))))}")
_REPETITION = re.compile(r"(?:pretrained|scratch)-\d+")


def dated_folder(what: str) -> Path:
    """Where a run goes for which no folder is given: runs/DATE-TIME-WHAT, numbered from 2 on if it exists."""
    first = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{what}"
    numbered = (first.with_name(f"{first.name}-{i}") for i in itertools.count(2))
    return next(folder for folder in itertools.chain([first], numbered) if not folder.exists())


def snapshot(folder: Path, epoch: int) -> Path:
    """Where a run keeps its backbone as it was after `epoch` epochs."""
    return folder / SNAPSHOTS / f"epoch-{epoch:04d}.safetensors"


def chosen_backbone(folder: Path) -> Path:
    """What others start from: the best step by the probe if there was one, else the last."""
    return folder / BEST if (folder / BEST).is_file() else folder / BACKBONE


def chosen_weights(folder: Path) -> Path:
    """The same, or, in the folder of a fine-tuning, its model.

    Raises:
        UsageError: it has several.
    """
    if any((folder / name).is_file() for name in (BACKBONE, BEST)):
        return chosen_backbone(folder)
    places = (MODEL, f"*/{MODEL}", f"{FOLD.format('*')}/*/{MODEL}")
    models = [file for place in places for file in sorted(folder.glob(place))]
    if len(models) > 1:
        raise UsageError(
            f"{printable(folder)}: holds {len(models)} fine-tuned models; give one, such as "
            f"{printable(models[0].parent)}"
        )
    return models[0] if models else chosen_backbone(folder)


_NETWORK = re.compile(
    r"nfs4?|cifs|smb\w*|lustre|gpfs|beegfs|ceph|afs|panfs|orangefs|fuse\.(sshfs|s3fs|gcsfuse|rclone|glusterfs|juicefs)"
)


def network_file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The type of the network file system that a folder is on; "": it is on none, or that is not known."""
    places = {folder.resolve(), *folder.resolve().parents}
    try:
        rows = [line.split(" ") for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    except OSError:
        return ""
    here = [(len(place), i, kind) for i, (_, place, kind, *_) in enumerate(rows) if _unescaped(place) in places]
    kind = max(here)[2] if here else ""
    return kind if _NETWORK.fullmatch(kind) else ""


def _unescaped(place: str) -> Path:
    """The path in a line of /proc/mounts."""
    return Path(place.replace("\\040", " "))


@contextlib.contextmanager
def hold_folder(folder: Path, resume: bool, config: str = CONFIG) -> Iterator[None]:
    """Hold the run folder, identified by its file `config`, for this process; a second run in it is refused.

    What a killed run left half written is removed. A folder that was created here and stays empty is removed again.

    Raises:
        UsageError: there is no run to resume, or the folder of a new one is not empty.
        SsmtlError: another process holds the folder, or it cannot be written.
    """
    created: list[Path] = []
    try:
        with writable(folder, _TODO):
            if resume or not (folder / config).is_file():  # otherwise it may be a live run: its lock knows
                _check(folder, resume, config)
            created = [place for place in (folder, *folder.parents) if not place.exists()]
            lock = _locked(folder)
    except Timeout:
        raise SsmtlError(
            f"{printable(folder)}: another process{_holder(folder)} is training in this folder; wait for it or stop it"
        ) from None
    except OSError:
        _remove_empty(created)
        raise
    try:
        with writable(folder, _TODO):
            _check(folder, resume, config)
            write_json(folder / HOLDER, {"pid": os.getpid(), "host": socket.gethostname()})
            _remove_leftovers(folder)
        yield
    finally:
        _tidy(folder, created)
        lock.release()


def tidy_finished(folder: Path) -> None:
    """Remove what a process left in the folder of a finished run that was killed right after its end."""
    if not (folder / HOLDER).exists():
        return
    with contextlib.suppress(Timeout, OSError):  # another process is ending there, or it cannot be written
        lock = _locked(folder, tries=1)
        try:
            _remove_leftovers(folder)
            (folder / HOLDER).unlink(missing_ok=True)
        finally:
            lock.release()


def _check(folder: Path, resume: bool, config: str) -> None:
    """Refuse to resume what does not exist, and to start in a folder that is in use."""
    if resume and not (folder / config).is_file():
        raise UsageError(
            f"{printable(folder)}: there is no run to resume (no {config}); give the folder of an earlier run"
        )
    if not resume and not _is_empty(folder):
        hint = f", or resume that run with --resume {printable(folder)}" if (folder / config).is_file() else ""
        raise UsageError(f"{printable(folder)}: is not empty; choose another --out{hint}")


def _is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what a killed start leaves; also true if it does not exist."""
    try:
        return all(_EMPTY.fullmatch(path.name) for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return True


def _locked(folder: Path, tries: int = 20) -> FileLock:
    """Make the folder and take its lock.

    Raises:
        Timeout: another process has it.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / LOCK)
            lock.acquire(blocking=False)
            return lock
        except (FileNotFoundError, FileExistsError, Timeout) as error:
            tries -= 1
            if not tries or (isinstance(error, Timeout) and (folder / LOCK).exists()):
                raise  # otherwise another process was just removing the folder, as its own start had failed


def _holder(folder: Path) -> str:
    """Which process holds the folder, if it is recorded."""
    try:
        holder = read_json(folder / HOLDER)
        return f" ({int(holder['pid'])} on {printable(str(holder['host']))})"
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _remove_leftovers(folder: Path) -> None:
    """Remove what a run that was killed left half written: only names that we give, only where we write."""
    repetitions = [place for place in folder.iterdir() if _REPETITION.fullmatch(place.name)]
    for place in (folder, folder / SNAPSHOTS, *(here / CHECKPOINTS for here in (folder, *repetitions)), *repetitions):
        for path in list(place.iterdir()) if place.is_dir() else ():
            if path.is_dir() and _HALF_FOLDER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file() and _HALF_FILE.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _tidy(folder: Path, created: Sequence[Path]) -> None:
    """Leave no trace of a failed start; `created` are the folders made for it, deepest first."""
    with contextlib.suppress(OSError):
        (folder / HOLDER).unlink(missing_ok=True)
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()  # held: whoever opens it from now on opens another file
            _remove_empty(created)


def _remove_empty(created: Sequence[Path]) -> None:
    for place in created:
        with contextlib.suppress(OSError):
            place.rmdir()

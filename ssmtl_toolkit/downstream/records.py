"""prediction.json: by which model, from which scan and with which options each prediction in a folder was written."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ssmtl_toolkit.config import PredictConfig, Role
from ssmtl_toolkit.data.files import digest, write_json
from ssmtl_toolkit.data.finding import PREDICTION
from ssmtl_toolkit.disk import writable
from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.text import listed, printable

_EVERY = 2.0  # seconds between two writes: what a kill loses is predicted again
_PATIENCE = 30  # seconds for another process that is writing the same file


class Record(BaseModel):
    """One prediction and what was written beside it.

    Attributes:
        model: digest of the model, or of all that predict together.
        scan: digest of the scan.
        options: those that change what is written.
        files: sha256 of each file by its name; None while they are being written.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    model: str
    scan: str = ""
    options: dict[str, Any] = {}
    files: dict[str, str] | None = None


def read_records(out: Path) -> dict[str, Record]:
    """Read the records in a folder, by the names of the predictions.

    A file without records, as version 0.1.0 wrote, makes all predictions those of an unknown model.

    Raises:
        DataError: it is damaged.
        SsmtlError: it cannot be opened.
    """
    file = out / PREDICTION
    try:
        files = read_json(file).get("files")
        if files is None:
            return {name: Record(model="") for name in _predictions(out)}
        return {name: Record.model_validate(record) for name, record in files.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise SsmtlError(_unread(file, error.strerror or str(error))) from error
    except (ValueError, AttributeError, TypeError, ValidationError) as error:
        raise DataError(_unread(file, type(error).__name__)) from error


def _unread(file: Path, reason: str) -> str:
    return (
        f"{printable(file)}: cannot be read ({reason}), so it is not known which model wrote the predictions beside "
        f"it; choose another --out, or remove them and this file"
    )


def _predictions(out: Path) -> list[str]:
    """The label maps and images in a folder, by name; what lies beside one is skipped."""
    beside = "_probabilities.nii.gz"
    names = {path.relative_to(out).as_posix() for path in out.rglob("[!.]*.nii.gz")}
    return [n for n in names if not (n.endswith(beside) and n.removesuffix(beside) + ".nii.gz" in names)]


@dataclass(frozen=True)
class Wish:
    """A prediction that is requested: its name, and all files that belong to it, below the folder."""

    name: str
    files: Sequence[str]
    scan: str


class Records:
    """The records of one call of `predict` in one folder; others may write predictions there at the same time."""

    def __init__(self, out: Path, model: str, options: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        self.out, self.model, self.options, self.about = out, model, dict(options), about
        self.before = read_records(out)
        self._mine: dict[str, Record] = {}
        self._given_up: list[str] = []
        self._waiting: list[str] = []
        self._current = ""
        self._written = 0.0  # when; 0: not yet

    def check_others(self, replaced: Sequence[str]) -> None:
        """Refuse a folder with another model's predictions, except those that will be `replaced`.

        Raises:
            UsageError: naming some of them.
        """
        others = [name for name, record in self.before.items() if record.model != self.model]
        others = [name for name in others if name not in replaced and (self.out / name).exists()]
        if others:
            known = "another model" if self.before[others[0]].model else "an unknown model (of an earlier version)"
            raise UsageError(
                f"{printable(self.out)}: holds predictions of {known} ({listed(map(printable, others), 1)}); "
                f"choose another --out"
            )

    def of_another_model(self, name: str) -> bool:
        """Whether another model is known to have written this prediction."""
        return name in self.before and self.before[name].model != self.model

    def check_beside(self, name: str, beside: Sequence[str]) -> None:
        """Refuse to overwrite a prediction whose files `beside` would stay as they are.

        Raises:
            UsageError: naming the first of them.
        """
        record = self.before.get(name)
        stale = [other for other in beside if record and (record.files is None or other in record.files)]
        for other in stale:
            if (self.out / other).exists():
                raise UsageError(
                    f"{printable(self.out / other)}: belongs to the prediction that is to be overwritten, and would "
                    f"stay as it is; request it again (--overlay, --probabilities), remove it, or choose another --out"
                )

    def done(self, wish: Wish) -> bool:
        """Whether this model has written all of `wish` from the same scan with the same options.

        Raises:
            UsageError: other content exists, which would be lost.
        """
        existing = [name for name in wish.files if (self.out / name).exists()]
        record = self.before.get(wish.name)
        if not existing or (record and record.model == self.model and record.files is None):
            return False  # nothing, or what was being written when an earlier call ended
        if record is None or record.model != self.model:
            self._refuse(
                existing[0], "was not written by this model" if record else "is not known to be from this model"
            )
        assert record is not None
        assert record.files is not None
        if record.scan != wish.scan:
            self._refuse(existing[0], "belongs to another scan, or to this one before it was changed")
        changed = [k for k, v in self.options.items() if self._as_now(record.options).get(k) != v]
        if changed:
            self._refuse(existing[0], f"was written with another --{changed[0].replace('_', '-')}")
        for name in existing:
            if record.files.get(name) != digest(self.out / name):
                self._refuse(name, "was changed since it was written, or is damaged")
        return len(existing) == len(wish.files)

    def _as_now(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a record as this version has them: those that were added since have their defaults."""
        return PredictConfig.of(options, printable(self.out / PREDICTION)).of_roles(Role.NUMBERS)

    def _refuse(self, name: str, why: str) -> None:
        raise UsageError(
            f"{printable(self.out / name)}: {why}, and --existing skip skips only what this model has written whole "
            f"from the same scan with the same options; choose another --out, or --existing overwrite"
        )

    @contextlib.contextmanager
    def kept(self, names: Sequence[str]) -> Iterator[None]:
        """While these predictions are being written, keep prediction.json true, however it ends."""
        self._waiting = list(names)
        try:
            yield
        finally:
            for name in [n for n in self._waiting if n != self._current]:
                self.gave_up(name)
            if self._mine or self._given_up:
                self._write()

    def begin(self, name: str) -> None:
        """From here on files of this prediction are written; before the first one the disk says what is to come."""
        self._current = name
        if self._written == 0:
            self._mine = {name: Record(model=self.model) for name in self._waiting}
            self._write()

    def wrote(self, wish: Wish) -> None:
        """A prediction and all that belongs to it is on the disk."""
        record = Record(model=self.model, scan=wish.scan, options=self.options)
        files = {name: digest(self.out / name) for name in wish.files}
        old = self.before.get(wish.name)
        if old and old.model_copy(update={"files": None}) == record:  # what is beside it still belongs to it
            files = {**(old.files or {}), **files}
        self._mine[wish.name] = record.model_copy(update={"files": files})
        self._waiting.remove(wish.name)
        self._current = ""
        if time.monotonic() - self._written > _EVERY:
            self._write()

    def gave_up(self, name: str) -> None:
        """Nothing was written of this prediction; what was known of it before is still true."""
        self._waiting.remove(name)
        if name in self._mine:
            del self._mine[name]
            self._given_up.append(name)

    def _write(self) -> None:
        """Put our records beside those that other processes have written meanwhile."""
        with writable(self.out, "choose another --out"):
            self.out.mkdir(parents=True, exist_ok=True)
        with _alone(self.out):
            records = read_records(self.out)
            for name in self._given_up:
                if name in records and records[name] == Record(model=self.model):  # our own announcement
                    records.pop(name)
                    records |= {name: self.before[name]} if name in self.before else {}
            merged = {name: record.model_dump() for name, record in sorted({**records, **self._mine}.items())}
            write_json(self.out / PREDICTION, {**self.about, "digest": self.model, "files": merged})
        self._written = time.monotonic()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from writing the records of this folder; if folders cannot be locked, nothing does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(10 * _PATIENCE):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
            except OSError:  # some network file systems
                break
        yield
    finally:
        os.close(descriptor)

"""Tasks of a cluster as its workers do them, and what they tell the client meanwhile."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.installed import OURS
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.progress import Progress


@dataclass(frozen=True)
class Ended:
    """How a task ended: what it returned, or why it failed; and on which worker."""

    result: Any = None
    failed: str = ""
    worker: str = ""


@dataclass(frozen=True)
class Settings:
    """What a worker must know beside the work itself.

    Attributes:
        version: of this toolkit, at the client.
        files: those of --plugin.
        topic: by which the client hears.
        alone: whether it is the only task of its process meanwhile.
    """

    version: str
    files: tuple[str, ...]
    topic: str
    alone: bool

    @classmethod
    def here(cls, topic: str, alone: bool) -> Settings:
        """Those of a client."""
        return cls(version(OURS), tuple(plugin_files()), topic, alone)


_one_at_a_time = threading.Lock()  # trainings share the random generators of their process


def do(work: bytes, settings: Settings, before: Ended | None) -> Ended:
    """Do a task after another one; an error of ours is an answer, and not tried again.

    `work` is a function with its arguments, pickled: it may need plugins that are loaded here first.
    """
    import cloudpickle
    from distributed import get_worker

    worker = str(get_worker().address)
    if before is not None and before.failed:
        return Ended(failed=before.failed, worker=before.worker)
    if settings.version != version(OURS):
        return Ended(failed=f"worker {worker} has {OURS} {version(OURS)}, not {settings.version}; install it there")
    with _one_at_a_time if settings.alone else contextlib.nullcontext():
        interrupts.number = 0  # a signal for an earlier task
        try:
            _load(settings.files)
            act, arguments = cloudpickle.loads(work)
            return Ended(act(*arguments, Telling(settings.topic)), worker=worker)
        except SsmtlError as error:
            return Ended(failed=str(error), worker=worker)


def plugin_files() -> list[str]:
    """The files that --plugin has loaded."""
    names = [plugin.name for plugin in registry().plugins if plugin.distribution == f"{plugin.name}.py"]
    return [str(sys.modules[name].__file__) for name in names]


def _load(files: Sequence[str]) -> None:
    """Load the files of --plugin, once."""
    for file in set(files) - set(plugin_files()):
        registry().add_file(Path(file))


class Telling(Progress):
    """Tells the client of a cluster what happens on a worker."""

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def note(self, text: str) -> None:
        self._tell("note", text)

    def say(self, text: str) -> None:
        self._tell("say", text)

    def _tell(self, how: str, text: str) -> None:
        from distributed import get_worker

        get_worker().log_event(self._topic, {"how": how, "text": text})


def ask_to_stop(name: str, dask_worker: Any) -> bool:
    """Let tasks whose keys begin with this name stop as after Ctrl-C; whether there are any."""
    active = any(str(key).startswith(name) for key in dask_worker.active_threads.values())
    if active:
        interrupts.number = signal.SIGINT
    return active

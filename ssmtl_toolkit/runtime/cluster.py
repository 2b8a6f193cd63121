"""Work on several processes or machines, by Dask: what `--cluster` names, and tasks that can be done again."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.foreign import in_one_line
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.on_worker import Ended, Settings, ask_to_stop, do
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.text import counted

_SCHEDULERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
"""Batch systems by what users call them, and the class of dask_jobqueue for each."""
_STARTED = re.compile(rf"(local|{'|'.join(_SCHEDULERS)})(?::([1-9][0-9]{{0,3}}))?")
_ADDRESS = re.compile(r"(tcp|tls|ucx)://\S+:[0-9]+")
NO_DASHBOARD: dict[str, Any] = {
    "dashboard_address": None,
    "scheduler_kwargs": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},  # a port of no one else
}
"""Options of Dask's LocalCluster by which it draws nothing."""
_LOOK = 0.5  # seconds between two looks at whether a signal has come
_PATIENCE = 5.0  # seconds without a worker before saying so
_TODO = "rerun the command to resume"


@dataclass(frozen=True)
class Task:
    """Work that may be done again: `act(*arguments, progress)` on a worker.

    Attributes:
        name: by which it is reported.
        after: the number of a task that must be finished first; if that fails, so does this one.
    """

    name: str
    act: Callable[..., Any]
    arguments: tuple[Any, ...]
    after: int | None = None


def check_cluster(text: str) -> str:
    """Return what `--cluster` was given, if it can be meant and its packages are installed.

    Raises:
        UsageError: not so.
    """
    started = _STARTED.fullmatch(text)
    if not (started or _ADDRESS.fullmatch(text) or text.endswith(".json")):
        raise UsageError(
            f"--cluster {text!r}: expected local:4, the address of a Dask scheduler such as tcp://host:8786, the .json "
            f"file that it wrote, or {', '.join(_SCHEDULERS)}, with :8 for so many jobs"
        )
    if text.endswith(".json") and not Path(text).is_file():
        raise UsageError(f"--cluster {text}: no such file; start dask scheduler --scheduler-file {text}")
    _imported("distributed", text)
    if started and started[1] in _SCHEDULERS:
        _imported("dask_jobqueue", text)
    return text


def _imported(package: str, text: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise UsageError(
            f"--cluster {text}: needs {package}, which is not installed: pip install 'ssmtl-toolkit[cluster]'"
        ) from error


@contextlib.contextmanager
def opened(text: str, progress: Progress) -> Iterator[Cluster]:
    """Start the workers that `--cluster` names, or connect to them; what was started here is ended afterwards.

    Raises:
        UsageError: as `check_cluster`.
        SsmtlError: the scheduler cannot be reached, or workers cannot be started.
    """
    check_cluster(text)
    distributed = _imported("distributed", text)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet())
        try:
            client = stack.enter_context(_client(distributed, text, stack))
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            raise SsmtlError(
                f"--cluster {text}: cannot be used ({in_one_line(error)}); check that its scheduler can be reached"
            ) from error
        yield Cluster(client, text, progress)


def _client(distributed: Any, text: str, stack: contextlib.ExitStack) -> Any:
    started = _STARTED.fullmatch(text)
    if started is None:
        return distributed.Client(**{"scheduler_file" if text.endswith(".json") else "address": text})
    kind, number = started[1], int(started[2] or 1)
    if kind == "local":
        cluster = distributed.LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            **NO_DASHBOARD,
        )
    else:
        cluster = getattr(_imported("dask_jobqueue", text), _SCHEDULERS[kind])()
        cluster.scale(jobs=number)
    return distributed.Client(stack.enter_context(cluster))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Dask's own log: what went wrong is said here, in one line."""
    log = logging.getLogger("distributed")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


class Cluster:
    """Workers of Dask that do tasks. Tasks of a worker that is lost are done again by another."""

    def __init__(self, client: Any, text: str, progress: Progress) -> None:
        self._client, self._text, self._progress = client, text, progress

    def run(self, tasks: Sequence[Task], ended: Callable[[int, Ended], None], *, alone: bool = False) -> None:
        """Do all tasks, and call `ended` in this thread for each by its number.

        Args:
            tasks: what to do, the most urgent first.
            ended: what it raises ends all.
            alone: one at a time in each process; if workers declare a resource `device`, only there, one for each.

        Raises:
            InterruptedRunError: a signal has come; the workers have stopped as after Ctrl-C.
            SsmtlError: the scheduler is lost.
        """
        name = f"ssmtl-{uuid.uuid4().hex}"
        arrived: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # what this thread must do
        left = set(range(len(tasks)))

        def end(i: int) -> None:
            ended(i, self._result(futures[i]))
            left.remove(i)

        self._client.subscribe_topic(name, lambda event: arrived.put(lambda: self._hear(event[1])))
        self._client.subscribe_topic("all", lambda event: arrived.put(lambda: self._hear_of_loss(event[1], name)))
        futures: list[Any] = []
        try:
            settings = Settings.here(name, alone)
            resources = {"device": 1} if alone and self._has_devices() else None
            for i, task in enumerate(tasks):
                before = None if task.after is None else futures[task.after]
                futures.append(self._submit(f"{name}-{i}", task, settings, before, resources))
                futures[i].add_done_callback(lambda _, i=i: arrived.put(lambda: end(i)))
            self._wait(arrived, left)
        except BaseException:
            self._stop(futures, name)
            raise
        finally:
            with contextlib.suppress(Exception):
                self._client.unsubscribe_topic(name)
                self._client.unsubscribe_topic("all")

    def _submit(self, key: str, task: Task, settings: Settings, before: Any, resources: dict[str, int] | None) -> Any:
        import cloudpickle

        work = cloudpickle.dumps((task.act, task.arguments))
        return self._client.submit(do, work, settings, before, key=key, pure=False, resources=resources)

    def _wait(self, arrived: queue.SimpleQueue[Callable[[], None]], left: set[int]) -> None:
        patience = time.monotonic() + _PATIENCE
        while left:
            interrupts.check(_TODO)
            try:
                arrived.get(timeout=_LOOK)()
            except queue.Empty:
                self._check_alive()
                if time.monotonic() > patience:
                    patience = self._tell_without_workers()

    def _check_alive(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise self._lost()

    def _lost(self) -> SsmtlError:
        return SsmtlError(f"--cluster {self._text}: its scheduler is lost; {_TODO}")

    def _tell_without_workers(self) -> float:
        """Note once that there is no worker; returns when to look again."""
        with contextlib.suppress(OSError):
            if not self._client.scheduler_info()["workers"]:
                self._progress.note(f"--cluster {self._text}: there is no worker yet; waiting for one")
                return math.inf
        return time.monotonic() + _PATIENCE

    def _result(self, future: Any) -> Ended:
        """How a task ended; it may have to be done again first, if the worker is lost that knows."""
        while True:
            interrupts.check(_TODO)
            self._check_alive()
            if future.cancelled():
                raise self._lost()
            try:
                ended: Ended = future.result(timeout=10 * _LOOK)
            except TimeoutError:
                continue
            except Exception as error:  # of Dask, or a fault of the task that is no error of ours
                return Ended(failed=_of_dask(error))
            return ended

    def _has_devices(self) -> bool:
        """Whether workers declare `--resources device=1`; if not, those of several threads are noted."""
        workers = self._client.scheduler_info()["workers"].values()
        declared = any("device" in worker["resources"] for worker in workers)
        if not declared and (several := sum(worker["nthreads"] > 1 for worker in workers)):
            self._progress.note(
                f"--cluster {self._text}: {counted(several, 'worker')} of several threads: each trains one row at a "
                f"time, and holds others back; start them with --nthreads 1, or with --resources device=1"
            )
        return declared

    def _hear(self, told: Mapping[str, str]) -> None:
        tell = {"note": self._progress.note, "say": self._progress.say}[told["how"]]
        tell(told["text"])

    def _hear_of_loss(self, event: Any, name: str) -> None:
        if isinstance(event, dict) and event.get("action") == "remove-worker":
            again = [key for key in event.get("processing-tasks", ()) if str(key).startswith(name)]
            if again:
                self._progress.note(f"worker {event['worker']} is lost; {counted(len(again), 'task')} of it begin anew")

    def _stop(self, futures: Sequence[Any], name: str) -> None:
        """Begin nothing more, and wait until what is being done has stopped, as after Ctrl-C."""
        with contextlib.suppress(Exception):
            self._client.cancel(list(futures))
            while any(self._client.run(ask_to_stop, name, on_error="ignore").values()):
                time.sleep(_LOOK)


def _of_dask(error: BaseException) -> str:
    """Why a task failed that did not end by itself, in one line."""
    if type(error).__name__ == "KilledWorker":
        return "every worker that did it was killed; check their memory and logs"
    if isinstance(error, ModuleNotFoundError) and error.name == "ssmtl_toolkit":
        return "the worker has no ssmtl_toolkit; install the same version there"
    return f"the worker failed with {in_one_line(error)}; its log has more"

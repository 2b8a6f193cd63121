"""The processes of a run tell each other that they are alive, how far they are, and why they leave.

Each sends a small message to all others twice a second, and not by way of torch: a collective that waits for a process
which is gone or hangs does not say for which one, and cannot be interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from lightning_fabric import Fabric
from torch import distributed

from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.foreign import explained

_BEAT = 0.5  # s between two messages
_GONE = 3.0  # s without a message, after which a process of another machine is gone if the connection broke
_GRACE = 5.0  # s that the training has to end by itself once another process is lost
_LONGEST = 1000  # characters of a text in a message


class LostRankError(SsmtlError):
    """Another process of the run failed, is gone or hangs; of those left the first one `speaks`."""

    def __init__(self, message: str, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks


class Position:
    """How far this process is in the training."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.count = 0
        self.place: Callable[[], str] = str

    def moved(self, place: Callable[[], str]) -> None:
        """Note progress; `place` tells where in the training this process is, whenever it is asked."""
        self.count, self.place = self.count + 1, place


position = Position()
"""The one of this process."""


@dataclass
class _Rank:
    """One process of the run, as last heard of.

    Attributes:
        heard: whether a message has come at all; without one nothing is expected of it.
        count: how often it has moved on in the training.
        end: why it has left; "": its work is done, None: it has not left.
        silent: seconds since its last message.
        unmoved: seconds since it has moved on.
    """

    number: int
    host: str
    pid: int
    address: tuple[str, int]
    heard: bool = False
    count: int = 0
    place: str = ""
    end: str | None = None
    silent: float = 0.0
    unmoved: float = 0.0

    def __str__(self) -> str:
        return f"rank {self.number} (process {self.pid} on {self.host}{f', {self.place}' if self.place else ''})"

    def hear(self, count: int, place: str, end: str | None) -> None:
        self.unmoved = self.unmoved if count == self.count else 0.0
        self.heard, self.silent, self.count, self.place, self.end = True, 0.0, count, place, end

    @property
    def is_here(self) -> bool:
        """Whether it is on this machine."""
        return self.host == socket.gethostname()

    def is_dead(self) -> bool:
        """Whether it is known to have ended; it may have left in peace."""
        try:
            return self.is_here and Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return Path("/proc/self/stat").exists()


@dataclass(frozen=True)
class _Problem:
    """What is wrong with which processes; `hang`: they are still there."""

    ranks: Sequence[_Rank] = ()
    text: str = ""
    hang: bool = False


@dataclass
class Heartbeat:
    """The messages of this process, and what it makes of those of the others.

    Attributes:
        seconds: how long a process may be silent, or keep all others waiting in the training.
        todo: what to do, at the end of an error.
    """

    seconds: float
    todo: str
    problem: _Problem = _Problem()
    _broken: bool = False
    _left: threading.Event = field(default_factory=threading.Event)
    _judged: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Exchange addresses, and a secret by which the messages of this run are known."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((_own_address(), 0))
        self._socket.setblocking(False)
        own = (distributed.get_rank(), socket.gethostname(), os.getpid(), self._socket.getsockname())
        everyone: list[tuple[tuple[int, str, int, tuple[str, int]], str]] = [(own, "")] * distributed.get_world_size()
        distributed.all_gather_object(everyone, (own, secrets.token_hex(8)))
        self._secret = everyone[0][1]
        self._ranks = [_Rank(*one) for one, _ in everyone]
        self._me = self._ranks[own[0]]
        self._others = [rank for rank in self._ranks if rank is not self._me]
        position.restart()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._thread.start()

    def explain(self, error: BaseException) -> LostRankError | None:
        """What another process has to do with an error of this one; waits a moment for news of the others."""
        failed = error.__cause__ if isinstance(error, SsmtlError) else error
        if not isinstance(failed, RuntimeError):  # as collectives raise
            return None
        self._broken = True
        self._judged.wait(_GONE + 2 * _BEAT)
        return LostRankError(self._message(), self._speaks()) if self.problem.text else None

    def leave(self, end: str) -> None:
        """Tell the others that this process goes, and why; "": its work is done."""
        self._left.set()
        self._thread.join()
        for _ in range(3):  # a message may be lost
            self._tell(end)
        self._socket.close()

    def _watch(self) -> None:
        """Tell and listen until this process leaves, or another one is lost."""
        before = time.monotonic()
        while not self._left.wait(_BEAT):
            now = time.monotonic()
            passed, before = min(now - before, 2 * _BEAT), now  # without the time in which this process was stopped
            self._tell(None)
            dead = [rank for rank in self._others if rank.is_dead()]
            self._listen(passed)
            self.problem = self._judge(dead)
            if self.problem.text:
                self._judged.set()
                self._end()
                return

    def _tell(self, end: str | None) -> None:
        me = self._me
        me.hear(position.count, position.place()[:_LONGEST], end and end[:_LONGEST])
        said = [self._secret, me.number, me.count, me.place, me.end]
        for rank in self._others:
            with contextlib.suppress(OSError):
                self._socket.sendto(json.dumps(said).encode(), rank.address)

    def _listen(self, passed: float) -> None:
        for rank in self._ranks:
            rank.silent += passed
            rank.unmoved += passed
        while True:
            try:
                secret, number, *said = json.loads(self._socket.recv(1 << 16))
                if secret == self._secret:
                    self._ranks[number].hear(*said)
            except BlockingIOError:
                return
            except (OSError, ValueError, TypeError):  # nothing of ours
                continue

    def _judge(self, dead: Sequence[_Rank]) -> _Problem:
        active = [rank for rank in self._others if rank.end != ""]
        if failed := [rank for rank in active if rank.end]:
            return _Problem(failed, f"{failed[0]} failed: {failed[0].end}")
        heard = [rank for rank in active if rank.heard]
        if gone := [
            rank for rank in active if rank in dead or (self._broken and rank in heard and self._is_gone(rank))
        ]:
            return _Problem(gone, f"{_named(gone)} ended without a message: killed, or out of memory")
        if silent := [rank for rank in heard if rank.silent > self.seconds]:
            return _Problem(silent, f"{_named(silent)} did not answer for {self.seconds:g} s", hang=True)
        everyone = [self._me, *heard]
        first = min(rank.count for rank in everyone)
        if len(heard) < len(self._others) or not first or any(rank.unmoved <= self.seconds for rank in everyone):
            return _Problem()
        last = [rank for rank in everyone if rank.count == first]
        return _Problem(last, f"{_named(last)} kept the others waiting for {self.seconds:g} s", hang=True)

    @staticmethod
    def _is_gone(rank: _Rank) -> bool:
        return rank.heard and not rank.is_here and rank.silent > _GONE

    def _end(self) -> None:
        """End the processes that hang, and this one if it hangs, or if its training does not end by itself."""
        if self._me in self.problem.ranks:
            self._exit()
        for rank in self.problem.ranks if self.problem.hang else ():
            if rank.is_here:
                with contextlib.suppress(OSError):
                    os.kill(rank.pid, signal.SIGKILL)
        if not self._left.wait(_GRACE):
            self._exit()

    def _exit(self) -> NoReturn:
        """End this process, whatever its main thread does."""
        if self._speaks():
            os.write(2, f"error: {self._message()}\n".encode(sys.stderr.encoding or "ascii", "backslashreplace"))
        os._exit(SsmtlError.exit_code)

    def _message(self) -> str:
        return f"{self.problem.text}; {self.todo}"

    def _speaks(self) -> bool:
        """Whether this is the first of the processes that are left."""
        left = [rank for rank in self._ranks if rank not in self.problem.ranks] or self._ranks
        return left[0] is self._me


@contextlib.contextmanager
def heartbeat(fabric: Fabric, seconds: float, todo: str) -> Iterator[None]:
    """Watch the other processes of a run in the block, and be watched by them; a run of one process does nothing.

    One that is silent for so many `seconds`, or keeps all others waiting in the training for as long, is ended by those
    on its machine; the others end with an error, to which `todo` adds what to do.

    Raises:
        LostRankError: another process failed, is gone or hangs.
    """
    if fabric.world_size == 1:
        yield
        return
    beating, end = Heartbeat(seconds, todo), ""
    try:
        yield
    except BaseException as error:
        if lost := beating.explain(error):
            raise lost from error
        end = str(error) if isinstance(error, SsmtlError) else explained(error)
        raise
    finally:
        beating.leave(end)


def _named(ranks: Sequence[_Rank]) -> str:
    return " and ".join(map(str, ranks))


def _own_address() -> str:
    """The address of this machine by which the others reach it: the one on the way to the first process."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))
        address: str = way.getsockname()[0]
        return address
    return "127.0.0.1"

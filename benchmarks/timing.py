"""Times ways of doing the same thing, and gives their ratios: what the programs about speed share.

All ways of a group take turns, round by round, in another order each time, so that a busy machine slows all alike; the
figures are medians of ratios by round, of wall and of CPU time. A reference has two turns a round: what it is "against
itself" is what chance does. A way that changes its process, or must not be changed by another, has one of its own.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

Act = Callable[[], object]

OURS = "ours"
"""The way that a title need not name."""

PROGRAM = Path(sys.argv[0]).name


class Skipped(Exception):  # noqa: N818
    """A way that cannot be measured here, and why."""


class Timing(NamedTuple):
    """Seconds; those of the CPU are of this process, with its threads and its children."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Way:
    """`make(*args)` returns what is timed; for `apart`, in a process of its own, where `make` must be importable."""

    make: Callable[..., Act]
    args: tuple[Any, ...] = ()
    apart: bool = False


@dataclass(frozen=True)
class Ratio:
    """A row of the table: how much longer a way takes than another, or for `faster`, how many times faster it is."""

    way: str
    reference: str
    target: str = ""
    faster: bool = False


@dataclass(frozen=True)
class Group:
    """Ways that take turns; in each turn a way is done `times` times, after it was done once before the first round."""

    title: str
    ways: Mapping[str, Way]
    ratios: Sequence[Ratio]
    rounds: int = 7
    times: int = 1


@dataclass(frozen=True)
class Figure:
    """A row that is not a ratio: `measure(rounds)` returns it in words."""

    title: str
    measure: Callable[[int], str]
    target: str = ""
    rounds: int = 5


@dataclass(frozen=True)
class Row:
    """What was measured; ratios are of single rounds, milliseconds are medians. `figure`: of a row without ratios."""

    what: str
    reference: str
    target: str
    program: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    itself: list[float] = field(default_factory=list)
    milliseconds: tuple[float, float] | None = None
    figure: str = ""

    def cells(self) -> list[str]:
        """As words of a table."""
        ours = (
            " and ".join(f"{number:,.{0 if number >= 100 else 2}f}" for number in self.milliseconds)
            if self.milliseconds
            else ""
        )
        ratios = [self.figure or _spread(self.wall), _spread(self.cpu), _spread(self.itself)]
        return [self.what, self.reference, *ratios, ours, self.target, self.program]


HEADER = ("what", "against", "ratio", "of CPU time", "reference against itself", "ms", "target", "program")


def scratch_folder() -> Path:
    """Make a folder that is removed when this process ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def timed(act: Act, times: int = 1) -> Timing:
    """Do it, and return the seconds that one time takes."""
    wall, cpu = time.perf_counter(), _cpu()
    for _ in range(times):
        act()
    return Timing((time.perf_counter() - wall) / times, (_cpu() - cpu) / times)


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    running = sum(map(_cpu_of, multiprocessing.active_children()))  # loader workers that stay
    return running + sum(one.ru_utime + one.ru_stime for one in used)


def _cpu_of(process: multiprocessing.Process) -> float:
    file = Path(f"/proc/{process.pid}/stat")
    if not file.is_file():
        return 0.0
    user, system = file.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def measure(group: Group, rounds: int, apart: bool = True) -> list[Row]:
    """Return a row for each ratio; if a way cannot be measured, rows that say why."""
    titles = [group.title + ("" if ratio.way == OURS else f": {ratio.way}") for ratio in group.ratios]
    try:
        taken = _taken(group, rounds, apart)
    except Skipped as why:
        pairs = zip(titles, group.ratios, strict=True)
        return [Row(title, one.reference, one.target, PROGRAM, figure=f"skipped: {why}") for title, one in pairs]
    return [_row(title, ratio, taken) for title, ratio in zip(titles, group.ratios, strict=True)]


def _taken(group: Group, rounds: int, apart: bool) -> dict[str, list[Timing]]:
    """For each way, and again for each reference, what it took round by round."""
    again = {_again(ratio.reference): ratio.reference for ratio in group.ratios}
    turns = {name: name for name in group.ways} | again
    taken: dict[str, list[Timing]] = {name: [] for name in turns}
    with ExitStack() as stack:
        turn = {name: _started(way, group.times, apart, stack) for name, way in group.ways.items()}
        for act in turn.values():
            act()
        for i in range(rounds):
            names = list(turns)[i % len(turns) :] + list(turns)[: i % len(turns)]
            for name in names:
                taken[name].append(turn[turns[name]]())
    return taken


def _again(reference: str) -> str:
    return f"{reference}, again"


def _row(what: str, ratio: Ratio, taken: Mapping[str, Sequence[Timing]]) -> Row:
    ours, theirs = taken[ratio.way], taken[ratio.reference]
    above, below = (theirs, ours) if ratio.faster else (ours, theirs)
    wall, cpu = (
        [getattr(a, kind) / max(getattr(b, kind), 1e-9) for a, b in zip(above, below, strict=True)]
        for kind in ("wall", "cpu")
    )
    itself = [a.wall / b.wall for a, b in zip(taken[_again(ratio.reference)], theirs, strict=True)]
    medians = tuple(1000 * statistics.median(one.wall for one in times) for times in (ours, theirs))
    return Row(what, ratio.reference, ratio.target, PROGRAM, wall, cpu, itself, (medians[0], medians[1]))


def _started(way: Way, times: int, apart: bool, stack: ExitStack) -> Callable[[], Timing]:
    """Make what is timed, here or in a process of its own, which ends with the stack."""
    if not (apart and way.apart):
        act = way.make(*way.args)
        return lambda: timed(act, times)
    process, pipe = _process(_serve, way, times)

    def end() -> None:
        pipe.close()
        process.join()

    def turn() -> Timing:
        answer = _received(process, pipe)
        if isinstance(answer, str):
            raise Skipped(answer)
        timing: Timing = answer
        return timing

    stack.callback(end)
    return turn


def answered(work: Callable[..., Any], *args: Any) -> Any:
    """What `work(*args)` returns in a process of its own; both must be importable.

    Raises:
        SystemExit: the process ended before it answered.
    """
    process, pipe = _process(_answer, work, args)
    answer = _received(process, pipe)
    process.join()
    return answer


def _process(serve: Callable[..., None], *args: Any) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(*args, theirs))
    process.start()
    theirs.close()  # so that there is an end to read when the process ends
    return process, ours


def _received(process: BaseProcess, pipe: Connection) -> Any:
    try:
        pipe.send(None)
        return pipe.recv()
    except (EOFError, OSError) as error:
        process.join()
        code = process.exitcode
        raise SystemExit(
            f"{PROGRAM}: a process of its own ended with code {code} before it answered; its error is above"
        ) from error


def _answer(work: Callable[..., Any], args: tuple[Any, ...], pipe: Connection) -> None:
    pipe.recv()
    pipe.send(work(*args))


def _serve(way: Way, times: int, pipe: Connection) -> None:
    """In a process of its own: do it whenever it is asked for."""
    act = None
    try:
        while True:
            pipe.recv()
            try:
                act = act or way.make(*way.args)
                pipe.send(timed(act, times))
            except Skipped as why:
                pipe.send(str(why))
    except EOFError:
        return


def machine() -> str:
    """Name what was measured on."""
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    flags = next((line.split(":")[1].split() for line in _cpuinfo() if line.startswith("flags")), [])
    bf16 = ", ".join(flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags) or "no bf16 instructions"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return (
        f"{names[0] if names else 'unknown CPU'}, {cores} cores ({bf16}), OMP_NUM_THREADS {threads}, "
        f"torch {version('torch')}, Python {sys.version.split()[0]}"
    )


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, middle, high = (f"{number:.2f}" for number in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high}, {len(values)})"


def markdown(rows: Iterable[Row]) -> str:
    """The rows as a table; in brackets the least and the largest of the rounds, and their number."""
    return table(row.cells() for row in rows)


def table(cells: Iterable[Sequence[str]]) -> str:
    """Cells of rows in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (HEADER, ["---"] * len(HEADER), *cells))


def as_json(machine: str, load: Sequence[float], rows: Iterable[Row]) -> str:
    """The same with the ratios of every round."""
    return json.dumps({"machine": machine, "load": load, "rows": [asdict(row) for row in rows]}, indent=1)


def headed(machine: str, load: Sequence[float], rows: Iterable[Row]) -> str:
    """The table below the machine, and how many processes wanted its cores while it was measured."""
    return f"{head(machine, load)}\n\n{markdown(rows)}"


def head(machine: str, load: Sequence[float]) -> str:
    """The line above a table."""
    busy = " to ".join(f"{number:.1f}" for number in sorted({min(load, default=0), max(load, default=0)}))
    return f"{machine}, load {busy}."


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all programs take."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true", help="Print JSON, with every round.")
    options.add_argument("--rounds", type=int, help="How often each way has its turn.  [default: by row]")
    options.add_argument("--quick", action="store_true", help="Try that everything runs, on the smallest sizes.")
    options.add_argument("--only", default="", help="Measure rows whose title contains this.")
    return options


def run(rows: Iterable[Group | Figure], rounds: int | None = None, *, only: str = "", apart: bool = True) -> list[Row]:
    """Measure all, and print each row to stderr as soon as it is known."""
    done: list[Row] = []
    for one in rows:
        if only in one.title:
            print(f"{one.title} …", file=sys.stderr, flush=True)
            number = rounds or one.rounds
            found = measure(one, number, apart) if isinstance(one, Group) else [_figure(one, number)]
            for row in found:
                print("  " + "; ".join(filter(None, row.cells())), file=sys.stderr, flush=True)
            done += found
    return done


def _figure(one: Figure, rounds: int) -> Row:
    try:
        return Row(one.title, "", one.target, PROGRAM, figure=one.measure(rounds))
    except Skipped as why:
        return Row(one.title, "", one.target, PROGRAM, figure=f"skipped: {why}")


def main(doc: str | None, rows: Callable[[bool], Iterable[Group | Figure]]) -> NoReturn:
    """Measure what `rows(quick)` lists, and print it."""
    given = parser(doc).parse_args()
    load = [os.getloadavg()[0]]
    done = run(rows(given.quick), 1 if given.quick else given.rounds, only=given.only, apart=not given.quick)
    load.append(os.getloadavg()[0])
    print((as_json if given.json else headed)(machine(), load, done))
    sys.exit()

"""Damages texts, small files and scans at random, and tells what a function that reads them does: a good end or not."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import resource
import signal
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from ssmtl_toolkit.errors import SsmtlError

SLOW = 2.0  # seconds
_NUMBERS = ["-1", "0", "1e400", "-1e400", "nan", "inf", "1e30", "99999999", "0.5", "1" + "0" * 30, "9" * 5000, "-0.0"]
_TOKENS = [
    *_NUMBERS,
    *(
        "",
        " ",
        ",",
        ":",
        "=",
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        "\\",
        "\n",
        "\r",
        "\t",
        "\0",
        "+",
        "*",
        "?",
        "**",
        "%s",
        "#",
    ),
    *("\x1b[31m", "\u202e", "\x9b", "\udcff", "\ufeff", "心臓", "e\u0301", "\U0001f600", "\x7f", "\u2028"),
    *("../", "/etc/passwd", "/", "~", "~nosuchuser", "a" * 300, "a/" * 3000, "hf://a/b", "https://x/y", "//", "."),
    *("true", "false", "none", "null", "auto", "all", "nan", "[" * 500, "{" * 50, '{"a":' * 200, "a." * 40 + "a"),
]
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", "x", "../x", "/etc/passwd", "/", "~nosuchuser/x", "a" * 300, "\0", "\x1b[31m", "\ud800", "\udcff", "nan"),
    *([], {}, [[]], [None], [{}], {"a": 1}, {"": []}, ["x"], [1, 2], [[1]], "1", "-1", "1e400", [0] * 1000),
]
_BYTES = [b"", b"\0", b"\xff", b"\0" * 8, b"\xff" * 8, b"\r\n", b"\x1b[31m", b"\xc3\x28", b"A" * 300]


def text(given: str, chance: random.Random) -> str:
    """The text with one to four places changed."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        start = chance.randint(0, len(given))
        end = min(len(given), start + chance.choice((0, 0, 1, 1, 3, 10, 100)))
        new = chance.choice(
            (given[start:end] * 2, "", chance.choice(_TOKENS), chance.choice(_TOKENS), chr(_point(chance)))
        )
        given = given[:start] + new + given[end:]
    return given[: chance.randint(0, len(given))] if chance.random() < 0.05 else given


def _point(chance: random.Random) -> int:
    return chance.choice((chance.randint(0, 127), chance.randint(0, 0xD7FF), chance.randint(0xD800, 0xDFFF), 0x10FFFF))


def tree(given: Any, chance: random.Random) -> Any:
    """A document with one to three values or keys changed."""
    document = copy.deepcopy(given)
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            return chance.choice(ODD)
        parent, key = chance.choice(places)
        match chance.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent[chance.choice(list(map(str, ODD[15:27])))] = parent.pop(key)
            case 2:
                other, name = chance.choice(places)
                parent[key] = copy.deepcopy(other[name]) if _has(other, name) else None
            case 3 if isinstance(parent[key], str):
                parent[key] = text(parent[key], chance)
            case _:
                parent[key] = copy.deepcopy(chance.choice(ODD))
    return document


def _has(parent: Any, key: Any) -> bool:
    return key in parent if isinstance(parent, dict) else key < len(parent)


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in list(items):
        yield document, key
        yield from _places(value)


def as_json(document: Any, chance: random.Random) -> bytes:
    """The bytes of a JSON file that says something like this."""
    written = json.dumps(tree(document, chance), ensure_ascii=chance.random() < 0.5)
    return (written if chance.random() < 0.8 else text(written, chance)).encode("utf-8", "surrogatepass")


def as_toml(document: Mapping[str, Any], chance: random.Random) -> bytes:
    """The bytes of a TOML file that says something like this."""
    try:
        changed = tree(dict(document), chance) if chance.random() < 0.7 else document
        written = tomli_w.dumps(changed)
    except (TypeError, AttributeError, ValueError):  # what TOML cannot say
        written = tomli_w.dumps(document)
    if written == tomli_w.dumps(document) or chance.random() < 0.3:
        written = text(written, chance)
    return written.encode("utf-8", "surrogatepass")


def as_lines(given: str, chance: random.Random) -> bytes:
    """The bytes of a table, such as CSV, that says something like this: cells and lines changed."""
    rows = [line.split(",") for line in given.split("\n")]
    for _ in range(chance.choice((1, 1, 2))):
        row = chance.choice(rows)
        match chance.randrange(5):
            case 0:
                row[chance.randrange(len(row))] = (
                    str(chance.choice(ODD)) if chance.random() < 0.5 else chance.choice(_TOKENS)
                )
            case 1:
                row.append(chance.choice(_TOKENS))
            case 2 if len(row) > 1:
                row.pop()
            case 3:
                rows.append(chance.choice(rows))
            case _:
                return text(given, chance).encode("utf-8", "surrogatepass")
    return "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")


def as_bytes(given: bytes, chance: random.Random, head: int = 400) -> bytes:
    """A binary file with changes, most of them within its first `head` bytes."""
    content = bytearray(given)
    for _ in range(chance.choice((1, 1, 2, 4))):
        where = chance.randrange(max(min(head, len(content)), 1) if chance.random() < 0.85 else max(len(content), 1))
        match chance.randrange(7):
            case 0:
                content[where : where + 1] = bytes(
                    [(content[where] if where < len(content) else 0) ^ (1 << chance.randrange(8))]
                )
            case 1:
                number = chance.choice((0, -1, 1, 2, 255, 32767, -32768, 2**31 - 1, -(2**31)))
                kind = "bhiq"[chance.randrange(4)]
                size = 8 * struct.calcsize(kind)
                number = max(min(number, 2 ** (size - 1) - 1), -(2 ** (size - 1)))
                new = struct.pack(chance.choice("<>") + kind, number)
                content[where : where + len(new)] = new
            case 2:
                number = chance.choice((0.0, float("nan"), float("inf"), 1e30, -1.0, 1e-30))
                new = struct.pack(chance.choice("<>") + chance.choice("fd"), number)
                content[where : where + len(new)] = new
            case 3:
                content[where : where + chance.choice((1, 4, 16, 100))] = b""
            case 4:
                content[where:where] = chance.choice(_BYTES)
            case 5:
                start = chance.randrange(max(len(content), 1))
                content[where : where + 8] = content[start : start + 8]
            case 6:
                content[where] = chance.randrange(256)
    if chance.random() < 0.1:
        del content[chance.randint(0, len(content)) :]
    return bytes(content)


class HangError(BaseException):
    """An input takes too long."""


@dataclass
class Target:
    """What is fuzzed: `make` gives a damaged input, `read` is what commands do with it."""

    name: str
    make: Callable[[random.Random], Any]
    read: Callable[[Any], object]


@dataclass
class Outcome:
    """What came of the inputs of a target: how many were used or refused, and what else happened, first input each."""

    used: int = 0
    refused: int = 0
    slowest: float = 0.0
    faults: dict[str, Any] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return f"{self.used} used, {self.refused} refused, slowest {self.slowest:.2f} s, {len(self.faults)} faults"


def fuzz(target: Target, number: int, seed: int = 0, first: int = 0, until: float = float("inf")) -> Outcome:
    """Try this many inputs; stops early after the moment `until` of time.monotonic()."""
    outcome = Outcome()
    for i in range(first, first + number):
        if time.monotonic() > until:
            break
        given = target.make(random.Random(f"{target.name} {seed} {i}"))
        began, cpu = time.process_time(), _peak()
        try:
            with _at_most(5 * SLOW):
                target.read(given)
            outcome.used += 1
        except SsmtlError:
            outcome.refused += 1
        except (Exception, HangError) as error:
            _add(outcome, f"{type(error).__name__} at {_place(error)}: {str(error)[:100]!r}", (i, given))
        took = time.process_time() - began
        outcome.slowest = max(outcome.slowest, took)
        if took > SLOW:
            _add(outcome, f"slow: {took:.1f} s", (i, given))
        if _peak() - cpu > 500:
            _add(outcome, f"memory: {_peak() - cpu} MB more", (i, given))
    return outcome


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Stop the block when it has computed for so long."""

    def stop(number: int, frame: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _add(outcome: Outcome, fault: str, given: Any) -> None:
    key = fault if not fault.startswith("slow") else "slow"
    outcome.faults.setdefault(key, (fault, given))
    outcome.times[key] += 1


def _place(error: BaseException) -> str:
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "ssmtl" in Path(frame.filename).as_posix()
    ]
    frames = [f for f in frames if "/tests/" not in f.filename] or frames
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def report(outcomes: Mapping[str, Outcome]) -> str:
    """A line for each target, and below it its faults."""
    lines: list[str] = []
    for name, outcome in outcomes.items():
        lines.append(f"{name:<20} {outcome}")
        for key, (fault, (i, given)) in outcome.faults.items():
            lines.append(f"    {outcome.times[key]} x {fault}  (input {i}: {given!r:.150})")
    total = sum(outcome.used + outcome.refused for outcome in outcomes.values())
    return "\n".join([*lines, f"{total} inputs in all"])


def choose(given: Sequence[str], mutate: Callable[[str, random.Random], str] = text) -> Callable[[random.Random], str]:
    """A `make` of a target: one of these texts, changed."""
    return lambda chance: mutate(chance.choice(given), chance)

"""The programs in our documents: every command line and every block of Python, and why some are not run.

`<!-- not run: REASON -->` stands before a block that no test runs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
"""All but CONTRIBUTING.md, which a test of its own runs from top to bottom."""

INSTEAD = {
    "make": "a test of its own looks for the target",
    "pip": "needs the network and an environment of its own",
    "git": "needs the network",
    "python3": "makes an environment",
    "python": "hours of computation; a test of its own looks for the program",
}
"""Why programs that are not ours are not run."""

_FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:^    .*\n(?:\n(?=    ))?)+", re.MULTILINE)
_REASON = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
_COMMAND = re.compile(r"^(?:ssmtl|make|pip|python3?|git|docker|conda|for) .*$", re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """A command line or a block of Python; `reason` says why it is not run, "" if it is."""

    page: Path
    line: int
    language: str
    text: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def programs(page: Path) -> Iterator[Program]:
    """What a reader of this page could run, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = [(m.start(), m[2] or "sh", m[3]) for m in _FENCED.finditer(text)]
    for start, language, body in sorted([*blocks, *((m.start(), "sh", m[0]) for m in _unfenced(text))]):
        reason = _REASON.search(text, 0, start)
        line = text.count("\n", 0, start) + 1
        told = " ".join(reason[1].split()) if reason else ""
        if language == "python":
            yield Program(page, line, language, body, told)
        elif language == "sh":
            joined = re.sub(r"\\\n\s*", "", re.sub(r"^    ", "", body, flags=re.MULTILINE))
            for command in _COMMAND.findall(joined):
                command = command.partition(" #")[0].strip()
                yield Program(page, line, language, command, told or INSTEAD.get(command.split()[0], ""))


def _unfenced(text: str) -> Iterator[re.Match[str]]:
    """Indented blocks outside of fences."""
    fences = [m.span() for m in _FENCED.finditer(text)]
    for match in _INDENTED.finditer(text):
        if not any(start <= match.start() < end for start, end in fences):
            yield match

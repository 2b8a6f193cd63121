"""Writes the package of a new plugin: templates that are code themselves, with a few words replaced in them."""

from __future__ import annotations

import builtins
import importlib.metadata
import importlib.util
import io
import keyword
import os
import re
import shlex
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssmtl_toolkit.disk import whole_folder
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.installed import OURS
from ssmtl_toolkit.registry import our_version, registry
from ssmtl_toolkit.text import printable

TEMPLATES = Path(__file__).with_name("scaffold")
"""What all kinds share, and a folder for each kind with the rest; it is the package of a plugin `my_plugin`.

A folder with a template.toml is a kind; it is not written into the package.
"""

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SHORTEST, _LONGEST = 2, 40
# Tools, folders and files that every package deals with, whether or not they are installed here.
_RESERVED = {"build", "conftest", "dist", "hatchling", "mypy", "pytest", "ruff", "runs", "src", "tests"}
_NOT_WRITTEN = {"template.toml", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


@dataclass(frozen=True)
class Kind:
    """What the template.toml of a kind of part says about the template beside it.

    Attributes:
        purpose: what the template does, to be written after a colon.
        file: where it does it.
        requirements: what it imports besides the toolkit.
        trial: a command that uses it.
    """

    purpose: str
    file: str
    requirements: Sequence[str]
    trial: str


def _described(file: Path) -> Kind:
    return Kind(**tomllib.loads(file.read_text(encoding="utf-8")))


KINDS = {file.parent.name: _described(file) for file in sorted(TEMPLATES.glob("*/template.toml"))}


@dataclass(frozen=True)
class Written:
    """The package that was written: its folder, its files in order, and the commands to continue with."""

    folder: Path
    files: list[Path]
    commands: list[str]


def write_plugin(name: str, kind: str, out: Path) -> Written:
    """Write the package `name` with a part of this kind into a new folder `out/name`, whole or not at all.

    Raises:
        UsageError: the name is not allowed, or the folder already exists.
        SsmtlError: the folder cannot be written.
    """
    check_name(name, kind)
    folder = out / name
    if not out.is_dir():
        raise UsageError(f"{printable(out)}: no such folder; create it, or choose another --out")
    if os.path.lexists(folder):
        raise UsageError(f"{printable(folder)}: already exists; choose another name or --out")
    replace = _replacer(name, kind)
    with whole_folder(folder, "choose another --out") as unfinished:
        files = [_write(file, unfinished / replace(place), replace) for place, file in templates(kind)]
    written = sorted(folder / file.relative_to(unfinished) for file in files)
    package = _package(name)
    commands = [
        f"cd {shlex.quote(str(folder))}",
        "pip install --editable '.[dev]'",
        "pytest",
        f"ssmtl plugins check {package}",
    ]
    return Written(folder, written, [*commands, replace(KINDS[kind].trial)])


def check_name(name: str, kind: str) -> None:
    """Refuse a name that no package, class or part of this kind should have.

    Raises:
        UsageError: saying which, and what to do.
    """
    if not _NAME.fullmatch(name) or not _SHORTEST <= len(name) <= _LONGEST:
        raise UsageError(
            f"{printable(name)!r} is not a plugin name: expected a letter, then letters, digits and single hyphens, "
            f"all in lower case, {_SHORTEST} to {_LONGEST} characters{_suggested(name)}"
        )
    package, class_name = _package(name), _class_name(name)
    clash = _taken(name, package) or _claimed(package, kind)
    if not clash and (keyword.iskeyword(package) or keyword.iskeyword(class_name)):
        clash = "is a Python keyword"
    if not clash and (hasattr(builtins, class_name) or class_name in _words(kind)):
        clash = f"would make a class {class_name}, which is the name of something else in the package"
    if clash:
        raise UsageError(f"{name!r} {clash}; choose another name")


def _taken(name: str, package: str) -> str:
    """Which package would be hidden or replaced by one of this name."""
    if package in sys.stdlib_module_names:
        return "is a module of Python's standard library"
    if package in _RESERVED:
        return "is the name of a tool, folder or file of every plugin"
    installed = importlib.util.find_spec(package)
    if installed is not None and installed.origin is not None:  # None: any folder of that name
        return f"is an installed package ({printable(installed.origin)})"
    try:
        return f"is an installed distribution ({name} {importlib.metadata.version(name)})"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _claimed(package: str, kind: str) -> str:
    entry = registry().entries.get((kind, package))
    return f"is already the {kind} {package!r} of {entry.plugin}" if entry else ""


def _suggested(name: str) -> str:
    """The nearest allowed name, as a question."""
    near = re.sub(r"[\s_.-]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
    return f"; did you mean {near!r}?" if _NAME.fullmatch(near) and _SHORTEST <= len(near) <= _LONGEST else ""


def _words(kind: str) -> set[str]:
    """Every name in the code of a template except its own."""
    words: set[str] = set()
    for _, file in templates(kind):
        if file.suffix == ".py":
            tokens = tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline)
            words.update(token.string for token in tokens if token.type == tokenize.NAME)
    return words - {"MyPlugin", "my_plugin"}


def _package(name: str) -> str:
    return name.replace("-", "_")


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def templates(kind: str) -> Iterator[tuple[str, Path]]:
    """The files of a package of this kind: where each goes, and where it is. Leftovers of tools are not among them."""
    for root in (TEMPLATES, TEMPLATES / kind):
        for file in sorted(root.rglob("*")):
            place = file.relative_to(root)
            other = root == TEMPLATES and place.parts[0] in KINDS
            if file.is_file() and not other and not _NOT_WRITTEN & set(place.parts):
                yield place.as_posix(), file


def _replacer(name: str, kind: str) -> Callable[[str], str]:
    """Make the function that puts this name and kind into a template's text."""
    about, package = KINDS[kind], _package(name)
    words = {
        "my-plugin": name,
        "my_plugin": package,
        "MyPlugin": _class_name(name),
        "KIND": kind,
        "PURPOSE": about.purpose,
        "FILE": about.file,
        "REQUIREMENTS": '", "'.join([*about.requirements, f"{OURS}>={our_version().partition('+')[0]}"]),
        "COMMAND": about.trial.replace("my_plugin", package),
    }
    # All at once, so that what was put in is not replaced again.
    pattern = re.compile("|".join(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])" for word in words))
    return lambda text: pattern.sub(lambda match: words[match[0]], text)


def _write(template: Path, file: Path, replace: Callable[[str], str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(replace(template.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
    return file

"""What a check is, which checks a part has, and how one is run."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias, get_args, get_origin

from pydantic import ValidationError

from ssmtl_toolkit import text as spec_text
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import HOOKS, Registry, registry
from ssmtl_toolkit.specs import DatasetSpec, Spec
from ssmtl_toolkit.text import did_you_mean

Example: TypeAlias = Path | Callable[[Path], Path | Spec | tuple[Path, Volume]]
"""What a reader or dataset is tried on: the path of a file, or a function `folder -> path` that writes one; for a
reader with `only_labels` a function `folder -> (path, scan)` that writes a label map and returns the scan that it is of
as well; for a dataset a function `folder -> spec` that writes scans below the folder and returns the dataset there."""

_FILES = ("general", *(hook.removeprefix("ssmtl_") for hook in HOOKS))
"""Where checks are: those of all parts, and those of the classes that a hook returns, in a file of its name."""


class ContractError(AssertionError):
    """A part does not keep its contract; the message says what was seen and what to fix."""


def fail(problem: str) -> NoReturn:
    """Raise `ContractError` with `problem`."""
    raise ContractError(problem)


def require(kept: bool, problem: str) -> None:
    """Raise `ContractError` with `problem` unless `kept`."""
    if not kept:
        fail(problem)


@dataclass(frozen=True)
class Bench:
    """What a check works with: the part, an empty folder, and the example, if there is one."""

    spec: Spec
    folder: Path
    example: Example | None

    def made(self) -> Path | Spec | tuple[Path, Volume]:
        """The example, written below `folder` where it is a function."""
        assert self.example is not None
        return self.example if isinstance(self.example, Path) else self.example(self.folder)


@dataclass(frozen=True)
class Check:
    """One rule: for which kind of part, what it says, and the function that raises where it is not kept."""

    kind: type[Spec]
    title: str
    function: Callable[[Bench], None]
    applies: Callable[[Any], bool]
    needs_example: bool


_CHECKS: list[Check] = []


def check(
    kind: type[Spec], title: str, *, applies: Callable[[Any], bool] = lambda spec: True, needs_example: bool = False
) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Register a check for all parts of `kind` that it applies to."""

    def register(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        _CHECKS.append(Check(kind, title, function, applies, needs_example))
        return function

    return register


@dataclass(frozen=True)
class Case:
    """One check of one part; `str(case)` names both."""

    spec: Spec
    check: Check
    example: Example | None = None

    def __str__(self) -> str:
        return f"{self.spec.kind} {self.spec}: {self.check.title}"

    def run(self) -> None:
        """Do the check.

        Raises:
            ContractError: the part does not keep it; with what was seen and what to fix.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.check.function(Bench(self.spec, Path(folder), self.example))
            except ContractError as problem:
                raise ContractError(f"{self}: {problem}") from problem.__cause__
            except (Exception, SystemExit) as error:
                first_line = next(filter(None, map(str.strip, str(error).splitlines())), "")[:300]
                at = _place(error, type(self.spec))
                raise ContractError(f"{self}: it fails{at} with {type(error).__name__}: {first_line}") from error


def _place(error: BaseException, cls: type[Spec]) -> str:
    """Where in the part's own package an error came up, as ` at package/file.py:17`; "" where it did not."""
    module = sys.modules.get(cls.__module__.partition(".")[0])
    file = getattr(module, "__file__", None)
    if file is None:  # a notebook
        return ""
    home = Path(file).parent if hasattr(module, "__path__") else Path(file)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(home)]
    return f" at {Path(frames[-1].filename).relative_to(home.parent)}:{frames[-1].lineno}" if frames else ""


def cases(*parts: str | type[Spec] | Spec, example: Example | None = None) -> list[Case]:
    """List the checks of these parts, or of everything installed that can be made without options.

    Args:
        parts: names or texts of registered parts (`my_task`, `my_task:t=2`; of equal names of several kinds all are
            meant), spec classes or specs.
        example: for readers and datasets; checks that need one are skipped without it. A dataset that is given
            with its options is its own example.

    Raises:
        UsageError: a name that nothing is registered under, or a wrong option.
    """
    found = registry()
    if not parts:
        return [case for entry in found.entries.values() for case in _cases_if_made(entry.spec)]
    listed = []
    for part in parts:
        for spec in _specs(found, part):
            written = isinstance(part, Spec) or (isinstance(part, str) and ":" in part)
            own = example is None and written and isinstance(spec, DatasetSpec)
            listed += _cases_of(spec, partial(_itself, spec) if own else example)
    return listed


def _itself(spec: Spec, folder: Path) -> Spec:
    return spec


def _cases_if_made(cls: type[Spec]) -> list[Case]:
    try:
        return _cases_of(sample_of(cls), None)
    except UsageError:  # an option or an extra is needed
        return []


def all_checks() -> list[Check]:
    """Every check there is, for all kinds of parts."""
    for file in _FILES:
        import_module(f"ssmtl_toolkit.testing.{file}")
    return _CHECKS


def _cases_of(spec: Spec, example: Example | None) -> list[Case]:
    return [
        Case(spec, rule, example)
        for rule in all_checks()
        if isinstance(spec, rule.kind) and rule.applies(spec) and not (rule.needs_example and example is None)
    ]


def _specs(found: Registry, part: str | type[Spec] | Spec) -> list[Spec]:
    if isinstance(part, Spec):
        return [part]
    if isinstance(part, type):
        return [sample_of(part)]
    name, options = spec_text.split(part)
    classes = [entry.spec for entry in found.entries.values() if entry.spec.name == name]
    if not classes:
        broken = "".join(f"\nplugin {p.name!r} of {p} did not load: {p.error}" for p in found.broken)
        known = [entry.spec.name for entry in found.entries.values()]
        near = did_you_mean(name, known)
        raise UsageError(f"nothing is registered as {name!r}{near} (known: {', '.join(known)}){broken}")
    if not options:
        return [sample_of(cls) for cls in classes]
    made, problems = list[Spec](), list[UsageError]()
    for cls in classes:  # of equal names of several kinds those are meant that have these options
        try:
            made.append(cls.parse(options))
        except UsageError as error:
            problems.append(error)
    if not made:
        raise problems[0]
    return made


def _is_choice(annotation: Any) -> bool:
    return get_origin(annotation) is Literal


def sample_of(cls: type[Spec]) -> Spec:
    """Make a spec with default options; one that is needed takes its first example, choice, or a path.

    If the defaults do not go together, options that have examples take the first of these.

    Raises:
        UsageError: an option is needed and nothing says what it may be.
    """
    needed = {name: field for name, field in cls.model_fields.items() if field.is_required()}
    values: dict[str, Any] = {}
    for name, field in needed.items():
        choices = [*(field.examples or ()), *(get_args(field.annotation) if _is_choice(field.annotation) else ())]
        if field.annotation is Path:
            choices.append(Path("scans"))
        if not choices:
            raise UsageError(
                f"{cls.kind} {cls.name!r}: option {name!r} is needed; give it, as in {cls.name}:{name}=…, or give its "
                f"Field(examples=[…])"
            )
        values[name] = choices[0]
    examples = {name: field.examples[0] for name, field in cls.model_fields.items() if field.examples}
    with contextlib.suppress(ValidationError):
        return cls.model_validate(values)
    try:
        return cls.model_validate(examples | values)
    except ValidationError as error:
        raise UsageError(f"{cls.kind} {cls.name!r}: cannot be made with {values}: {error.errors()[0]['msg']}") from None

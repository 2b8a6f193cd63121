"""Command-line options made from a configuration's fields: names, types, defaults and help are written once, there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from ssmtl_toolkit.cli.numerals import Real, Whole
from ssmtl_toolkit.cli.sections import Sectioned
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.places import PathError, user_path
from ssmtl_toolkit.specs import DatasetSpec, Spec
from ssmtl_toolkit.text import printable

if TYPE_CHECKING:
    from ssmtl_toolkit.config import Config


class PathType(click.Path):
    """A path that can exist; `~` is replaced also where the shell leaves it, as in --out=~/runs."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(user_path(value), param, ctx)
        except PathError as error:
            name = f"{max(param.opts, key=len)} " if isinstance(param, click.Option) else ""
            raise UsageError(f"{name}{error}") from None


PATH = PathType(path_type=Path)

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound="Config")


def options_of(config: type[Config], names: dict[str, str]) -> Callable[[F], F]:
    """Decorate a command with an option for each field; `names` gives those with another name on the command line.

    Options that are not given reach the command as None (or an empty tuple), so that a file's value is kept.
    """

    def decorate(function: F) -> F:
        for section, fields in reversed(list(config.sections.items())):
            for name in reversed(fields):
                option = _option(config, name, names.get(name, name))
                function = click.option(*option.pop("declared"), cls=Sectioned, section=section, **option)(function)
        return function

    return decorate


def _option(config: type[Config], name: str, flag: str) -> dict[str, Any]:
    """What `click.option` takes for one field, and the names that it declares."""
    from ssmtl_toolkit.config.base import Alone

    field, default = config.model_fields[name], config.default_text(name)
    kind = _kinds(field.annotation)
    text = f"--{flag.replace('_', '-')}"
    option: dict[str, Any] = {"declared": (text, name), "default": None}
    option["help"] = f"{field.description}  [default: {default}]" if default else field.description
    if kind == [bool]:
        return option | {"declared": (f"{text}/--no-{text[2:]}", name)}
    if alone := next((mark.value for mark in field.metadata if isinstance(mark, Alone)), None):
        return option | {"type": click.STRING, "is_flag": False, "flag_value": alone}
    if get_origin(kind[0]) is tuple and get_args(kind[0])[-1] is Ellipsis:
        return option | {"multiple": True, "metavar": "SPEC", "shell_complete": complete(_spec_kind(kind))}
    if get_origin(kind[0]) is tuple:
        return option | {"nargs": 2, "type": Real()}
    if any(isinstance(k, type) and issubclass(k, DatasetSpec) for k in kind):  # several are taken together
        return option | {"metavar": "SPEC", "shell_complete": complete("dataset"), "multiple": True}
    if spec := _spec_kind(kind):
        return option | {"metavar": "SPEC", "shell_complete": complete(spec), "type": _click_type(kind)}
    if len(kind) > 1 and get_origin(kind[0]) is Literal:  # words or a number; the configuration reads them
        return option | {"metavar": "|".join([*get_args(kind[0]), "N"])}
    return option | {"type": _click_type(kind)}


def _kinds(annotation: Any) -> list[Any]:
    """The types of a field, without None and wrappers."""
    if get_origin(annotation) in {Union, UnionType}:
        return [k for part in get_args(annotation) if part is not NoneType for k in _kinds(part)]
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _kinds(get_args(annotation)[0])
    return [annotation]


def _spec_kind(kinds: list[Any]) -> str:
    """The kind of the specs among the types of a field, also within a tuple; "": there are none."""
    within = [k for kind in kinds for part in get_args(kind) or [kind] for k in _kinds(part)]
    return next((k.kind for k in within if isinstance(k, type) and issubclass(k, Spec)), "")


def _click_type(kind: list[Any]) -> click.ParamType[Any] | None:
    if get_origin(kind[0]) is Literal:
        return click.Choice([str(choice) for choice in get_args(kind[0])])
    if kind[0] in (int, float) and str not in kind:
        return Whole() if kind[0] is int else Real()
    return PATH if kind[0] is Path else click.STRING


def complete(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Complete the names of registered specs of this kind."""

    def completed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ssmtl_toolkit.registry import registry

        names = [spec.name for spec in registry().of(Spec) if spec.kind == kind]
        return [CompletionItem(name) for name in names if re.match(re.escape(incomplete), name)]

    return completed


def complete_parts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the names of all registered parts."""
    from ssmtl_toolkit.registry import registry

    return [CompletionItem(spec.name) for spec in registry().of(Spec) if spec.name.startswith(incomplete)]


def path_option(*names: str, **how: Any) -> Callable[[F], F]:
    """Decorate a command with an option for a file or folder."""
    return click.option(*names, cls=Sectioned, section="Files", type=PATH, **how)


cache_option = path_option("--cache", help="Folder for prepared slices.  [default: user's cache]")
cluster_option = click.option(
    "--cluster",
    metavar="WHERE",
    cls=Sectioned,
    section="Machine",
    help="Use workers of Dask: local:4, tcp://HOST:8786, a scheduler file, slurm:8.  [default: this process]",
)
config_option = path_option("--config", "file", help="TOML file with options; flags override it.")


def folder_options(default: str) -> Callable[[F], F]:
    """Decorate a command that trains in a folder; `default` says how the folder is named."""

    def decorate(function: F) -> F:
        for option in (
            cache_option,
            config_option,
            path_option("--resume", help="Resume the run in this folder; auto: the one in --out, if there is one."),
            path_option("--out", help=f"Run folder.  [default: {default}]"),
        ):
            function = option(function)
        return function

    return decorate


def json_option(function: F) -> F:
    """Decorate a command that can print its result as JSON."""
    text = "Print one JSON object on stdout."
    return click.option("--json", "as_json", is_flag=True, cls=Sectioned, section="Files", help=text)(function)


AUTO = Path("auto")
"""What --resume takes to continue the run in --out if there is one: the same command can be given again and again."""


@dataclass(frozen=True)
class Place:
    """Where a command trains (None: in a new folder), and the files its options are read from, the last one first."""

    folder: Path | None
    files: Sequence[Path]
    resume: bool


def place_of(out: Path | None, resume: Path | None, file: Path | None, config: str) -> Place:
    """Read --out, --resume and --config together; `config` is the name of the file that identifies a run.

    Raises:
        UsageError: they do not go together, or there is no run to resume.
    """
    given = [file] if file else []
    if resume == AUTO:
        if out is None:
            raise UsageError("--resume auto: continues the run in --out if there is one; add --out")
        begun = _has_run(out, config)
        return Place(out, [*given, *([out / config] if begun else [])], begun)
    if resume is None:
        return Place(out, given, False)
    if out or file:
        raise UsageError("--resume continues in its own folder with its own options; omit --out and --config")
    if not _has_run(resume, config):
        raise UsageError(
            f"{printable(resume)}: there is no run to resume (no {config}); give the folder of an earlier run"
        )
    return Place(resume, [resume / config], True)


def _has_run(folder: Path, config: str) -> bool:
    """Whether this is the folder of a run, and can be accessed."""
    try:
        return (folder / config).is_file()
    except OSError:  # a name that is too long, a folder without permission
        return False


def read_options(config: type[C], flags: dict[str, Any], *files: Path | None) -> C:
    """Options from TOML files, each validated on its own and overridden by those before it and by the flags.

    Raises:
        UsageError: a file or an option is wrong.
    """
    options = {name: value for name, value in flags.items() if value is not None and value != ()}
    for file in filter(None, files):
        written = {name: value for name, value in config.read(file).items() if not config.gives_way(name, options)}
        config.of(written, str(file))
        options = {**written, **options}
    return config.of(options)

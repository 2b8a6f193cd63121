"""Command-line options made from a configuration's fields: names, types, defaults and help are written once, there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from click.shell_completion import CompletionItem
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.text import printable

F = TypeVar("F", bound=Callable[..., Any])


def options_of(config: type[BaseModel], names: dict[str, str]) -> Callable[[F], F]:
    """Decorate a command with an option for each field; `names` gives those that are called otherwise.

    Options that are not given reach the command as None (or an empty tuple), so that a file's value can stand.
    """

    def decorate(function: F) -> F:
        for name, field in reversed(config.model_fields.items()):
            function = _option(name, names.get(name, name), field)(function)
        return function

    return decorate


def _option(name: str, flag: str, field: FieldInfo) -> Callable[[F], F]:
    kind = _kinds(field.annotation)
    text = f"--{flag.replace('_', '-')}"
    help_text = f"{field.description}{_default(field)}"
    if kind == [bool]:
        return click.option(f"{text}/--no-{text[2:]}", name, default=None, help=help_text)
    if get_origin(kind[0]) is tuple and get_args(kind[0])[-1] is Ellipsis:
        return click.option(text, name, multiple=True, help=help_text, metavar="SPEC", shell_complete=_complete(flag))
    if get_origin(kind[0]) is tuple:
        return click.option(text, name, nargs=2, type=float, default=None, help=help_text)
    shell = _complete(flag) if any(isinstance(k, type) and issubclass(k, Spec) for k in kind) else None
    return click.option(
        text,
        name,
        type=_click_type(kind),
        default=None,
        help=help_text,
        metavar="SPEC" if shell else None,
        shell_complete=shell,
    )


def _kinds(annotation: Any) -> list[Any]:
    """The types of a field, without None and wrappers."""
    if get_origin(annotation) in {Union, UnionType}:
        return [k for part in get_args(annotation) if part is not NoneType for k in _kinds(part)]
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _kinds(get_args(annotation)[0])
    return [annotation]


def _click_type(kind: list[Any]) -> click.ParamType[Any] | None:
    if get_origin(kind[0]) is Literal:
        return click.Choice([str(choice) for choice in get_args(kind[0])])
    if kind[0] in (int, float):
        return click.INT if kind[0] is int else click.FLOAT
    return click.Path(path_type=Path) if kind[0] is Path else click.STRING


def _default(field: FieldInfo) -> str:
    default = field.default
    if default is None or default is False or field.is_required():
        return ""
    shown = " and ".join(default) if isinstance(default, tuple) else default
    return f"  [default: {shown}]"


def _complete(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Complete the names of registered specs of this kind."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ssmtl_toolkit.registry import registry

        wanted = {"data": "dataset", "for": "head"}.get(kind, kind)
        names = [spec.name for spec in registry().of(Spec) if spec.kind == wanted]
        return [CompletionItem(name) for name in names if re.match(re.escape(incomplete), name)]

    return complete


def resumed(folder: Path, config: str) -> Path:
    """The file with the options of the run or fine-tuning to resume, known by its name.

    Raises:
        UsageError: it is not there, or cannot be looked at.
    """
    try:
        there = (folder / config).is_file()
    except OSError:  # a name that is too long, a folder without permission
        there = False
    if not there:
        raise UsageError(
            f"{printable(folder)}: there is no run to resume (no {config}); give the folder of an earlier run"
        )
    return folder / config

"""Options of a command as keyword arguments: for `help()` and notebooks at run time, for editors as types in typed.py.

`python -m ssmtl_toolkit.config.signatures > ssmtl_toolkit/config/typed.py` writes that file anew; a test compares.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from ssmtl_toolkit import config as configurations
from ssmtl_toolkit.config import Config
from ssmtl_toolkit.specs import DatasetSpec, Spec

F = TypeVar("F", bound=Callable[..., Any])

_WIDTH = 100


def configs() -> tuple[type[Config], ...]:
    """The options of all commands that are functions too; a function itself needs only its own."""
    names = ("Run", "Finetune", "Predict", "Evaluate", "Fewshot", "Affinity")
    return tuple(getattr(configurations, f"{name}Config") for name in names)


def takes(config: type[Config]) -> Callable[[F], F]:
    """Decorate a function whose `**options` are those of a configuration: name each in its signature and docstring."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        given = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = {parameter.name for parameter in given}
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(config, name), annotation=text)
            for name, text in types_of(config).items()
            if name not in taken
        ]
        function.__signature__ = signature.replace(parameters=[*given, *options])  # type: ignore[attr-defined]
        function.__doc__ = f"{inspect.getdoc(function)}\n\nOptions:\n{_described(config)}"
        return function

    return decorate


def types_of(config: type[Config]) -> dict[str, str]:
    """The type of each option, as a caller may give it, in the order of `--help`."""
    ordered = dict.fromkeys([*(name for names in config.sections.values() for name in names), *config.model_fields])
    return {name: _type(config.model_fields[name].annotation) for name in ordered}


def source() -> str:
    """The text of typed.py."""
    lines = [
        '"""The options of the commands as types, for editors; written by `ssmtl_toolkit.config.signatures`."""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Mapping, Sequence",
        "from pathlib import Path",
        "from typing import Any, Literal, TypedDict",
        "",
        "from ssmtl_toolkit.sources import Given",
        "from ssmtl_toolkit.specs import (",
        *(f"    {name}," for name in _specs()),
        ")",
    ]
    for config in configs():
        lines += ["", "", f"class {config.__name__.removesuffix('Config')}Options(TypedDict, total=False):"]
        lines += [f'    """Options of `{config.__name__}`."""', ""]
        lines += [f"    {name}: {text}" for name, text in types_of(config).items()]
    return "\n".join(lines) + "\n"


def _specs() -> list[str]:
    texts = " ".join(text for config in configs() for text in types_of(config).values())
    return sorted({word for word in texts.replace("[", " ").replace("]", " ").split() if word.endswith("Spec")})


def _described(config: type[Config]) -> str:
    lines = []
    for name in types_of(config):
        default = config.default_text(name)
        text = f"{name}: {config.model_fields[name].description}" + (f"  [default: {default}]" if default else "")
        lines.append(textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="        "))
    return "\n".join(lines)


def _default(config: type[Config], name: str) -> Any:
    field = config.model_fields[name]
    default = field.get_default(call_default_factory=True)
    return str(default) if isinstance(default, Spec) else default


def _type(annotation: Any) -> str:
    """How a type is written, widened by what validation accepts for it."""
    return " | ".join(dict.fromkeys(_alternatives(annotation)))


def _alternatives(annotation: Any) -> Iterator[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {Union, UnionType}:
        for part in sorted(arguments, key=lambda part: part is NoneType):
            yield from _alternatives(part)
    elif hasattr(annotation, "__metadata__"):  # Annotated
        yield from _alternatives(arguments[0])
    elif origin is Literal:
        yield f"Literal[{', '.join(map(json.dumps, arguments))}]"
    elif origin is tuple and arguments[-1] is Ellipsis:
        one = _type(arguments[0])
        yield from (f"Sequence[{one}]", *one.split(" | "))
    elif origin is tuple:
        yield f"tuple[{', '.join(map(_type, arguments))}]"
    elif origin is dict:
        yield "Mapping[str, Any]"
    elif annotation is NoneType:
        yield "None"
    elif annotation is Path:
        yield from ("Path", "str")
    elif isinstance(annotation, type) and issubclass(annotation, DatasetSpec):
        yield from ("Given", "Sequence[Given]")
    elif isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation.__name__ if annotation.__module__ == Spec.__module__ else "str"
        yield "str"
    elif annotation in (int, float, bool, str):
        yield annotation.__name__
    else:  # a type that is read from text, such as a budget
        yield from ("str", "int")


if __name__ == "__main__":
    print(source(), end="")

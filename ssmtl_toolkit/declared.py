"""What spec classes say of themselves, beside their options: checked when a plugin is loaded, not when it is used."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.text import brief, printable


def check_declared(spec: type[Spec], kind: type[Spec]) -> None:
    """Refuse class attributes that are not what their `kind` says they are, such as a feature that there is not.

    Raises:
        TypeError: naming the class, the attribute, what it is and what it should be.
    """
    for name, hint in _attributes(kind):
        where = f"{spec.__qualname__}.{name}"
        if not hasattr(spec, name):
            raise TypeError(f"{where} is missing; give it {_words(hint)}")
        value = getattr(spec, name)
        if not isinstance(value, property) and not _fits(value, hint):
            raise TypeError(f"{where} must be {_words(hint)}, got {printable(brief(value))}")
    metrics = getattr(spec, "metrics", ())
    for baseline in getattr(spec, "baselines", ()):
        if not isinstance(metrics, property) and baseline not in metrics:
            raise TypeError(
                f"{spec.__qualname__}.baselines has {baseline!r}, which is not in its metrics; add it there"
            )
    if spec.kind != kind.kind:
        raise TypeError(f"{spec.__qualname__}.kind must be {kind.kind!r}, got {spec.kind!r}; leave it out")
    if spec.positional is not None and spec.positional not in spec.model_fields:
        raise TypeError(f"{spec.__qualname__}.positional must be the name of an option, got {spec.positional!r}")


@cache
def _attributes(kind: type[Spec]) -> tuple[tuple[str, Any], ...]:
    """The class attributes of a kind by their name, and the type of each."""
    hints = get_type_hints(kind)
    return tuple((name, get_args(hints[name])[0]) for name in sorted(kind.__class_vars__))


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of this type as it is; a list may stand for a tuple."""
    try:
        return bool(_adapter(hint).validate_python(value) == (tuple(value) if isinstance(value, list) else value))
    except ValidationError:
        return False


def _words(hint: Any) -> str:
    """A type in words: "a frozenset of pyramid, pooled"."""
    choices = list(_choices(hint))
    if not choices:
        return getattr(hint, "__name__", "") if isinstance(hint, type) and not get_args(hint) else str(hint)
    several = "a frozenset of " if getattr(hint, "__origin__", None) is frozenset else ""
    return f"{several}{', '.join(map(repr, choices[:-1]))} {'and' if several else 'or'} {choices[-1]!r}".strip()


def _choices(hint: Any) -> Iterator[str]:
    """The values of the literals in a type."""
    for argument in get_args(hint):
        if isinstance(argument, str):
            yield argument
        else:
            yield from _choices(argument)

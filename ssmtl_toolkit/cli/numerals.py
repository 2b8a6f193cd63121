"""Numbers on the command line: click's types, but for digits that only Python takes for a number."""

from __future__ import annotations

from typing import Any

import click

from ssmtl_toolkit.numerals import MOST, PLAIN, is_plain


class _Plain(click.ParamType[Any]):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and not is_plain(value):
            self.fail(f"{value!r} {PLAIN}", param, ctx)
        number = super().convert(value, param, ctx)
        if isinstance(number, int) and number > MOST and getattr(self, "max", None) is None:
            self.fail(f"{number} should be at most {MOST}", param, ctx)
        return number


class Whole(_Plain, type(click.INT)):  # type: ignore[misc]
    """A whole number."""


class Real(_Plain, type(click.FLOAT)):  # type: ignore[misc]
    """Any number."""


class WholeRange(_Plain, click.IntRange):
    """A whole number within bounds."""


class RealRange(_Plain, click.FloatRange):
    """A number within bounds."""

"""A page as one HTML file: style and pictures are inside, nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import itertools
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ssmtl_toolkit.reporting.charts import with_own_ids
from ssmtl_toolkit.reporting.parts import Page

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "page"


def render(page: Page) -> str:
    """Return the HTML. Texts of users are escaped; only charts, which we draw, are markup."""
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    sections, numbers = [section for section in page.sections if section.parts], itertools.count()

    def drawing(svg: str) -> str:
        return with_own_ids(svg, f"f{next(numbers)}-")

    return _environment().get_template("page.html").render(page=page, sections=sections, style=style, drawing=drawing)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["markup"] = Markup
    made.filters["uri"] = lambda data: f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return made

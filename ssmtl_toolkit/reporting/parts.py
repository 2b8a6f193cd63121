"""What a report is made of: a page of sections, and in them sentences, tables, charts and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Tone = Literal["good", "fair", "bad", "plain"]


@dataclass(frozen=True)
class Text:
    """A paragraph; `tone` puts a mark before it that does not rest on colour alone."""

    text: str
    tone: Tone = "plain"
    kind: str = "text"


@dataclass(frozen=True)
class Facts:
    """Names and values, side by side."""

    rows: Sequence[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Table:
    """Cells by rows, the first of each its name.

    Attributes:
        shades: for each cell behind the names a share of 1, drawn as its background; empty: none.
        tones: for each row a mark; empty: none.
        links: for each row where its name leads to; empty: nowhere.
        prose: whether the cells are texts, which may be folded, and not numbers.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    shades: Sequence[Sequence[float]] = ()
    tones: Sequence[Tone] = ()
    links: Sequence[str] = ()
    prose: bool = False
    kind: str = "table"


@dataclass(frozen=True)
class Chart:
    """A drawing as SVG, whose colours are those of the page; `alt` says in words what it shows."""

    title: str
    svg: str
    alt: str
    kind: str = "chart"


@dataclass(frozen=True)
class Picture:
    """A raster picture; `data` is the bytes of a PNG."""

    data: bytes
    alt: str
    caption: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Grid:
    """Pictures in rows and columns that have headings."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Picture]]]
    kind: str = "grid"


@dataclass(frozen=True)
class Gallery:
    """Pictures one after another, each with its caption."""

    caption: str
    pictures: Sequence[Picture]
    kind: str = "gallery"


@dataclass(frozen=True)
class Swatches:
    """Names beside their colours, as `#rrggbb`."""

    rows: Sequence[tuple[str, str]]
    kind: str = "swatches"


@dataclass(frozen=True)
class Code:
    """Text that is to be copied."""

    title: str
    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Folded:
    """What is shown when it is asked for."""

    title: str
    parts: Sequence[Part]
    kind: str = "folded"


Part = Text | Facts | Table | Chart | Grid | Gallery | Swatches | Code | Folded


@dataclass(frozen=True)
class Section:
    """A heading and what is below it; `id` is its address in the page."""

    id: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Page:
    """A report: `subtitle` says what it is about; `reload`: seconds after which the page loads itself anew."""

    title: str
    subtitle: str
    sections: Sequence[Section] = field(default_factory=list)
    status: str = ""
    reload: int | None = None

"""Reads a report as a browser would."""

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "br", "path", "use", "rect", "stop"}


class Read(HTMLParser):
    """What a browser would see: tags in order of opening, whether each is closed, and what is loaded."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.images: list[dict[str, str]] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        named = {key: value or "" for key, value in attributes}
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [named["id"]] if "id" in named else []
        self.loaded += [named[key] for key in ("src", "srcset", "data") if key in named]
        self.loaded += [named["href"]] if tag in {"link", "image"} else []
        self.linked += [named["href"]] if tag == "a" else []
        if tag == "img":
            self.images.append(named)
        if named.get("role") == "img":
            self.images.append({"alt": named.get("aria-label", "")})

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def check_page(file: Path) -> Read:
    """A page that is whole by itself, and accessible: raises if not."""
    assert file.stat().st_size < 5_000_000
    page = Read(file)
    assert [source[:60] for source in page.loaded if not source.startswith("data:")] == []
    assert "url(http" not in file.read_text(encoding="utf-8")
    assert "<script" not in file.read_text(encoding="utf-8")
    assert all(image["alt"].strip() for image in page.images)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.linked if link.startswith("#")} <= set(page.ids)
    return page

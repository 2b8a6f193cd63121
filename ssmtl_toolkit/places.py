"""Texts that name a place, a path or a model on a hub, where only a name is expected."""

from __future__ import annotations

import re

_PLACE = re.compile(
    r"\s*([/\\~]|\.{1,2}[/\\]|[a-z]:[/\\])|.*(://|\b(hf[-_]hub|local-dir|file):)", re.IGNORECASE | re.DOTALL
)


def names_a_place(text: str) -> bool:
    """Whether a text is a path that leaves the current folder, a URL, or a name at a hub of models.

    >>> [names_a_place(text) for text in ("/etc/x", "~/x", "../x", "https://x", "tu-hf-hub:a/b", "resnet18.a1", "1/2")]
    [True, True, True, True, True, False, False]
    """
    return _PLACE.match(text) is not None


def registered_name(text: str) -> str:
    """Return the name of a network in a library's registry, and refuse what would be looked up elsewhere.

    timm takes `hf-hub:owner/name` and `local-dir:folder` too. A spec with one could be another network tomorrow or on
    another machine, and a file that holds this spec would make whoever opens it contact that place.

    Raises:
        ValueError: it names a model on a hub or a folder.
    """
    if any(c in text for c in ":/\\"):
        raise ValueError("names a model on a hub or a folder; give the name of a network of the library itself")
    return text

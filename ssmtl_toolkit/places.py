"""Texts that name a place: a path that can exist, or a path or a model on a hub where only a name is expected."""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from pathlib import Path

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.text import clipped, printable

outside_allowed: ContextVar[bool] = ContextVar("outside_allowed", default=False)
"""Whether a dataset.json or manifest may name files outside of its folder (--allow-outside)."""

_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes; of Linux, macOS and Windows none allows more

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


class PathError(UsageError, ValueError):
    """No file can be called so. In the validator of an option it is a ValueError, and named by it."""


def user_path(text: str | os.PathLike[str]) -> Path:
    """Return the path that a user or a file names, `~` at its start replaced.

    Raises:
        PathError: it is empty, too long, holds what no name can hold, or names a user that there is not.
    """
    name = os.fspath(text)
    if not name or "\0" in name:
        raise PathError(f"{_shown(name)}: {'holds a null character' if name else 'the path is empty'}; give a path")
    try:
        path = Path(name).expanduser()
        parts = [len(os.fsencode(part)) for part in path.parts]
    except RuntimeError:
        raise PathError(f"{_shown(name)}: names the home folder of an unknown user; check the path") from None
    except UnicodeEncodeError:
        raise PathError(f"{_shown(name)}: holds what is no character; check the path") from None
    if max(parts, default=0) > _LONGEST_NAME or sum(parts) + len(parts) > _LONGEST_PATH:
        raise PathError(f"{_shown(name)}: is too long for a path of {_LONGEST_PATH} bytes, {_LONGEST_NAME} a name")
    return path


def _shown(name: str) -> str:
    return f"'{printable(clipped(name, 400))}'"

"""Texts that name a place: a path that can exist, an address elsewhere, a path where only a name is expected."""

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

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.IGNORECASE | re.DOTALL)
_KNOWN = "s3|gs|gcs|https?|abfss?|az|memory"
_CUT = re.compile(rf"({_KNOWN}):/(?=[^/])", re.IGNORECASE)  # as pathlib writes URLs
_START = rf"([a-z][a-z0-9+.-]+://|\b(?:{_KNOWN}):/)"
_USER = re.compile(rf"{_START}([^\s/'\"]*|[^\s'\"]*:[^\s'\"]*)@", re.IGNORECASE)
_QUERY = re.compile(rf"({_START}[^\s?'\"]*)\?[^\s'\"]+", re.IGNORECASE)
_IN_CONTAINERS = {"abfs", "abfss", "wasb", "wasbs"}  # what stands before the @ is no user there


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


def is_url(text: str) -> bool:
    """Whether a text is an address such as s3://bucket/scans, also with one slash, as pathlib writes it."""
    return _URL.fullmatch(_CUT.sub(r"\1://", text, count=1)) is not None


def address(text: str) -> str:
    """Return a URL in one form, without a slash at its end.

    Raises:
        UsageError: it is no address of a file or folder, or it holds a secret, as `check_secrets` says.
    """
    check_secrets(text)
    match = _URL.fullmatch(_CUT.sub(r"\1://", text, count=1))
    scheme, place = (match[1].lower(), match[2].rstrip("/")) if match else ("", "")
    if "*" in place or (scheme in ("http", "https") and "#" in place):
        raise UsageError(f"{_shown(text)}: is a pattern or a part of a page; give the address of a folder or file")
    odd = not place.isprintable() or "::" in place or not {"..", "."}.isdisjoint(place.split("/"))
    if odd or not place.strip("/"):
        raise UsageError(f"{_shown(text)}: is no address of a folder or file; write it as in s3://bucket/scans")
    return f"{scheme}://{place}"


def check_secrets(text: str) -> None:
    """Refuse URLs with a user, a password or a query, which may be a token: what is given as data is written down.

    Raises:
        UsageError: which URL, without them.
    """
    if (shown := without_secrets(text)) != text:
        raise UsageError(
            f"{_shown(shown)}: an address with a user, a password or a query (?…) would be written down with the "
            f"results; omit these, and put credentials into ~/.netrc or the settings of fsspec"
        )


def without_secrets(text: str) -> str:
    """Hide the users, passwords and queries of all URLs in a text.

    >>> without_secrets("https://me:pass@host/x and s3://b/c?X-Amz-Signature=12 and hf://me/it@main")
    'https://…@host/x and s3://b/c?… and hf://me/it@main'
    """
    return _QUERY.sub(r"\1?…", _USER.sub(_hidden, text)) if ":/" in text else text


def _hidden(match: re.Match[str]) -> str:
    if match[1].partition(":")[0].lower() in _IN_CONTAINERS and ":" not in match[2]:
        return match[0]
    return f"{match[1]}…@"

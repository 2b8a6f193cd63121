"""Foreign text (file names, header fields) made safe to print."""

from __future__ import annotations

import os


def printable(text: str | os.PathLike[str]) -> str:
    r"""Escape what a terminal would act on or could not print: control, bidi and surrogate characters.

    >>> printable("new\nline \x1b[31m \udcff 心臓.nii.gz")
    'new\\nline \\x1b[31m \\udcff 心臓.nii.gz'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in os.fspath(text))

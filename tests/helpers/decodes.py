"""How often every file is decoded, by whichever reader, while the readers themselves work as ever."""

from collections import Counter
from pathlib import Path

import pytest

from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import ReaderSpec


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count calls of `read` by the file's folder and name; `read_label` of the bundled formats calls it."""
    counts: Counter[str] = Counter()

    def counted(read):
        def reading(self, path: Path, volume: int | None = None):
            counts[f"{path.parent.name}/{path.name}"] += 1
            return read(self, path, volume)

        return reading

    for reader in registry().of(ReaderSpec):
        monkeypatch.setattr(reader, "read", counted(reader.read))
    return counts

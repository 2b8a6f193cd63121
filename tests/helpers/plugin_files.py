"""Plugins of one file, written on the spot, and their entry points."""

import importlib.metadata
from importlib.metadata import EntryPoint


class FakeDistribution(importlib.metadata.Distribution):
    """A distribution that is not installed, for entry points made on the spot."""

    def __init__(self, name):
        self._name = name

    def read_text(self, filename):
        return f"Metadata-Version: 2.1\nName: {self._name}\nVersion: 7.0\n" if filename == "METADATA" else None

    def locate_file(self, path):
        return path


def plugin(tmp_path, monkeypatch, name, body):
    """Write a one-file plugin and return its entry point."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text(body)
    return EntryPoint(name, name, "ssmtl")._for(FakeDistribution(f"dist-{name.replace('_', '-')}"))


def bundled_points():
    return [p for p in importlib.metadata.entry_points(group="ssmtl") if p.dist.name == "ssmtl-toolkit"]

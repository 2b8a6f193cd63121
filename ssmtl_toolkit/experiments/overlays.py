"""The TOML document of an experiment: read over its base, with overlays laid over it table by table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config.toml import read_toml
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.text import did_you_mean, printable

_ONE_OF = {"steps": "epochs", "epochs": "steps"}


def read_document(file: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a TOML file over its `base`."""
    if not file.is_file():
        raise UsageError(f"{printable(file)}: no such file; give the TOML file of an experiment")
    document = read_toml(file, "an experiment")
    base = document.pop("base", None)
    if base is None:
        return document
    under = file.parent / str(base)
    if under.resolve() in seen:
        raise UsageError(f"{printable(file)}: its base {base!r} leads back to itself")
    return merged(read_document(under, (*seen, file.resolve())), document, printable(file))


def merged(under: Mapping[str, Any], over: Any, where: str) -> dict[str, Any]:
    """Lay one document over another, table by table; of steps and epochs, which mean the same, the upper one wins."""
    if not isinstance(over, Mapping):
        raise UsageError(f"{where}: expected a table, got {over!r}")
    document = {k: v for k, v in under.items() if _ONE_OF.get(k) not in over or isinstance(v, Mapping)}
    for key, value in over.items():
        both = isinstance(document.get(key), dict) and isinstance(value, dict)
        document[key] = merged(document[key], value, where) if both else value
    return document


def check_rows(document: Mapping[str, Any], overlays: Sequence[Any], where: str) -> None:
    """Refuse overlays that refer to rows that do not exist, or to other data."""
    rows = document.get("rows", {})
    for overlay in overlays:
        over = overlay if isinstance(overlay, dict) else {}
        if "data" in over:
            raise UsageError(f"{where}: an overlay or --set names other data; give them with --data")
        for name in over["rows"] if isinstance(over.get("rows"), dict) else ():
            if name not in rows:
                raise UsageError(f"{where}: an overlay or --set refers to row {name!r}{did_you_mean(name, rows)}")


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return the tables that a dotted key stands for: pretrain.epochs, 10 -> {"pretrain": {"epochs": 10}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value

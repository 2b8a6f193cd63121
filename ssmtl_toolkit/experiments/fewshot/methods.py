"""The methods that are compared: tables of a TOML file, ours or a user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.experiments.definition import Table
from ssmtl_toolkit.experiments.overlays import read_document
from ssmtl_toolkit.places import user_path
from ssmtl_toolkit.text import did_you_mean, printable

BUNDLED = Path(__file__).parent / "methods.toml"


class Method(Table):
    """A way to start a fine-tuning from, and what is special about the fine-tuning."""

    name: str = Field("", description="Its name in tables.")
    backbone: str | None = Field(None, description="Its network, if it needs one of its own.")
    tasks: tuple[str, ...] = Field((), description="Pretext tasks; {t} stands for --t. None: from scratch.")
    weights: str | None = Field(None, description="Start from the encoder in this file, or package:NAME.")
    pretrain: dict[str, Any] = Field({}, description="Options of ssmtl run that differ.")
    finetune: dict[str, Any] = Field({}, description="Options of ssmtl finetune that differ.")

    @model_validator(mode="after")
    def _one_start(self) -> Method:
        if self.tasks and self.weights:
            raise ValueError("has both tasks and weights; a method starts from one of them")
        if self.pretrain and not self.tasks:
            raise ValueError("has options of pre-training but no tasks")
        return self

    @property
    def starts_fresh(self) -> bool:
        """Whether it starts from scratch."""
        return not (self.tasks or self.weights)


def read_methods(given: Sequence[str], t: int | str) -> dict[str, Method]:
    """The methods of these names, and all of these .toml files.

    Raises:
        UsageError: an unknown name, a file that cannot be read, a table that is wrong, two methods of one name.
    """
    known, chosen = bundled(t), dict[str, Method]()
    for item in given:
        own = item.lower().endswith(".toml")
        if not own and item not in known:
            raise UsageError(
                f"--method {printable(item)}: there is none of this name{did_you_mean(item, known)} (known: "
                f"{', '.join(known)}, or a .toml file with tables [methods.NAME])"
            )
        for id, method in (_read(Path(item), t) if own else {item: known[item]}).items():
            if id in chosen:
                raise UsageError(f"--method {printable(item)}: method {id!r} is given twice; give it once")
            chosen[id] = method
    if not chosen:
        raise UsageError("no method is given; give at least one --method")
    return chosen


def bundled(t: int | str) -> dict[str, Method]:
    """The methods that come with the toolkit."""
    return _read(BUNDLED, t)


def _read(file: Path, t: int | str) -> dict[str, Method]:
    document, where = read_document(file), printable(file)
    tables = document.pop("methods", None)
    if not isinstance(tables, dict) or not tables or document:
        wrong = f"has {', '.join(map(repr, document))}" if document else "has none"
        raise UsageError(f"{where}: expected tables [methods.NAME] and nothing else; it {wrong}")
    return {id: _method(id, table, t, file) for id, table in tables.items()}


def _method(id: str, table: Any, t: int | str, file: Path) -> Method:
    where = f"{printable(file)}: method {id!r}"
    if not isinstance(table, dict):
        raise UsageError(f"{where}: expected a table [methods.{id}], got {table!r}")
    try:
        method = Method.model_validate(table)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(e, where) for e in error.errors())) from None
    weights = method.weights
    if weights and not weights.startswith("package:"):
        weights = str((file.parent / user_path(weights)).absolute())
    tasks = tuple(task.replace("{t}", str(t)) for task in method.tasks)
    return method.model_copy(update={"name": method.name or id, "tasks": tasks, "weights": weights})


def _explain(error: Mapping[str, Any], where: str) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{where}: no key {key!r}{did_you_mean(key, Method.model_fields)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {key}: {message}, got {error['input']!r}" if key else f"{where} {message}"

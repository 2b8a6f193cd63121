"""Checks of what all parts have in common: text, bounds, words, and no torch at import."""

from __future__ import annotations

import difflib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from ssmtl_toolkit import text as spec_text
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.testing.case import Bench, check, fail, require

HEAVY = (
    *("lightning_fabric", "matplotlib", "monai", "nibabel", "numpy", "pydicom", "scipy", "segmentation_models_pytorch"),
    *("SimpleITK", "timm", "torch", "torchjd", "torchvision", "mlflow", "tensorboard", "trackio", "wandb"),
)
"""What no module with specs and hooks may import: `ssmtl --help` would wait for it."""


@check(Spec, "its text reads back equal, whatever the options")
def text_reads_back(bench: Bench) -> None:
    for spec in variants(bench.spec):
        for written in (str(spec), spec.full()):
            name, options = spec_text.split(written)
            try:
                again = type(spec).parse(options)
            except UsageError as error:
                fail(f"{written!r} cannot be read back ({error}); its types must read what they write")
            require(
                name == spec.name and again == spec,
                f"{written!r} reads back as {again.full()!r}, not as {spec.full()!r}; give the option a type that "
                f"pydantic writes and reads alike",
            )


@check(Spec, "what is out of bounds, unknown or not a number is refused")
def bounds_hold(bench: Bench) -> None:
    cls = type(bench.spec)
    known = {name: getattr(bench.spec, name) for name in cls.model_fields}
    _refused(cls, {**known, "no_such_option": 1}, "its model_config must keep extra='forbid'")
    for name, part in _parts(cls):
        if part.get("type") == "number":
            _refused(cls, {**known, name: float("nan")}, "its model_config must keep allow_inf_nan=False")
        for beyond in _beyond(part):
            _refused(cls, {**known, name: beyond}, "a validator must not undo the bounds of Field")


@check(Spec, "it and every option say what they are for")
def words_are_there(bench: Bench) -> None:
    cls = type(bench.spec)
    require(
        bool((cls.__doc__ or "").strip()) and cls.__doc__ != Spec.__doc__,
        f"{cls.__qualname__} has no docstring; its first line is what ssmtl plugins list shows",
    )
    silent = [name for name, field in cls.model_fields.items() if not field.description]
    require(not silent, f"no description for {', '.join(silent)}; write Field(…, description=…)")


@check(Spec, "importing it imports no torch", applies=lambda spec: type(spec).__module__ != "__main__")
def import_is_light(bench: Bench) -> None:
    module = type(bench.spec).__module__
    code = f"import sys, {module}, json; print(json.dumps(sorted({set(HEAVY)!r} & set(sys.modules))))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    require(done.returncode == 0, f"{module} cannot be imported: {(done.stderr.splitlines() or ['?'])[-1]}")
    heavy = json.loads(done.stdout.splitlines()[-1])
    require(not heavy, f"importing {module} imports {', '.join(heavy)}; import them inside build(), read() or scans()")


@check(Spec, "its class attributes are those that the toolkit reads")
def attributes_are_known(bench: Bench) -> None:
    cls = type(bench.spec)
    kind = next(base for base in cls.__mro__ if base.__dict__.get("kind") is not None)
    known = {name for base in kind.__mro__ if issubclass(base, Spec) for name in base.__annotations__}
    for base in (base for base in cls.__mro__ if issubclass(base, Spec) and base not in kind.__mro__):
        for name in set(inspect.get_annotations(base)) - known - set(cls.model_fields):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            require(not near, f"{base.__qualname__}.{name} is read by nobody; did you mean {near and near[0]!r}?")


def variants(spec: Spec) -> Iterator[Spec]:
    """The spec itself, and for each option one with another value; those that do not go together are skipped."""
    yield spec
    for name, part in _parts(type(spec)):
        for value in _others(part, getattr(spec, name)):
            try:
                yield type(spec).model_validate({**{n: getattr(spec, n) for n in type(spec).model_fields}, name: value})
            except ValidationError:
                continue


def _refused(cls: type[Spec], options: dict[str, Any], todo: str) -> None:
    wrong = list(options.items())[-1] if "no_such_option" in options else None
    try:
        made = cls.model_validate(options)
    except ValidationError:
        return
    taken = f"{wrong[0]}={wrong[1]}" if wrong else made.full()
    fail(f"{taken} is accepted; {todo}")


def _parts(cls: type[Spec]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each option with what its JSON schema says, alternatives one by one."""
    for name, field in cls.model_json_schema().get("properties", {}).items():
        for part in field.get("anyOf", [field]):
            yield name, part


def _beyond(part: dict[str, Any]) -> Iterator[float]:
    step = 1 if part.get("type") == "integer" else 1e-3
    for key, value in (("minimum", -step), ("maximum", step), ("exclusiveMinimum", 0), ("exclusiveMaximum", 0)):
        if key in part:
            yield part[key] + value


def _others(part: dict[str, Any], now: Any) -> Iterator[Any]:
    """Other values that an option may take."""
    if "enum" in part:
        yield from part["enum"]
    elif part.get("type") == "boolean":
        yield not now
    elif part.get("type") in ("integer", "number"):
        low, high = part.get("minimum", part.get("exclusiveMinimum")), part.get("maximum")
        yield from (v for v in ((now or 0) + 1 if isinstance(now, int | float) else 1, high, low) if v is not None)
        if part["type"] == "number":
            yield from (1 / 3, 1e-7)
    elif part.get("format") == "millimetres":
        yield "2.5mm"
    elif part.get("type") == "string" and "pattern" not in part and "format" not in part:
        yield from ("a word", 'a,"b"=[c]', "5", "none", "")
    elif part.get("format") == "path":
        yield "some folder/with,comma"

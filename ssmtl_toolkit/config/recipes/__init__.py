"""Recipes: how a network is fine-tuned, as TOML files of options. What one does not say is as by default."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config.toml import read_toml
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.places import user_path
from ssmtl_toolkit.text import did_you_mean, printable

DEFAULT = "strong"
"""The recipe that the defaults themselves are."""

OPTIONS = frozenset(
    {
        *("head", "augment", "sampling", "steps", "batch_size", "optimizer", "lr", "schedule", "weight_decay", "clip"),
        *("slices", "average", "pretrained_lr", "frozen_steps", "encoder_lr", "decoder_lr", "transfer", "semi"),
    }
)
"""What a recipe may set."""


def names() -> list[str]:
    """The recipes that come with the toolkit."""
    bundled = [Path(file.name).stem for file in files(__name__).iterdir() if file.name.endswith(".toml")]
    return [DEFAULT, *sorted(bundled)]


def read_recipe(given: str) -> dict[str, Any]:
    """The options of a recipe by name or path; a recipe may build on another by its key `recipe`.

    Raises:
        UsageError: there is none, it is no TOML, or it sets what is not for a recipe to set.
    """
    options, seen = dict[str, Any](), list[str]()
    name: str | None = given
    while name is not None and name != DEFAULT:
        if name in seen:
            raise UsageError(f"recipe {printable(given)}: leads back to itself through {printable(name)}")
        seen.append(name)
        own = _read(name)
        name = own.pop("recipe", None)
        if not isinstance(name, str | None):
            raise UsageError(f"recipe {printable(seen[-1])}: its `recipe` is {name!r:.100}; give a name or a path")
        options = {**own, **options}
    return options


def _read(name: str) -> dict[str, Any]:
    """The content of one file."""
    bundled = name in names()
    place = files(__name__) / f"{name}.toml" if bundled else user_path(name)
    if not place.is_file():
        known = f"known: {', '.join(names())}"
        raise UsageError(f"no recipe {printable(name)}{did_you_mean(name, names())} ({known}, or a .toml file)")
    own = read_toml(Path(str(place)), "a recipe")
    for key in own.keys() - OPTIONS - {"recipe"}:
        raise UsageError(
            f"recipe {printable(name)}: {key!r} is not for a recipe to set{did_you_mean(key, OPTIONS)} "
            f"(it may set {', '.join(sorted(OPTIONS))})"
        )
    return own

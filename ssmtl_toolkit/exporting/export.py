"""Export: trained weights in, a folder that another library opens out, compared before anybody gets it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ssmtl_toolkit.disk import whole_folder, writable
from ssmtl_toolkit.engine.export import Exported
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.exporting.opening import opened
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.results import Result
from ssmtl_toolkit.specs import ExportSpec, Spec, named
from ssmtl_toolkit.text import printable

README, USAGE = "README.md", "usage.json"


class Export(Result):
    """Weights that were written for another library."""


def export(
    source: str | os.PathLike[str],
    to: str | ExportSpec,
    /,
    *,
    out: str | Path | None = None,
    spec: type[Spec] | Sequence[type[Spec]] = (),
    progress: Progress | None = None,
) -> Export:
    """Write trained weights for another library, open them there, and compare what both compute.

    Args:
        source: run folder of a pre-training or of a fine-tuning with one repetition, one repetition's folder, or a
            file of weights.
        to: what to write for, such as `"onnx"`: an `ExportSpec` or its text.
        out: the folder to write, new or empty; by default `export/NAME` in the folder of the weights.
        spec: classes of the backbone, head or preparations that no plugin registers.
        progress: is notified of what happens, to show it.

    Raises:
        UsageError: the weights cannot be written for it, or a package is missing.
        DataError: the weights cannot be read.
        SsmtlError: what was written computes something else; nothing is left of it.
    """
    progress = progress or Progress()
    target = registry().resolve(ExportSpec, to)
    check_packages(target)
    exported = opened(Path(source), spec, progress)
    what = "backbone" if exported.head is None else "model"
    if what not in target.takes:
        other = "fine-tuned model" if what == "backbone" else "pre-trained backbone"
        raise UsageError(f"{printable(source)}: is a {_NAMES[what]}, and {target.name!r} takes a {other}; give one")
    folder = Path(out) if out else exported.folder / "export" / target.name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{printable(folder)}: already exists and is not empty; choose another --out")
    with whole_folder(folder, "choose another --out") as unfinished:
        difference = write(target, exported, unfinished, place=folder)
    place = target.publish(folder)
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    summary = {"export": str(folder), "to": str(target), "from": str(source), "what": what, "difference": difference}
    return Export(folder, {**summary, "files": files, "published": place or None})


_NAMES = {"backbone": "pre-trained backbone", "model": "fine-tuned model"}


def check_packages(target: ExportSpec) -> None:
    """Refuse a target whose packages are missing.

    Raises:
        UsageError: naming them and how they are installed.
    """
    lacking = missing_packages(target)
    if lacking:
        install = target.extra or " ".join(lacking)
        names = ", ".join(lacking)
        raise UsageError(f"export {target.name!r} needs {names}, which is not installed: pip install {install}")


def missing_packages(target: ExportSpec) -> list[str]:
    """The packages of a target that are not installed here."""
    return [package for package in target.packages if find_spec(package) is None]


def write(target: ExportSpec, exported: Exported, folder: Path, place: Path | None = None) -> float:
    """Write for `target` into the empty `folder`, with what is known in words and as data; return the difference.

    `place` is what the folder is called in errors; by default by its own name.

    Raises:
        SsmtlError: the library computes something else, or the folder cannot be written.
    """
    disk = writable(place or folder, "choose another --out", strangers=True)
    with foreign(named(target)), disk, _quiet():
        opening = target.write(exported, folder)
        (folder / USAGE).write_text(json.dumps(exported.usage, indent=2) + "\n", encoding="utf-8")
        title, _, rest = exported.card.partition("\n")
        if not (folder / README).is_file():
            (folder / README).write_text(f"{title}\n\n## Open it\n\n{opening}\n{rest}", encoding="utf-8")
        images = exported.images(3)
        pairs = [(ours.detach(), theirs.detach()) for ours, theirs in target.outputs(exported, folder, images)]
    if not pairs:
        raise SsmtlError(f"export {str(target)!r}: its outputs() compares nothing; nothing was written")
    difference = max(_difference(*pair) for pair in pairs)
    if not difference <= target.tolerance:
        raise SsmtlError(
            f"export {str(target)!r}: opened again it computes something else (differs by {difference:.1e} of the "
            f"largest output, at most {target.tolerance:g} is right); nothing was written"
        )
    return difference


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest of ours; infinite if shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inference, without the warnings of the libraries about their own doings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

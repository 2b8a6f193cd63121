"""Weights that others have written: read without running code, and put under the names of a backbone here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.features import PARTS
from ssmtl_toolkit.text import printable

PICKLED = (".pth", ".pt", ".tar", ".bin", ".ckpt")
_WRAPPED = "model."  # smp keeps timm's networks (tu-…) below this name
_LEAST = 0.5  # of a part's parameters, for names to be taken for those of this part
_COUNTER = "num_batches_tracked"  # has no effect, and some networks lack it
_DEEPEST = 3  # tables within tables in a checkpoint


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The largest table of tensors in a file, by name; pickles are read by torch with `weights_only=True`.

    Raises:
        DataError: it is none, or holds objects that could run code.
    """
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickles fail in many ways
        reason = printable(_reason(error))
        if "global" in reason.lower():
            raise DataError(
                f"{printable(file)}: holds more than tensors ({reason}), which is not loaded, as it could run code; "
                f"save its state_dict alone: torch.save(model.state_dict(), 'weights.pth')"
            ) from error
        raise DataError(f"{printable(file)}: cannot be read as weights ({reason})") from error
    tables = list(_tables(content))
    if not tables:
        raise DataError(f"{printable(file)}: holds no table of tensors; give a state_dict")
    return max(tables, key=lambda table: sum(tensor.numel() for tensor in table.values()))


def _reason(error: Exception) -> str:
    """The line of an error that says what is wrong; torch puts advice around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line.partition("WeightsUnpickler error:")[2] for line in lines if "WeightsUnpickler error:" in line]
    return (named or lines or [type(error).__name__])[0].strip()[:150]


def _tables(content: Any, depth: int = 0) -> Iterator[dict[str, Tensor]]:
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return
    table = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if table:
        yield table
    for inner in content.values():
        yield from _tables(inner, depth + 1)


@dataclass(frozen=True)
class Placed:
    """Tensors under a backbone's names, and where they were.

    Attributes:
        tensors: by the backbone's names; of those that fit.
        prefixes: for each part that was found, what stands before its names in the file.
        used: names in the file.
        summed: tensors whose input channels were changed.
    """

    tensors: Mapping[str, Tensor]
    prefixes: Mapping[str, str]
    used: frozenset[str]
    summed: tuple[str, ...]

    def odd(self, given: Mapping[str, Tensor]) -> list[str]:
        """Names in the file of what layers have there and not here, such as a bias."""
        layers = {name.rpartition(".")[0] for name in self.used}
        unused = (name for name in given if name not in self.used and not name.endswith(_COUNTER))
        return [name for name in unused if name.rpartition(".")[0] in layers]


def place(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str | None = None) -> Placed:
    """Find each part of a backbone in the tensors of a file, by names that differ in what stands before them.

    Of several copies, as a query and a key encoder, the first is taken. The first convolution is fitted to the
    channels of the images, as timm does: its weights are summed over colours, or repeated.

    Args:
        given: tensors of the file.
        wanted: the backbone's own, `encoder.…` and `decoder.…`.
        prefix: what stands before the names, `encoder.` or `decoder.` not counted; None: it is found.
    """
    tensors, prefixes, summed, used = dict[str, Tensor](), dict[str, str](), list[str](), set[str]()
    for part in PARTS:
        inner = {name.removeprefix(f"{part}."): name for name in wanted if name.startswith(f"{part}.")}
        found = _found(given, inner, wanted, part, prefix)
        if found is None:
            continue
        prefixes[part], cut = found
        for short, name in inner.items():
            source = prefixes[part] + short.removeprefix(cut)
            if source in given:
                tensors[name] = _fitted(given[source], wanted[name])
                used.add(source)
                summed += [name] if tensors[name].shape != given[source].shape else []
    return Placed(tensors, prefixes, frozenset(used), tuple(summed))


def _found(
    given: Mapping[str, Tensor],
    inner: Mapping[str, str],
    wanted: Mapping[str, Tensor],
    part: str,
    prefix: str | None,
) -> tuple[str, str] | None:
    """What stands before the part's names in the file, and what has to be cut from ours."""
    total = sum(wanted[name].numel() for name in inner.values())
    scores: dict[tuple[str, str], int] = {}
    for cut in ("", _WRAPPED):
        short = {name.removeprefix(cut): wanted[own] for name, own in inner.items() if name.startswith(cut)}
        for source, tensor in given.items():
            for start in _starts(source):
                own = short.get(source[start:])
                if own is not None and _fitted(tensor, own).shape == own.shape:
                    key = source[:start], cut
                    scores[key] = scores.get(key, 0) + own.numel()
    if prefix is not None:
        scores = {key: score for key, score in scores.items() if key[0] in (prefix, f"{prefix}{part}.")}
    if not scores:
        return None
    best = max(scores, key=lambda key: (scores[key], key[0] == f"{part}."))
    return best if scores[best] >= _LEAST * total or prefix is not None else None


def _starts(name: str) -> Iterator[int]:
    """Where the name of a tensor may begin: at its own beginning, and after each dot."""
    yield 0
    yield from (i + 1 for i, letter in enumerate(name) if letter == ".")


def _fitted(tensor: Tensor, wanted: Tensor) -> Tensor:
    """The weights, of a convolution on colours for as many channels as are wanted."""
    if tensor.ndim != 4 or tensor.shape == wanted.shape or tensor.shape[1] != 3 or wanted.ndim != 4:
        return tensor
    if tensor.shape[0] != wanted.shape[0] or tensor.shape[2:] != wanted.shape[2:]:
        return tensor
    return fitted_channels(tensor, wanted.shape[1])


def fitted_channels(weight: Tensor, channels: int) -> Tensor:
    """Weights of a first convolution on three colours for another number of channels: summed for one, else repeated.

    Repeated ones are scaled, so that equal channels give what three equal colours gave.
    """
    if channels == 1:
        return weight.float().sum(dim=1, keepdim=True).to(weight.dtype)
    repeated = weight.repeat(1, math.ceil(channels / 3), 1, 1)[:, :channels]
    return repeated * (3 / channels)

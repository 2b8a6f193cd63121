"""Our weights files: safetensors with metadata and a digest over both, verified whenever one is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssmtl_toolkit.data.files import atomic_write
from ssmtl_toolkit.documents import parse_json
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.text import printable

_FORMAT, _ABOUT, _DIGEST = "format", "ssmtl", "ssmtl_digest"
_KEYS = {_FORMAT, _ABOUT, _DIGEST}


class About(BaseModel):
    """A part of the metadata of a weights file: all keys and types are fixed, numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


A = TypeVar("A", bound=About)


@dataclass(frozen=True)
class Weights:
    """Tensors that are finite and, if the file is ours, agree with its digest.

    Attributes:
        digest: over all tensors (name, dtype, shape, bytes) and the metadata.
        text: the file's metadata, as JSON; "" for a file that is not ours.
    """

    file: Path
    tensors: Mapping[str, Tensor]
    digest: str
    text: str

    def about(self, kind: type[A]) -> A:
        """The file's metadata, every key and type checked.

        Raises:
            DataError: it is of another kind or version.
        """
        try:
            return kind.model_validate_json(self.text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(
                f"{printable(self.file)}: its metadata cannot be used ({printable(place)}: {first['msg']}); it was "
                f"written by another version of ssmtl_toolkit, or by hand: use that version or train again"
            ) from None

    def said(self) -> dict[str, Any]:
        """The same as a dict, unchecked; empty for a file that is not ours.

        Raises:
            DataError: it is not JSON.
        """
        try:
            metadata = parse_json(self.text or "{}")
        except ValueError as error:
            raise DataError(
                f"{printable(self.file)}: its metadata is not JSON ({type(error).__name__}); train again"
            ) from error
        return metadata if isinstance(metadata, dict) else {}


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, contiguous, and those that share memory (tied weights) copied."""
    kept: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        kept[name] = own.clone() if place in used else own
        used.add(place)
    return kept


def write(file: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], *, finite: bool = True) -> None:
    """Write tensors and `about`, whole or not at all; equal content gives equal bytes.

    Raises:
        SsmtlError: a tensor is not finite, and all should be.
        OSError: the disk is full or not writable.
    """
    kept = apart(tensors)
    if finite and (broken := _not_finite(kept)):
        raise SsmtlError(f"{printable(file)}: not written: {broken}; lower the learning rate and train again")
    try:
        metadata = {_FORMAT: "pt", _ABOUT: json.dumps(about, allow_nan=False)}
    except ValueError as error:  # a figure of the network's output
        raise SsmtlError(
            f"{printable(file)}: not written: the network's output is not finite; lower the learning rate and train "
            f"again"
        ) from error
    content = _ordered(save(kept, {**metadata, _DIGEST: _digest(kept, metadata)}))
    with atomic_write(file) as temporary, temporary.open("wb") as stream:
        for piece in content:
            stream.write(piece)


def read(file: Path, todo: str, *, finite: bool = True) -> Weights:
    """Read a weights file, ours or foreign.

    Args:
        file: the file.
        todo: what to give instead, for the errors.
        finite: whether all numbers must be.

    Raises:
        DataError: it is damaged, not safetensors, not finite, or ours without its digest.
    """
    try:
        with safe_open(file, "pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError, ValueError, OverflowError, MemoryError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{printable(file)}: cannot be read as safetensors ({printable(str(error))}); {todo}"
        ) from error
    saved = metadata.pop(_DIGEST, "")
    computed = _digest(tensors, metadata)
    if saved or any(key.startswith(_ABOUT) for key in metadata):
        _check_ours(file, metadata, saved, computed)
    if finite and (broken := _not_finite(tensors)):
        raise DataError(f"{printable(file)}: {broken}; the training that wrote it failed, or it is damaged: {todo}")
    return Weights(file, tensors, computed, metadata.get(_ABOUT, ""))


def _check_ours(file: Path, metadata: Mapping[str, str], saved: str, computed: str) -> None:
    if not saved:
        raise DataError(
            f"{printable(file)}: has no digest: it is damaged, changed by hand, or was written before files had one; "
            f"copy it again, write it again with ssmtl run --resume RUN (a backbone), or train again"
        )
    if saved != computed or {*metadata, _DIGEST} != _KEYS:
        raise DataError(
            f"{printable(file)}: is damaged or was changed by hand (its digest differs); copy it again or train again"
        )


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 of metadata, names, types and shapes, and then of all bytes in the order of the names."""
    kinds = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()}
    total = hashlib.sha256(json.dumps([dict(metadata), kinds], sort_keys=True).encode())
    for name in sorted(tensors):
        total.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite: none is if the least and the largest are not, an eighth of the time."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not (tensor.is_floating_point() and tensor.numel()):
        return True
    ends = (tensor.float() if tensor.element_size() == 1 else tensor).aminmax()
    return bool(torch.isfinite(torch.stack(ends)).all())


def _not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Name the tensors with a NaN or an infinity, or return ""."""
    wrong = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if not wrong:
        return ""
    return f"{len(wrong)} of {len(tensors)} tensors hold NaN or infinite numbers, such as {printable(wrong[0])}"


def _ordered(content: bytes) -> tuple[bytes, ...]:
    """The same file with the keys of its header in order; safetensors writes its metadata in random order."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little"), header, memoryview(content)[end:]  # type: ignore[return-value]

"""What a trainer takes of parts that it calls: checks of each step that wait for no device."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from operator import index

import torch
from torch import Tensor

from ssmtl_toolkit.engine.step import Batch, SharedEncoder, TaskOutput
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.foreign import foreign, words_of
from ssmtl_toolkit.specs import TaskSpec, named
from ssmtl_toolkit.text import brief, printable

_MOST_PAIRS = 2**53  # up to there a float is exact
_FARTHEST = 2**31  # slices


def companions_of(task: TaskSpec, spacing: float) -> Mapping[str, Sequence[int]]:
    """The candidate offsets of a task's companions, in slices, by their names.

    Raises:
        SsmtlError: naming the task, with what it gave.
    """
    asked = f"{named(task)}, asked for its companions at {spacing:g} mm,"
    with foreign(asked):
        companions = task.companions(spacing)
    if not isinstance(companions, Mapping):
        raise SsmtlError(f"{asked} gives {described(companions)}; give names with offsets, such as {{'next': (2,)}}")
    return {str(name): _offsets(offsets, f"{asked} gives {name!r} the") for name, offsets in companions.items()}


def _offsets(offsets: object, what: str) -> tuple[int, ...]:
    if not isinstance(offsets, Collection) or isinstance(offsets, str | bytes):
        raise SsmtlError(f"{what} offsets {described(offsets)}; give a tuple of whole numbers, such as (-2, 2)")
    try:
        whole = tuple(index(offset) for offset in offsets)
    except TypeError:
        raise SsmtlError(f"{what} offsets {printable(brief(offsets))}; give whole numbers of slices") from None
    if any(abs(offset) > _FARTHEST for offset in whole):
        raise SsmtlError(f"{what} offsets {printable(brief(offsets))}; no scan has that many slices")
    return whole


def check_loss(part: str, loss: object, like: Tensor, *, trained: bool = True) -> None:
    """Refuse a loss that cannot be descended; `like` is on the device where it should be, `trained` if it should be.

    Raises:
        SsmtlError: naming the part, with what it gave.
    """
    if not isinstance(loss, Tensor) or loss.ndim or not loss.is_floating_point():
        raise SsmtlError(f"{part}: its loss is {described(loss)}; give a scalar tensor of real numbers, such as a mean")
    if loss.device != like.device:
        raise SsmtlError(f"{part}: its loss is on {loss.device}, the batch on {like.device}; keep it there")
    if trained and torch.is_grad_enabled() and not loss.requires_grad:
        raise SsmtlError(f"{part}: its loss has no gradient; do not detach it, nor make it by .item()")


def check_factors(part: str, factors: object, labels: Collection[str]) -> None:
    """Refuse what a balancer must not say of what it multiplied losses by.

    Raises:
        SsmtlError: naming the balancer, with what it gave.
    """
    if not isinstance(factors, Mapping):
        raise SsmtlError(f"{part}: its factors are {described(factors)}; give numbers by the labels of the losses")
    for label, value in factors.items():
        if label not in labels:
            raise SsmtlError(f"{part}: its factors have {label!r}, which is no label of a loss ({', '.join(labels)})")
        number = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
        if not number:
            raise SsmtlError(f"{part}: its factor of {label!r} is {described(value)}; give one number")


def check_maps(part: str, maps: object, image: Tensor, number: int | None) -> None:
    """Refuse what a head must not give for slices (N, C, H, W); `number` of maps, None: any.

    Raises:
        SsmtlError: naming the head, with what it gave.
    """
    number = number or (maps.shape[1] if isinstance(maps, Tensor) and maps.ndim > 1 else 1)
    wanted = (len(image), number, *image.shape[2:])
    if not isinstance(maps, Tensor) or tuple(maps.shape) != wanted or not maps.is_floating_point():
        raise SsmtlError(f"{part}: its forward gives {described(maps)}; give real numbers of shape {wanted}")


def check_output(part: str, output: object, like: Tensor, *, trained: bool = True) -> TaskOutput:
    """Refuse what a task must not give for a batch.

    Raises:
        SsmtlError: naming the task, with what it gave.
    """
    if not isinstance(output, TaskOutput):
        given = type(output).__name__
        raise SsmtlError(f"{part}: its forward gives {given}; give TaskOutput(loss, metrics, pairs)")
    loss, metrics, pairs = output
    check_loss(part, loss, like, trained=trained)
    if not isinstance(metrics, Mapping):
        raise SsmtlError(f"{part}: its metrics are {described(metrics)}; give scalar tensors by name")
    for name, value in metrics.items():
        if not isinstance(value, Tensor) or value.ndim or value.is_complex() or value.device != like.device:
            raise SsmtlError(
                f"{part}: its metric {name!r} is {described(value)}; give a scalar tensor on {like.device}"
            )
    if not isinstance(pairs, int) or isinstance(pairs, bool) or not 0 <= pairs <= _MOST_PAIRS:
        raise SsmtlError(f"{part}: its pairs are {described(pairs)}; give the number that the loss is a mean over")
    return output


def described(value: object) -> str:
    """A value as errors show it: the shape, type and device of a tensor, what it is otherwise."""
    if isinstance(value, Tensor):
        shape = f"shape {tuple(value.shape)}" if value.ndim else "a scalar"
        return f"a tensor ({shape}, {str(value.dtype).removeprefix('torch.')}, on {value.device})"
    kind = printable(type(value).__name__)
    if type(value) is int and abs(value) > _MOST_PAIRS:
        return f"a number of {value.bit_length()} bits (int)"
    text = repr(value) if type(value) in (str, bool, int, float, complex, type(None)) else ""
    return f"{text[:40]} ({kind})" if text else f"a {kind}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this says that there is not enough memory, of the GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in words_of(error)


class Untouched:
    """Notices that a task writes into what it shares with others: the batch, and features that are made already.

    In a `thorough` look values are compared with a copy: torch's counter of changes knows nothing of those through
    numpy or `.data`.
    """

    def __init__(self, batch: Batch, encode: SharedEncoder, *, thorough: bool = False) -> None:
        self._batch, self._encode = batch, encode
        self._versions: dict[int, int] = {}
        self._copies: dict[int, Tensor] | None = {} if thorough else None
        for _, tensor in self._tensors():
            self._remember(tensor)

    def check(self, part: str) -> None:
        """Refuse what was written since the last check.

        Raises:
            SsmtlError: naming the task, and into what it wrote.
        """
        for name, tensor in self._tensors():
            if id(tensor) not in self._versions:
                self._remember(tensor)
            elif self._is_changed(tensor):
                raise SsmtlError(
                    f"{part}: writes into {name}, which other tasks read; make a copy first, such as tensor.clone()"
                )

    def _remember(self, tensor: Tensor) -> None:
        self._versions[id(tensor)] = tensor._version
        if self._copies is not None:
            self._copies[id(tensor)] = tensor.detach().clone()

    def _is_changed(self, tensor: Tensor) -> bool:
        if tensor._version != self._versions[id(tensor)]:
            return True
        return self._copies is not None and not _same(tensor.detach(), self._copies[id(tensor)])

    def _tensors(self) -> list[tuple[str, Tensor]]:
        batch = self._batch
        companions = [one.image for by_name in batch.companions.values() for one in by_name.values()]
        named = [("slices of the batch", tensor) for tensor in (batch.anchor, batch.clean, *companions)]
        named += [(f"position.{name}", tensor) for name, tensor in vars(batch.position).items()]
        named += [("features", tensor) for tensor in self._encode.made()]
        return [(name, tensor) for name, tensor in named if not tensor.is_inference()]


def _same(tensor: Tensor, copy: Tensor) -> bool:
    """Whether values are the same; NaN is."""
    if torch.equal(tensor, copy):
        return True
    return tensor.shape == copy.shape and bool(((tensor == copy) | (tensor != tensor) & (copy != copy)).all())

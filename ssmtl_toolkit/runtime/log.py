"""Means over the steps between two lines of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.errors import SsmtlError

_TAKEN = {"loss", "pairs"}  # what is logged of every task


class RunningMeans:
    """Sums losses and metrics on the device, weighted by pairs, so that a step waits for nothing."""

    def __init__(
        self,
        metrics: Mapping[str, Sequence[str]],
        reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
        called: Callable[[str], str] = lambda label: f"task {label!r}",
    ) -> None:
        """`metrics` names what each label logs beside its loss: all ranks sum up the same things in one order.

        `called` says what errors call a label.
        """
        self._reduce, self._called, self._metrics = reduce, called, metrics
        for label, names in metrics.items():
            if taken := set(names) & _TAKEN:
                raise SsmtlError(f"{called(label)} lists the metric {min(taken)!r}, which every task has; rename it")
        self._names = [f"{label}/{name}" for label, names in metrics.items() for name in ("loss", *names)]
        self._sums: dict[str, Tensor] = {}
        self._pairs = dict.fromkeys(metrics, 0)

    def add(self, outputs: Mapping[str, TaskOutput]) -> None:
        """Add the outputs of one batch."""
        for label, output in outputs.items():
            if unknown := next((name for name in output.metrics if name not in self._metrics[label]), None):
                raise SsmtlError(
                    f"{self._called(label)} returns a metric {unknown!r} that its spec does not list in `metrics`; "
                    f"list it there"
                )
            self._pairs[label] += output.pairs
            for name, value in (("loss", output.loss), *output.metrics.items()):
                key = f"{label}/{name}"
                weighted = value.detach().float() * output.pairs
                self._sums[key] = self._sums[key] + weighted if key in self._sums else weighted

    def means(self) -> dict[str, float]:
        """Return `label/metric` -> mean over the pairs of all ranks and `label/pairs` -> their number; then reset."""
        if not self._sums:
            return {}
        zero = torch.zeros_like(next(iter(self._sums.values())))
        sums = torch.stack([self._sums.get(name, zero) for name in self._names])
        counts = torch.tensor([float(number) for number in self._pairs.values()])
        reduced = self._reduce(torch.cat([sums, counts.to(sums)])).tolist()
        pairs = dict(zip(self._pairs, reduced[len(self._names) :], strict=True))
        means = {f"{label}/pairs": number for label, number in pairs.items()}
        for name, total in zip(self._names, reduced, strict=False):
            number = pairs[name.rpartition("/")[0]]
            if number:
                means[name] = total / number
        self._sums, self._pairs = {}, dict.fromkeys(self._pairs, 0)
        return means

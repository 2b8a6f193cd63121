"""Watches the labels that a network makes for itself: how many, of which classes, and whether they help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.engine.semi import PseudoLabels

SURE, SHARE, LOSS = "semi/sure", "semi/share/", "semi/loss"
_LOST = 0.05  # of a class's share of the labelled pixels: with less of it among the pseudo labels, it is lost
_FELL = 0.03  # mIoU on validation patients: so much below the best before, pseudo labels do harm


class PseudoWatch:
    """Counts the pseudo labels of each class that are sure, and judges them at the end.

    Attributes:
        counts: (2 + classes,) int64: pixels seen, and sure pixels of background and each class; None: none seen yet.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = ("background", *classes)
        self.counts: Tensor | None = None

    def add(self, pseudo: PseudoLabels) -> None:
        """Count those of one batch, without waiting for the device."""
        sure = torch.bincount(pseudo.labels[pseudo.sure].flatten(), minlength=len(self.names))
        now = torch.cat([sure.new_tensor([pseudo.labels.numel()]), sure])
        self.counts = now if self.counts is None else self.counts + now

    def record(self) -> dict[str, float]:
        """What a line of metrics.jsonl says of those since the last line: shares of all pixels."""
        if self.counts is None:
            return {}
        total, *sure = self.counts.tolist()
        self.counts = None
        shares = {f"{SHARE}{name}": number / total for name, number in zip(self.names, sure, strict=True)}
        return {SURE: sum(sure) / total, **shares}

    def judge(self, records: Sequence[Mapping[str, Any]], targets: Tensor) -> dict[str, Any]:
        """Sum up a training: `records` are the lines of its metrics.jsonl, `targets` its labelled slices (N, H, W).

        Returns:
            The last shares, those among the labels, the validation scores, and in `warnings` what went wrong.
        """
        lines = [record for record in records if SURE in record]
        if not lines:
            return {}
        last = lines[-max(1, len(lines) // 5) :]
        shares = {name: sum(line[f"{SHARE}{name}"] for line in last) / len(last) for name in self.names}
        labelled = shares_of(targets, self.names)
        lost = [name for name in self.names[1:] if shares[name] < _LOST * labelled[name]]
        warnings = [f"class {name!r} has all but vanished from the pseudo labels" for name in lost]
        scores = _validation(records, lines[0]["step"])
        if scores and scores["after"] < scores["before"] - _FELL:
            warnings.append(
                f"the score on validation patients fell from {scores['before']:.3f} to {scores['after']:.3f} with them"
            )
        sure = sum(line[SURE] for line in last) / len(last)
        return {"sure": sure, "shares": shares, "labelled": labelled, "validation": scores, "warnings": warnings}


def shares_of(targets: Tensor, names: Sequence[str]) -> dict[str, float]:
    """The share of each class among the annotated pixels."""
    counts = torch.bincount(targets[targets != IGNORE].flatten().long(), minlength=len(names))
    total = max(int(counts.sum()), 1)
    return {name: int(number) / total for name, number in zip(names, counts, strict=True)}


def _validation(records: Sequence[Mapping[str, Any]], first: int) -> dict[str, float] | None:
    """The best score of validation checks before the unlabelled slices were used, and the last one after."""
    before = [record["validation"] for record in records if "validation" in record and record["step"] < first]
    after = [record["validation"] for record in records if "validation" in record and record["step"] >= first]
    return {"before": max(before), "after": after[-1]} if before and after else None

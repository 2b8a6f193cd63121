"""Watches the labels that a network makes for itself: how many, of which classes, and whether they seem to do harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ssmtl_toolkit.data.classes import IGNORE
from ssmtl_toolkit.engine.semi import PseudoLabels

SURE, SHARE, ANSWERS, LOSS = "semi/sure", "semi/share/", "semi/answers/", "semi/loss"
_COUNTS = 0.01  # of the pixels: with fewer that are sure, pseudo labels teach next to nothing, and do no harm
_ONE_SIDED = 0.1  # of its share of the answers: with less among the sure pixels, a class is not taught
_PRESENT = 0.05  # of its share of the labelled pixels: with less among the answers, a class is not found yet
_LOST = 0.25  # of its share of the answers when pseudo labels came into use: with less at the end, a class is lost
_BEGUN = 0.2  # of the steps: before, the answers are those of a network that knows little
_FELL = 0.03  # mIoU on validation patients: so much below the best before, pseudo labels do harm


class PseudoWatch:
    """Counts the pseudo labels of each class, all (the answers) and those that are sure, and judges them at the end.

    Compared are the last fifth of the steps with pseudo labels and the first, or as many after a fifth of the training
    if pseudo labels come into use before: random weights answer anything. It warns if at least 1 % of the pixels are
    sure at the end, and

    - one-sided: among the sure pixels a class, or the background, has less than a tenth of its share of the answers.
      The others are then taught where it is, and it is nowhere;
    - lost: a class has less than a quarter of the share of the answers that it had at first. What never was among the
      answers (less than a twentieth of its share of the labelled pixels) is not lost by pseudo labels;
    - the score on validation patients, if there are some, ends 0.03 below the best one before pseudo labels.

    Attributes:
        counts: (1 + 2 (1 + classes),) int64: pixels seen, then the answers and the sure ones, of background and each
            class; None: none seen yet.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.names = ("background", *classes)
        self.counts: Tensor | None = None

    def add(self, pseudo: PseudoLabels) -> None:
        """Count those of one batch, without waiting for the device."""
        labels, number = pseudo.labels.flatten(), len(self.names)
        ones = torch.stack([torch.ones_like(labels), pseudo.sure.flatten().to(labels.dtype)])
        counts = ones.new_zeros(2, number).scatter_add_(1, labels.expand(2, -1), ones)
        now = torch.cat([counts[0].sum(dim=0, keepdim=True), counts.flatten()])
        self.counts = now if self.counts is None else self.counts + now

    def record(self) -> dict[str, float]:
        """What a line of metrics.jsonl says of those since the last line: shares of all pixels."""
        if self.counts is None:
            return {}
        total, *each = self.counts.tolist()
        self.counts = None
        answers, sure = each[: len(self.names)], each[len(self.names) :]
        shares = {f"{SHARE}{name}": number / total for name, number in zip(self.names, sure, strict=True)}
        shares |= {f"{ANSWERS}{name}": number / total for name, number in zip(self.names, answers, strict=True)}
        return {SURE: sum(sure) / total, **shares}

    def judge(self, records: Sequence[Mapping[str, Any]], targets: Tensor) -> dict[str, Any]:
        """Sum up a training: `records` are the lines of its metrics.jsonl, `targets` its labelled slices (N, H, W).

        Returns:
            The last shares of all pixels that are sure, by class, of the answers, and of the labelled pixels; the
            validation scores; whether enough pixels were sure to teach anything (`taught`); and in `warnings` what
            seems to do harm.
        """
        lines = [record for record in records if SURE in record]
        if not lines:
            return {}
        part = max(1, len(lines) // 5)
        later = [line for line in lines if line["step"] > _BEGUN * records[-1]["step"]] or lines
        first, last = later[:part], lines[-part:]
        found = {
            "sure": sum(line[SURE] for line in last) / len(last),
            "shares": self._means(last, SHARE),
            "answers": self._means(last, ANSWERS),
            "labelled": shares_of(targets, self.names),
            "validation": _validation(records, lines[0]["step"]),
        }
        found["taught"] = found["sure"] >= _COUNTS
        return {**found, "warnings": self._warnings(found, self._means(first, ANSWERS))}

    def _means(self, lines: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, float]:
        return {name: sum(line[f"{prefix}{name}"] for line in lines) / len(lines) for name in self.names}

    def _warnings(self, found: Mapping[str, Any], first: Mapping[str, float]) -> list[str]:
        """What seems to do harm; `first` are the shares of the answers when pseudo labels came into use."""
        sure, shares, answers, labelled = (found[key] for key in ("sure", "shares", "answers", "labelled"))
        if not found["taught"]:
            return []
        warnings = []
        bare = [name for name in self.names if shares[name] / sure < _ONE_SIDED * answers[name]]
        if bare:
            warnings.append(
                f"of {' and '.join(map(repr, bare))} hardly any pixel is sure, and of all pixels {100 * sure:.0f} %: "
                f"pseudo labels teach the other classes alone"
            )
        for name in self.names[1:]:
            if first[name] >= _PRESENT * labelled[name] and answers[name] < _LOST * first[name]:
                warnings.append(f"class {name!r} has all but vanished from the answers on unlabelled slices")
        if (scores := found["validation"]) and scores["after"] < scores["before"] - _FELL:
            warnings.append(
                f"the score on validation patients fell from {scores['before']:.3f} to {scores['after']:.3f} with them"
            )
        return warnings


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

"""The best step of a pre-training by its probe: found on the way, kept as a file of its own, reported at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError, safe_open

from ssmtl_toolkit.documents import parse_json
from ssmtl_toolkit.pretraining.probe import DICE, IOU, Probe
from ssmtl_toolkit.pretraining.saving import Saver
from ssmtl_toolkit.runtime.folder import BEST
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.runtime.progress import Progress


@dataclass(frozen=True)
class Score:
    """The mean IoU of a step."""

    step: int
    iou: float


class BestStep:
    """Probes a training now and then, logs the scores, and keeps the backbone of the best step."""

    def __init__(self, probe: Probe, saver: Saver, log: MetricLog, progress: Progress) -> None:
        self.probe, self.saver, self.log, self.progress = probe, saver, log, progress
        self.file = saver.folder / BEST
        self.best: Score | None = None

    def resume(self) -> None:
        """Continue from the scores in the log."""
        self.best = best_of(self.log)
        if self.best and not self.file.is_file():
            self.progress.note(f"{self.file}: is missing; the best of the steps from here on is kept")
            self.best = None

    def look(self, step: int, epoch: float) -> None:
        """Probe, if it is to be done after this step; raises what the probe does, on all ranks."""
        if step in self.probe.steps:
            self.saver.on_first_rank(lambda: self._look(step, epoch))

    def _look(self, step: int, epoch: float) -> None:
        scores = self.probe.measure()
        if not scores:  # the line of losses will say what is wrong
            return
        if step and (self.best is None or scores[IOU] > self.best.iou):
            self.best = Score(step, scores[IOU])
            digests = [digest[:16] for digest in self.probe.labelled.digests]
            self.saver.best(step, {"digests": digests, "iou": scores[IOU]})
        record = {"step": step, "epoch": epoch, **scores}
        self.log.append(record)  # a line of its own: those of the losses are as without a probe
        self.progress.logged(record)

    def to_json(self) -> dict[str, Any]:
        """What summary.json says of it."""
        curve, dice, labelled = self.log.series(IOU), self.log.series(DICE), self.probe.labelled
        scores = {step: {"step": step, "iou": iou, "dice": dice[step]} for step, iou in sorted(curve.items())}
        if self.best and self._kept() != self.best.step:  # a kill, and then a resume to fewer steps
            self.progress.note(f"{self.file}: is of step {self._kept()}, not of the best, {self.best.step}; remove it")
        return {
            "best": scores[self.best.step] if self.best else None,
            "last": scores[max(scores)] if scores else None,
            "untrained": scores.get(0),
            "curve": list(scores.values()),
            "feature": self.probe.feature,
            "classes": list(labelled.classes.names),
            "slices": [len(half.images) for half in labelled.halves],
            "patients": [half.patients for half in labelled.halves],
            "seconds": round(self.probe.seconds, 2),
        }

    def _kept(self) -> int | None:
        """The step of the file; None if it cannot be read."""
        try:
            with safe_open(self.file, "pt") as opened:
                return int(parse_json((opened.metadata() or {})["ssmtl"])["step"])
        except (OSError, SafetensorError, ValueError, LookupError, TypeError):
            return None


def best_of(log: MetricLog) -> Score | None:
    """The best step in the log, the first of equal ones; the untrained network does not count."""
    scores = [Score(step, iou) for step, iou in log.series(IOU).items() if step > 0]
    return max(scores, key=lambda score: score.iou, default=None)


def told(probe: dict[str, Any]) -> str:
    """What a run says of its probe at the end, from its summary."""
    best, last, untrained = probe["best"], probe["last"], probe["untrained"]
    if best is None:
        return "the probe gave no score: features were not finite"
    where = f"best by the probe: step {best['step']} (mIoU {best['iou']:.3f})"
    others = "the last" if best["step"] == last["step"] else f"the last has {last['iou']:.3f}"
    without = "" if untrained is None else f", the untrained network {untrained['iou']:.3f}"
    worse = untrained is not None and best["iou"] <= untrained["iou"]
    warning = ": by the probe pre-training has not helped" if worse else ""
    return f"{where}, {others}{without}{warning}"

"""Heads that learn from the slices themselves: no labels, and scores of the images that come back."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ssmtl_toolkit.data.pieces import source
from ssmtl_toolkit.data.prepare import REVISION, Sliced
from ssmtl_toolkit.data.reading import Reading
from ssmtl_toolkit.data.sealed import Sealed
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.data.source import naming_scan
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.downstream.model import Downstream, Predictor
from ssmtl_toolkit.downstream.targets import KEPT, Checking, Rows, SliceContents, Targets
from ssmtl_toolkit.engine.metric import Comparison
from ssmtl_toolkit.evaluation.judging import Judge
from ssmtl_toolkit.evaluation.statistics import mean
from ssmtl_toolkit.reporting.cases import Cases, Drawing
from ssmtl_toolkit.reporting.panels import panel
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.specs import MetricSpec, Output, Scan

_FORMAT = 2  # of what is cached of a scan's contents; 1 had no digest of the scan

RULE = (
    "PSNR and SSIM of each slice by itself, normalised and of the network's size; data range: largest minus smallest "
    "value of the clean slice. A slice of one value is undefined: counted, and in no mean."
)


class ImageTargets(Targets):
    """The slices themselves, as they are before the head degrades them."""

    output: ClassVar[Output] = "image"
    what: ClassVar[str] = "scans"

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._contents: dict[str, SliceContents] = {}

    def prepare(self, scan: Scan, *, learned: bool) -> None:
        """Read a scan; those that are tested on are kept in memory for that."""
        later = self._reading.slicing.normalise == "data"  # slices cannot be made yet
        with self._reading.decoded.holding(scan, keep=later or not learned):
            self._contents[scan.name] = _contents(scan, self._reading)
            if learned and not later:
                self._reading.slices(scan)

    def look(self, scan: Scan) -> SliceContents:
        """Which slices of a scan are not blank."""
        return self._contents[scan.name]

    def tensor(self, store: SliceStore) -> None:
        """Return nothing: the slices are their own targets."""

    def validator(self, model: Downstream, examples: Examples, rows: Rows, check: Checking) -> Callable[[], float]:
        """Minus the head's loss over all validation slices, with the same noise at every check."""

        def validate() -> float:
            loss = 0.0
            for maps, target in check.batches(model, examples, rows):
                with torch.inference_mode():
                    loss += float(model.head.loss(maps, target)) * len(target)
            return -loss / len(rows)

        return validate

    def assess(
        self, predictor: Predictor, test: Sequence[Scan], metrics: Sequence[MetricSpec], cases: Cases | None = None
    ) -> dict[str, Any]:
        """Scores of degraded test slices as they are, `noisy`, and as the network returns them."""
        scored, failures = [], []
        for i, scan in enumerate(test):
            judge = Judge(metrics, scan.name)
            scored.append(self._scores(predictor, scan, judge, step_seed(i, Stream.TEST)))
            failures += judge.failures
            if cases is not None:
                score, seed = mean(scored[-1][cases.metric.name]), step_seed(i, Stream.TEST)
                cases.offer(scan.name, score, functools.partial(self._drawn, predictor, scan, seed))
            interrupts.check(KEPT)
        pooled = {name: [value for scores in scored for value in scores[name]] for name in scored[0]}
        noisy = [name for name in pooled if name.startswith("noisy")]
        first = metrics[0].name
        return {
            "mean": {name: mean(pooled[name]) for name in pooled if name not in noisy},
            "noisy": {name.removeprefix("noisy_"): mean(pooled[name]) for name in noisy},
            "slices": len(pooled[first]),
            "undefined": pooled[f"noisy_{first}"].count(None),
            "scans": [
                {"name": scan.name, "slices": len(scores[first])} | {name: mean(v) for name, v in scores.items()}
                for scan, scores in zip(test, scored, strict=True)
            ],
            "rule": RULE,
            **({"not_scored": failures} if failures else {}),
        }

    def _drawn(self, predictor: Predictor, scan: Scan, seed: int) -> Drawing:
        """The middle slices of a scan as they are, degraded, and as the network returns them."""
        sliced = predictor.sliced(self._reading.decoded.kept(scan))
        torch.default_generator.manual_seed(seed)
        middle = max(0, (len(sliced) - 1) // 2)
        clean = torch.from_numpy(sliced.standard(slice(middle, middle + 1)).slices)
        noisy = predictor.models[0].head.degrade(clean)
        output = predictor.resized(noisy, tuple(clean.shape[2:])).cpu()
        shown = {"slice": clean, "given": noisy, "answer": output}
        images = {title: image[:, 0].float().numpy() for title, image in shown.items()}
        drawn = panel(scan.name, 0, images, {"error": images["answer"] - images["slice"]}, [f"slice {middle}"])
        return Drawing(drawn.strip(), f"slice {middle}: {', '.join(drawn.columns)}")

    def _scores(self, predictor: Predictor, scan: Scan, judge: Judge, seed: int) -> dict[str, list[float | None]]:
        """Score every slice of one scan; the noise depends on `seed` alone, so that all networks get the same."""
        volume = self._reading.decoded.kept(scan)
        sliced = predictor.sliced(volume)
        torch.default_generator.manual_seed(seed)
        names = [metric.name for metric in judge.metrics]
        scores: dict[str, list[float | None]] = {key: [] for name in names for key in (name, f"noisy_{name}")}
        for start in range(0, len(sliced), predictor.batch_size):
            clean = torch.from_numpy(sliced.standard(slice(start, start + predictor.batch_size)).slices)
            noisy = predictor.models[0].head.degrade(clean)
            output = predictor.resized(noisy, tuple(clean.shape[2:])).cpu()
            for i, slices in enumerate(zip(clean.numpy(), output.numpy(), noisy.numpy(), strict=True)):
                for prefix, other in (("", slices[1]), ("noisy_", slices[2])):
                    compared = Comparison(other, slices[0])
                    for name, value in judge.scores(compared, f"slice {start + i}").items():
                        scores[f"{prefix}{name}"].append(value)
        return scores


def _contents(scan: Scan, reading: Reading) -> SliceContents:
    """Which slices of a scan vary, from the cache or from the scan."""
    known = [source(path, reading.decoded.readers, reading.memo) for path in scan.paths]
    how = reading.slicing.model_copy(update={"normalise": "slice"}).key
    sealed = Sealed.of(reading.cache, "contents", [_FORMAT, known, REVISION, *how])

    def make() -> None:
        volume = reading.decoded.scan(scan)
        with naming_scan(scan.path):
            stack = Sliced.of(volume, reading.slicing).stack
        varied = (stack.slices.min(axis=(2, 3)) < stack.slices.max(axis=(2, 3))).any(axis=1)
        about = {"varied": varied.tolist(), "channels": stack.slices.shape[1], "scan": volume.digest}
        sealed.write({}, json.dumps(about))

    found = json.loads(sealed.found(make, reading.waiting, f"the contents of {scan.name}"))
    varied = np.array(found["varied"], bool)
    return SliceContents(np.ones(len(varied), bool), varied[:, None], found["channels"], found["scan"])

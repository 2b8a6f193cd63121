"""A fine-tuned network on validation slices while it trains, and on whole test scans when it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from ssmtl_toolkit.data.prepare import standardise
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.sampling import step_seed
from ssmtl_toolkit.downstream.labelled import LabelledScans
from ssmtl_toolkit.downstream.loop import Examples
from ssmtl_toolkit.downstream.model import Downstream, Predictor
from ssmtl_toolkit.evaluation import images, scores
from ssmtl_toolkit.evaluation.metrics import metrics_of
from ssmtl_toolkit.evaluation.statistics import mean
from ssmtl_toolkit.runtime.device import seed_all
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.specs import Scan

_KEPT = "finished repetitions are kept; go on by --resume"

IMAGE_RULE = (
    "PSNR and SSIM of each slice by itself, normalised and of the network's size; data range: largest minus smallest "
    "value of the clean slice. A slice of one value is undefined: counted, and in no mean."
)


def validator(
    model: Downstream,
    examples: Examples,
    rows: NDArray[np.int64],
    classes: int,
    batch_size: int,
    fabric: Fabric,
    seed: int,
) -> Callable[[], float]:
    """Make the score of validation slices, the higher the better, on the network's own grid.

    It is the mean over classes of the IoU pooled over all slices; without classes minus the head's loss, with the same
    noise at every check.
    """

    @torch.inference_mode()
    def validate() -> float:
        seed_all(step_seed(seed, 6), fabric.device)
        loss = 0.0
        counts = np.zeros((3, classes), np.int64)
        for start in range(0, len(rows), batch_size):
            image, target = examples.batch(rows[start : start + batch_size], fabric.device)
            with fabric.autocast():
                maps = model(model.head.degrade(image)).float()
            if classes:
                index, truth = (part.to(torch.uint8).cpu().numpy() for part in (maps.max(dim=1).indices, target))
                counts += scores.count(index, truth, classes)
            else:
                loss += float(model.head.loss(maps, target)) * len(image)
        if not classes:
            return -loss / len(rows)
        defined = [value for value in scores.overlap(counts)[0] if value is not None]
        return float(np.mean(defined)) if defined else 0.0

    return validate


def assess_labels(
    predictor: Predictor, test: Sequence[Scan], labels: LabelledScans, surface: bool, tolerance: float
) -> dict[str, Any]:
    """Scores of label maps on each scan's own grid, as `ssmtl evaluate` gives them for the files of `ssmtl predict`."""
    found = []
    for scan in test:
        volume, truth = labels.read(scan)
        predicted = predictor.labels(volume)
        found.append(
            scores.score_scan(scan.name, predicted, truth, labels.classes.names, volume.spacing, surface, tolerance)
        )
        interrupts.check(_KEPT)
    return scores.summarise(found)


def assess_images(predictor: Predictor, test: Sequence[Scan], readers: Readers, surface: bool) -> dict[str, Any]:
    """PSNR (and SSIM) of degraded test slices as they are, `noisy`, and as the network gives them back."""
    found = []
    for i, scan in enumerate(test):
        found.append(_image_scores(predictor, scan, readers, surface, step_seed(i, 7)))
        interrupts.check(_KEPT)
    together = {name: [value for one in found for value in one[name]] for name in found[0]}
    return {
        "mean": {name: mean(together[name]) for name in together if not name.startswith("noisy")},
        "noisy": {name.removeprefix("noisy_"): mean(together[name]) for name in together if name.startswith("noisy")},
        "slices": len(together["psnr"]),
        "undefined": sum(bool(np.isnan(value)) for value in together["noisy_psnr"]),
        "scans": [
            {"name": scan.name, "slices": len(one["psnr"]), **{name: mean(values) for name, values in one.items()}}
            for scan, one in zip(test, found, strict=True)
        ],
        "rule": IMAGE_RULE,
    }


def _image_scores(
    predictor: Predictor, scan: Scan, readers: Readers, surface: bool, seed: int
) -> dict[str, list[float]]:
    """Score every slice of one scan; the noise depends on `seed` alone, so that all networks get the same."""
    slicing = predictor.recipe.slicing
    stack = predictor.stack(readers.read(scan.path, slicing.volume))
    torch.default_generator.manual_seed(seed)
    keys = [metric.key for metric in metrics_of("image", surface)]
    kept: dict[str, list[float]] = {name: [] for key in keys for name in (key, f"noisy_{key}")}
    for start in range(0, len(stack.slices), predictor.batch_size):
        made = standardise(stack.slices[start : start + predictor.batch_size], slicing)
        clean = torch.from_numpy(made.slices)[:, None]
        noisy = predictor.model.head.degrade(clean)
        output = predictor.resized(noisy, tuple(clean.shape[2:])).cpu()
        for key in keys:
            kept[key] += images.SCORES[key](clean, output).tolist()
            kept[f"noisy_{key}"] += images.SCORES[key](clean, noisy).tolist()
    return kept

"""Cross-validation in numbers: folds, all patients as one test, and two arms patient by patient."""

import numpy as np
import pytest

from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.evaluation.folded import summarise_folds
from ssmtl_toolkit.evaluation.scores import score_scan, summarise
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import MetricSpec

METRICS = tuple(registry().resolve(MetricSpec, name) for name in ("iou", "dice"))
CLASSES = Classes.parse("a=1,b=2", {}, None)
PATIENTS = {f"s{i}": f"p{max(i, 1)}" for i in range(10)}  # s0 and s1 are of one


def scored(names, quality, seed):
    """Scores of scans whose predictions have that share of voxels right."""
    rng = np.random.default_rng(seed)
    scans = []
    for name in names:
        truth = rng.integers(0, 3, (4, 4, 4)).astype(np.uint8)
        right = rng.random(truth.shape) < quality
        predicted = np.where(right, truth, rng.integers(0, 3, truth.shape)).astype(np.uint8)
        scans.append(score_scan(name, predicted, truth, CLASSES, (1, 1, 1), METRICS))
    return scans


def dice_of(scan):
    return float(np.mean([value for value in scan.values["dice"] if value is not None]))


NAMES = (["s0", "s1", "s2"], ["s3", "s4", "s5", "s6"], ["s7", "s8", "s9"])
SCANS = {
    arm: [scored(names, q, i) for i, names in enumerate(NAMES)] for arm, q in (("pretrained", 0.9), ("scratch", 0.3))
}
FOLDS = [{arm: [summarise(folds[i], METRICS)] for arm, folds in SCANS.items()} for i in range(3)]


def test_the_scans_of_all_folds_are_pooled_as_one_test():
    arm = summarise_folds(FOLDS, METRICS, PATIENTS)["arms"]["pretrained"]
    whole = summarise([scan for fold in SCANS["pretrained"] for scan in fold], METRICS)
    assert arm["iou"]["pooled"] == pytest.approx(whole["mean"]["iou"])
    assert arm["classes"]["b"]["iou"]["pooled"] == pytest.approx(whole["classes"]["b"]["iou"])
    assert arm["classes"]["b"]["dice"]["pooled"] == pytest.approx(whole["classes"]["b"]["dice"]["mean"])


def test_mean_and_deviation_are_those_of_the_folds():
    arm = summarise_folds(FOLDS, METRICS, PATIENTS)["arms"]["scratch"]
    each = [fold["scratch"][0]["mean"]["iou"] for fold in FOLDS]
    assert (arm["iou"]["mean"], arm["iou"]["sd"]) == (pytest.approx(np.mean(each)), pytest.approx(np.std(each, ddof=1)))
    assert arm["iou"]["values"] == each
    assert "ci95" not in arm["iou"]  # folds share their training patients


def test_arms_are_compared_patient_by_patient():
    summary = summarise_folds(FOLDS, METRICS, PATIENTS)
    pairs = zip(*([scan for fold in SCANS[arm] for scan in fold] for arm in ("pretrained", "scratch")), strict=True)
    differences = [dice_of(ours) - dice_of(theirs) for ours, theirs in pairs]
    by_patient = [np.mean(differences[:2]), *differences[2:]]  # whoever has two scans counts once
    over = summary["difference"]["dice"]["over_patients"]
    assert over["n"] == 9
    assert over["mean"] == pytest.approx(np.mean(by_patient))
    low, high = over["ci95"]
    assert 0 < low < over["mean"] < high
    assert summary["difference"]["verdict"].startswith("pre-training helped: Dice of a patient +0.")
    few = summarise_folds(FOLDS[:2], METRICS, PATIENTS)["difference"]
    assert few["dice"]["over_patients"]["ci95"] is None
    assert few["verdict"] == "too few patients to tell (6; an interval needs 8 that differ)"


def test_repetitions_of_a_fold_are_averaged():
    twice = [{"scratch": [fold["scratch"][0], fold["pretrained"][0]]} for fold in FOLDS]
    arm = summarise_folds(twice, METRICS, PATIENTS)["arms"]["scratch"]
    one = summarise_folds(FOLDS, METRICS, PATIENTS)["arms"]
    for key in ("mean", "pooled"):
        both = [one[name]["dice"][key] for name in ("scratch", "pretrained")]
        assert arm["dice"][key] == pytest.approx(np.mean(both))
    assert arm["dice"]["n"] == 3


def test_images_are_pooled_by_their_slices():
    metrics = (registry().resolve(MetricSpec, "psnr"),)

    def fold(name, value, slices):
        means = {"psnr": value}
        scans = [{"name": name, "slices": slices, **means}]
        return {"scratch": [{"mean": means, "noisy": means, "slices": slices, "undefined": 1, "scans": scans}]}

    arm = summarise_folds([fold("s1", 10.0, 4), fold("s2", 20.0, 2)], metrics, PATIENTS)["arms"]["scratch"]
    assert (arm["psnr"]["mean"], arm["psnr"]["pooled"]) == (15, 12.5)  # 3 slices of 10 and one of 20
    assert arm["noisy"] == {"psnr": 12.5}

"""How metrics are printed: names, units, digits, signs and which way is better."""

import numpy as np

from ssmtl_toolkit.evaluation import images, scores
from ssmtl_toolkit.evaluation.metrics import METRICS, lower_is_better, metrics_of


def test_every_metric_of_the_table_is_computed_and_no_other():
    one = np.ones((4, 4, 4), np.uint8)
    for surface in (False, True):
        found = scores.score_scan("scan", one, one, ("a",), (1, 1, 1), surface)
        assert list(found.values) == [metric.key for metric in metrics_of("labels", surface)]
    assert list(images.SCORES) == [metric.key for metric in metrics_of("image")]


def test_values_are_printed_with_the_digits_of_their_metric_and_differences_with_a_sign():
    iou, hd95 = METRICS["iou"], METRICS["hd95"]
    assert (iou.number(0.53449), hd95.number(12.345678), hd95.number(None)) == ("0.534", "12.35", "-")
    assert iou.spread({"mean": 0.5, "sd": 0.0126}) == "0.500 ± 0.013"
    assert iou.spread({"mean": 0.5, "sd": None}) == "0.500"
    assert iou.difference({"mean": 0.5, "sd": 0.01}) == "+0.500 ± 0.010"
    assert hd95.difference({"mean": -1.5, "sd": None}) == "-1.50"
    assert hd95.difference({"mean": None, "sd": None}) == "-"
    assert (iou.interval([-0.1, 0.25]), iou.interval(None)) == ("-0.100 to +0.250", "-")


def test_headings_name_the_unit_and_a_line_below_the_table_what_is_better_when_lower():
    assert [metric.heading for metric in METRICS.values()] == [
        *("IoU", "Dice", "HD95 (mm)", "surface Dice", "PSNR (dB)", "SSIM"),
    ]
    assert [metrics_of(output)[0].mean_heading for output in ("labels", "image")] == ["mIoU", "PSNR (dB)"]
    assert lower_is_better(metrics_of("labels")) == ["HD95: lower is better."]
    assert lower_is_better(metrics_of("image")) == []


def test_the_table_of_a_fine_tuning_fits_80_columns_with_every_number_on_one_line(
    ssmtl, labelled, pretrained, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    options = ["--steps", 1, "--train-scans", 1, "--slices-per-scan", 1, "--test-scans", 2, "--surface"]
    done = ssmtl(
        *("finetune", "--from", pretrained, "--data", labelled, "--baseline", "scratch", "--seeds", 4),
        *(*options, "--out", "tuned"),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["IoU", "Dice"])
    scores_of, gain = lines[start : start + 7], lines[start + 8 : start + 13]
    assert max(map(len, [*scores_of, *gain])) <= 80
    assert [line[: line.index("±")].rsplit(None, 1)[0].strip() for line in scores_of[1:]] == [
        *("pretrained, mean", "10", "20", "scratch, mean", "10", "20"),
    ]
    assert all(line.count("±") == 4 for line in scores_of[1:])
    assert gain[0].split("  ")[0] == "pretrained - scratch"
    assert [line.split("  ")[0] for line in gain[1:]] == ["IoU", "Dice", "HD95 (mm)", "surface Dice"]
    assert all(line.count("±") == 1 and " to " in line for line in gain[1:])
    assert "HD95: lower is better." in lines

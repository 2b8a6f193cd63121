"""How metrics are printed: names, units, digits, signs and which way is better."""

from ssmtl_toolkit.config import EvaluateConfig
from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import MetricSpec


def of(output, **options):
    return EvaluateConfig(**{"surface": True, **options}).chosen_metrics(output)


def metric(text):
    return registry().resolve(MetricSpec, text)


def test_the_default_metrics_are_the_bundled_ones_in_the_order_of_tables():
    assert [m.name for m in of("labels")] == ["iou", "dice", "hd95", "surface_dice"]
    assert [m.name for m in of("labels", surface=False)] == ["iou", "dice"]
    assert [m.name for m in of("image")] == ["psnr", "ssim"]
    assert [m.name for m in of("image", surface=False)] == ["psnr"]


def test_values_are_printed_with_the_digits_of_their_metric_and_differences_with_a_sign():
    iou, hd95 = metric("iou"), metric("hd95")
    numbers = (formatting.number(iou, 0.53449), formatting.number(hd95, 12.345678), formatting.number(hd95, None))
    assert numbers == ("0.534", "12.35", "-")
    assert formatting.spread(iou, {"mean": 0.5, "sd": 0.0126}) == "0.500 ± 0.013"
    assert formatting.spread(iou, {"mean": 0.5, "sd": None}) == "0.500"
    assert formatting.difference(iou, {"mean": 0.5, "sd": 0.01}) == "+0.500 ± 0.010"
    assert formatting.difference(hd95, {"mean": -1.5, "sd": None}) == "-1.50"
    assert formatting.difference(hd95, {"mean": None, "sd": None}) == "-"
    assert (formatting.interval(iou, [-0.1, 0.25]), formatting.interval(iou, None)) == ("-0.100 to +0.250", "-")


def test_headings_name_the_unit_and_a_line_below_the_table_what_is_better_when_lower():
    assert [formatting.heading(m) for m in (*of("labels"), *of("image"))] == [
        *("IoU", "Dice", "HD95 (mm)", "surface Dice", "PSNR (dB)", "SSIM"),
    ]
    assert [formatting.mean_heading(of(output)[0]) for output in ("labels", "image")] == ["mIoU", "PSNR (dB)"]
    assert formatting.lower_is_better(of("labels")) == ["HD95: lower is better."]
    assert formatting.lower_is_better(of("image")) == []
    assert formatting.remarks(of("labels", tolerance=0.5)) == ["surface Dice: within 0.5 mm"]


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
    rows, gain = lines[start : start + 9], lines[start + 10 : start + 15]
    assert max(map(len, [*rows, *gain])) <= 80
    scores_of = [row for row in rows if "ensemble" not in row]
    assert [row.split("  ")[0] for row in rows if "ensemble" in row] == ["pretrained, ensemble", "scratch, ensemble"]
    assert [line[: line.index("±")].rsplit(None, 1)[0].strip() for line in scores_of[1:]] == [
        *("pretrained, mean", "10", "20", "scratch, mean", "10", "20"),
    ]
    assert all(line.count("±") == 4 for line in scores_of[1:])
    assert gain[0].split("  ")[0] == "pretrained - scratch"
    assert [line.split("  ")[0] for line in gain[1:]] == ["IoU", "Dice", "HD95 (mm)", "surface Dice"]
    assert all(line.count("±") == 1 and " to " in line for line in gain[1:])
    assert "HD95: lower is better." in lines

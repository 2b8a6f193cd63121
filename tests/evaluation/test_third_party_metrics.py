"""A metric of another package: it stands in every table and file by what it declares, and does no harm if it fails."""

import csv
import importlib.metadata
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage, spatial

import ssmtl_toolkit as toolkit
from helpers.plugin_files import bundled_points, plugin
from helpers.small import SMALL
from ssmtl_toolkit import UsageError
from ssmtl_toolkit import installed as finding
from ssmtl_toolkit.config import EvaluateConfig
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.engine.metric import Comparison
from ssmtl_toolkit.evaluation import scores
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import MetricSpec

PLUGIN = '''
from pydantic import Field

from ssmtl_toolkit import hookimpl
from ssmtl_toolkit.specs import MetricSpec


class Mismatch(MetricSpec):
    """How much of both masks together is in one only."""

    name = "mismatch"
    title = "mismatch"
    unit = "%"
    digits = 1
    higher_is_better = False

    fault: str = Field("nothing", description="What goes wrong, of prostates only.")

    def score(self, comparison):
        counts = comparison.counts
        if self.fault in ("raises", "nan", "text") and counts.fn:
            return {"raises": lambda: 1 / 0, "nan": lambda: float("nan"), "text": lambda: "high"}[self.fault]()
        if self.fault == "writes":
            comparison.predicted[:] = True
        if self.fault == "exits":
            raise SystemExit(3)
        return 100 * (counts.fp + counts.fn) / (counts.tp + counts.fp + counts.fn)

    def remark(self):
        return "of the union"


class Offset(MetricSpec):
    """The mean absolute difference of a slice."""

    name = "offset"
    title = "mean difference"
    output = "image"
    higher_is_better = False

    def score(self, comparison):
        return float(abs(comparison.predicted - comparison.truth).mean())


class Needy(MetricSpec):
    """Needs a package that nobody has."""

    name = "needy"
    packages = ("no_such_package",)

    def score(self, comparison):
        return 1.0


class Verdict(MetricSpec):
    """Has a name that is taken."""

    name = "verdict"

    def score(self, comparison):
        return 1.0


@hookimpl
def ssmtl_metrics():
    return [Mismatch, Offset, Needy, Verdict]
'''
AFFINE = np.diag([0.8, 0.8, 2.0, 1.0])


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """The package `dist-mismatches 7.0`, beside the bundled plugins."""
    points = [*bundled_points(), plugin(tmp_path, monkeypatch, "mismatches", PLUGIN)]
    found = importlib.metadata.entry_points

    def these(**wanted):
        return points if wanted == {"group": finding.GROUP} else found(**wanted)

    monkeypatch.setattr(importlib.metadata, "entry_points", these)
    registry.cache_clear()
    yield
    monkeypatch.setattr(importlib.metadata, "entry_points", found)
    registry.cache_clear()


def write(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.uint8), AFFINE), file)


def box(*, shift=0, value=1):
    made = np.zeros((12, 10, 6))
    made[2 + shift : 8 + shift, 2:7, 1:5] = value
    return made


@pytest.fixture
def folders(tmp_path):
    """Two scans: a is predicted as it is, b moved by two of six voxels: IoU 4 / 8."""
    for name, shift in (("a", 0), ("b", 2)):
        write(tmp_path / "labels" / f"{name}.nii.gz", box())
        write(tmp_path / "out" / f"{name}.nii.gz", box(shift=shift))
    return tmp_path


EVALUATE = ("evaluate", "--pred", "out", "--label", "labels", "--classes", "box=1")


def test_it_stands_in_the_table_with_its_title_unit_digits_direction_and_remark(ssmtl, folders):
    done = ssmtl(*EVALUATE, "--metric", "mismatch", "--no-surface")
    assert done.returncode == 0, done.stderr
    heads, row, mean = (" ".join(line.split()) for line in done.stdout.splitlines()[:3])
    assert heads == "class IoU (pooled) Dice mismatch (%)"
    assert row.endswith("25.0 ± 35.4")  # 0 and 50
    assert mean.endswith("25.0")
    assert "mismatch: lower is better." in done.stdout
    assert "± is the standard deviation over scans; mismatch: of the union" in done.stdout


def test_it_stands_in_json_and_csv_and_the_default_metrics_are_as_without_it(ssmtl, folders):
    plain = json.loads(ssmtl(*EVALUATE, "--csv", "plain.csv", "--json").stdout)
    found = json.loads(ssmtl(*EVALUATE, "--metric", "mismatch", "--csv", "more.csv", "--json").stdout)
    assert found["metrics"] == [
        *("iou", "dice", "hd95", "surface_dice:tolerance=1.0", "mismatch:fault=nothing"),
    ]
    assert found["classes"]["box"]["mismatch"] == {
        "mean": 25.0,
        "sd": pytest.approx(35.355, abs=1e-3),
        "n": 2,
        "undefined": 0,
        "penalised": 0,
    }
    assert found["mean"] == {**plain["mean"], "mismatch": 25.0}
    assert [scan["classes"]["box"]["mismatch"] for scan in found["scans"]] == [0, 50]
    assert found["rule"].startswith(plain["rule"])
    tables = [(folders / name).read_text().splitlines() for name in ("plain.csv", "more.csv")]
    before, after = (list(csv.DictReader(lines)) for lines in tables)
    assert [row["mismatch"] for row in after] == ["0.0", "50.0"]
    assert [{k: v for k, v in row.items() if k != "mismatch"} for row in after] == before
    assert list(after[0])[-2:] == ["mismatch", "penalised"]


def test_a_named_metric_replaces_the_default_of_its_name_with_other_options(ssmtl, folders):
    for options, mean in ((("--tolerance", 0.5), 0.5), (("--metric", "surface_dice:tolerance=0.5"), 0.5), ((), 1)):
        found = json.loads(ssmtl(*EVALUATE, *options, "--json").stdout)
        assert list(found["mean"]) == ["iou", "dice", "hd95", "surface_dice"]
        assert found["tolerance_mm"] == mean
        assert f"surface_dice:tolerance={float(mean)}" in found["metrics"]
    shown = ssmtl(*EVALUATE, "--metric", "surface_dice:tolerance=2", "--tolerance", 0.5).stdout
    assert "surface Dice: within 2 mm" in shown
    only = json.loads(ssmtl(*EVALUATE, "--no-surface", "--metric", "hd95", "--json").stdout)
    assert list(only["mean"]) == ["iou", "dice", "hd95"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("raises", "ZeroDivisionError: division by zero"),
        ("nan", "it returned nan, not a number or None"),
        ("text", "it returned str, not a number or None"),
    ],
)
def test_one_that_fails_is_named_with_its_plugin_and_the_scan_and_spoils_no_other(ssmtl, folders, fault, told):
    plain = json.loads(ssmtl(*EVALUATE, "--json").stdout)
    done = ssmtl(*EVALUATE, "--metric", f"mismatch:fault={fault}", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    line = f"b: metric 'mismatch' of dist-mismatches 7.0 gives no score of class 'box': {told}"
    assert found["notes"] == found["not_scored"] == [line]
    assert f"note: {line}" in done.stderr
    assert found["classes"]["box"]["mismatch"]["n"] == 1
    assert found["classes"]["box"]["mismatch"]["mean"] == 0
    assert {key: found["mean"][key] for key in plain["mean"]} == plain["mean"]


def test_one_that_writes_into_what_it_compares_spoils_no_other(ssmtl, folders):
    plain = json.loads(ssmtl(*EVALUATE, "--json").stdout)
    found = json.loads(ssmtl(*EVALUATE, "--metric", "mismatch:fault=writes", "--json").stdout)
    assert "gives no score of class 'box': ValueError: assignment destination is read-only" in found["not_scored"][0]
    assert {key: found["mean"][key] for key in plain["mean"]} == plain["mean"]
    whole = np.zeros((2, 2, 2), bool)
    assert not Comparison(whole, whole, (1, 1, 1)).truth.flags.writeable
    assert whole.flags.writeable


def test_one_that_would_end_the_process_does_not(ssmtl, folders):
    done = ssmtl(*EVALUATE, "--metric", "mismatch:fault=exits", "--json")
    assert done.returncode == 0
    assert "gives no score of class 'box': SystemExit: 3" in json.loads(done.stdout)["notes"][0]


def test_of_many_classes_that_fail_in_a_scan_one_is_named_and_the_others_counted():
    class Failing(MetricSpec):
        """Fails."""

        name = "failing"

        def score(self, comparison):
            raise ValueError("no\nway")

    truth = np.arange(1, 28, dtype=np.uint8).reshape(3, 3, 3)
    found = scores.score_scan("s\n1", truth, truth, Classes.of_values(range(28)), (1, 1, 1), [Failing()])
    here = f"metric 'failing' of {__name__} gives no score of class '1': ValueError: no (and 26 times more)"
    assert found.failures == (f"s\\n1: {here}",)


def test_a_class_in_a_notebook_needs_no_package(folders):
    class Recall(MetricSpec):
        """How much of the truth is found."""

        name = "recall"

        def score(self, comparison):
            counts = comparison.counts
            return counts.tp / (counts.tp + counts.fn) if counts.tp else 0.0

    found = toolkit.evaluate(folders / "out", folders / "labels", metrics=[Recall()], classes="box=1")
    assert [scan.values["recall"] for scan in found.scans] == [(1.0,), (pytest.approx(4 / 6),)]
    assert found.mean["recall"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        (["mismatsh"], "no metric named 'mismatsh'; did you mean 'mismatch'?"),
        (["mismatch", "mismatch:fault=nan"], "metric 'mismatch' is given twice"),
        (["mismatch:faults=nan"], "no option 'faults'; did you mean 'fault'?"),
        (["psnr"], "metric 'psnr' scores images, not label maps; choose among iou, dice, hd95, surface_dice, mismatch"),
        (["needy"], "needy needs no_such_package, which is not installed: pip install no_such_package"),
        (["verdict"], "metric 'verdict': files of scores call something else so; rename it"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_done(ssmtl, folders, labelled, metrics, told):
    options = [part for metric in metrics for part in ("--metric", metric)]
    for command in (EVALUATE, ("finetune", "--data", labelled, "--out", "never")):
        done = ssmtl(*command, *options)
        assert done.returncode == 2
        assert told in done.stderr
    assert not (folders / "never").exists()
    with pytest.raises(UsageError):
        EvaluateConfig.of({"metrics": metrics}).chosen_metrics("labels")


def test_something_else_than_a_metric_is_refused():
    for wrong in ("mismatch", [3], {"mismatch": 1}):
        with pytest.raises(UsageError, match=r"metrics: expected .* or their texts"):
            EvaluateConfig.of({"metrics": wrong})


QUICK = ("--steps", 2, "--train-scans", 1, "--slices-per-scan", 1, "--test-scans", 2, "--no-surface")


def test_a_fine_tuning_shows_it_for_both_twins_their_difference_and_each_class(ssmtl, labelled, pretrained, tmp_path):
    options = ("--from", pretrained, "--data", labelled, "--baseline", "scratch", "--seeds", 2, *QUICK)
    done = ssmtl("finetune", *options, "--metric", "mismatch", "--out", "tuned")
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stderr.splitlines()]
    assert "IoU Dice mismatch (%)" in lines
    assert "pretrained - scratch difference" in lines
    assert any(line.startswith("mismatch (%) ") and " ± " in line for line in lines)
    assert "mismatch: lower is better." in lines
    summary = json.loads((tmp_path / "tuned" / "summary.json").read_text())
    assert summary["metrics"] == ["iou", "dice", "mismatch:fault=nothing"]
    assert len(summary["difference"]["mismatch"]["values"]) == 2
    for arm in ("pretrained", "scratch"):
        for seed in (0, 1):
            scored = json.loads((tmp_path / "tuned" / f"{arm}-{seed}" / "scores.json").read_text())
            of_scans = [[1 - c["iou"] for c in scan["classes"].values()] for scan in scored["scans"]]
            assert scored["mean"]["mismatch"] == pytest.approx(100 * np.mean(of_scans))
            assert summary["arms"][arm]["mismatch"]["values"][seed] == scored["mean"]["mismatch"]
    assert 'metrics = [\n    "mismatch:fault=nothing",\n]' in (tmp_path / "tuned" / "finetune.toml").read_text()
    assert "# needs metric mismatch of dist-mismatches 7.0" in (tmp_path / "tuned" / "finetune.toml").read_text()


def test_a_fine_tuning_notes_what_failed_and_keeps_it_in_its_summary(ssmtl, labelled, tmp_path):
    options = ("--data", labelled, "--backbone", SMALL, "--size", 32, *QUICK)
    done = ssmtl("finetune", *options, "--metric", "mismatch:fault=nan", "--out", "tuned")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "tuned" / "summary.json").read_text())
    assert "metric 'mismatch' of dist-mismatches 7.0 gives no score of class " in summary["not_scored"][0]
    assert f"note: {summary['not_scored'][0]}" in done.stderr
    assert summary["arms"]["scratch"]["iou"]["mean"] is not None


def test_a_metric_of_images_scores_what_a_head_for_images_returns(ssmtl, labelled, tmp_path):
    options = ("--head", "denoising:sigma=0.5", "--data", labelled, "--backbone", SMALL, "--size", 32, "--no-surface")
    done = ssmtl("finetune", *options, "--metric", "offset", "--steps", 2, "--test-scans", 2, "--out", "tuned")
    assert done.returncode == 0, done.stderr
    assert "PSNR (dB)  mean difference" in done.stderr
    arm = json.loads((tmp_path / "tuned" / "summary.json").read_text())["arms"]["scratch"]
    assert arm["noisy"]["offset"] == pytest.approx(0.5 * np.sqrt(2 / np.pi), rel=0.02)  # of a normal distribution
    assert arm["offset"]["mean"] > 0


def test_repetitions_scored_by_other_metrics_are_not_put_beside_finished_ones(ssmtl, tuned, tmp_path):
    folder = shutil.copytree(tuned, tmp_path / "tuned")
    for options, now in (
        (("--metric", "mismatch"), "iou, dice, mismatch:fault=nothing"),
        (("--surface",), "iou, dice, hd95, surface_dice:tolerance=1.0"),
    ):
        done = ssmtl("finetune", "--resume", folder, "--seeds", 3, *options)
        assert done.returncode == 2
        assert (
            f"scored by iou, dice; others would be scored by {now}; resume with --surface, --tolerance" in done.stderr
        )
    assert ssmtl("finetune", "--resume", folder).returncode == 0


def test_another_tolerance_is_noticed_and_where_a_file_does_not_record_it_only_names_are_compared(tmp_path):
    from ssmtl_toolkit.downstream.finetune import _check_scored

    file = tmp_path / "scratch-0" / "scores.json"
    file.parent.mkdir()
    mean = {"iou": 0.5, "dice": 0.5, "hd95": 3.0, "surface_dice": 0.5}
    known = {"metrics": ["iou", "dice", "hd95", "surface_dice:tolerance=1.0"]}
    file.write_text(json.dumps({**known, "mean": mean}))
    of = EvaluateConfig(surface=True).chosen_metrics("labels")
    other = EvaluateConfig(surface=True, tolerance=2).chosen_metrics("labels")
    fewer = EvaluateConfig(surface=False).chosen_metrics("labels")
    _check_scored(of, tmp_path)
    with pytest.raises(UsageError, match=r"tolerance=1\.0; others would be scored by .*tolerance=2\.0; resume"):
        _check_scored(other, tmp_path)
    with pytest.raises(UsageError, match=r"tolerance=1\.0; others would be scored by iou, dice; resume"):
        _check_scored(fewer, tmp_path)
    file.write_text(json.dumps({"mean": mean}))  # of version 0.1
    _check_scored(of, tmp_path)
    _check_scored(other, tmp_path)
    with pytest.raises(UsageError, match="hd95, surface_dice; others would be scored by iou, dice; resume with"):
        _check_scored(fewer, tmp_path)


@pytest.mark.slow
def test_the_table_of_an_experiment_has_a_column_of_it(labelled, tmp_path):
    (tmp_path / "mine.toml").write_text(
        f'data = "{labelled}"\npretrain = {{ size = 32, steps = 2 }}\nsplit = {{ train = 2, test = 2 }}\n'
        'finetune = { steps = 2, seeds = 4, slices_per_scan = 1, surface = false, metrics = ["mismatch"] }\n'
        f'[rows.scratch]\nname = "scratch"\nbackbone = "{SMALL}"\n'
        f'[rows.ssmtl]\nname = "SSMTL"\nbackbone = "{SMALL}"\ntasks = ["reconstruct_next:t=1"]\n'
    )
    done = toolkit.experiment(tmp_path / "mine.toml", out=tmp_path / "out", cache=tmp_path / "cache")
    text = (tmp_path / "out" / "mine.md").read_text()
    assert "| Dice | mismatch (%) |" in text
    assert "mismatch: lower is better." in text
    assert "mismatch: of the union" in text
    row = next(row for row in done.summary["rows"] if row["id"] == "ssmtl")
    assert len(row["also"]["mismatch"]["values"]) == 4
    assert f"SSMTL: {row['gain']['verdict']}" in text
    assert row["gain"]["verdict"].startswith(("pre-training ", "no difference can be told: mIoU "))


def test_distances_are_computed_once_for_all_metrics(monkeypatch):
    calls, real = [], spatial.KDTree
    monkeypatch.setattr(spatial, "KDTree", lambda *a, **how: calls.append(1) or real(*a, **how))
    metrics = EvaluateConfig(surface=True).chosen_metrics("labels")
    truth = box().astype(np.uint8)
    far = (5, 1, 1)  # mm: the moved sides are not among the voxels around
    scores.score_scan("s", box(shift=1).astype(np.uint8), truth, Classes.parse("box=1"), far, metrics)
    assert len(calls) == 2  # there and back


@pytest.mark.parametrize("spacing", [(0.7, 0.9, 2.3), (1, 1, 1), (6, 0.35, 5)])
def test_distances_are_those_of_monai_to_the_bit_where_surfaces_meet_and_where_they_are_far_apart(spacing):
    from monai.metrics.utils import get_surface_distance

    rng = np.random.default_rng(0)
    first, second = (ndimage.gaussian_filter(rng.normal(size=(24, 20, 9)), 1.5) > 0 for _ in range(2))
    near, far = first ^ (second & ~first), np.zeros_like(first)
    far[22:, 15:, 3:5] = True
    for other in (near, far, first):
        compared = Comparison(first, other, spacing)
        ours, theirs = compared.surfaces
        assert 0 < np.count_nonzero(ours & theirs) <= np.count_nonzero(ours)
        expected = [get_surface_distance(*way, spacing=list(spacing)) for way in ((ours, theirs), (theirs, ours))]
        assert all(map(np.array_equal, compared.distances, expected))
        assert {way.dtype for way in compared.distances} == {way.dtype for way in expected}
    assert max(way.max() for way in Comparison(first, far, spacing).distances) > 4 * min(spacing)


def test_a_comparison_of_two_masks_gives_what_a_plugin_needs_to_be_tried():
    compared = Comparison(box(shift=2) > 0, box() > 0, (0.8, 0.8, 2.0))
    assert (compared.counts.tp, compared.counts.fp, compared.counts.fn) == (80, 40, 40)
    assert [len(way) for way in compared.distances] == [edge.sum() for edge in compared.surfaces]
    assert max(way.max() for way in compared.distances) == pytest.approx(1.6)
    assert compared.diagonal == pytest.approx(np.hypot(np.hypot(11 * 0.8, 9 * 0.8), 5 * 2.0))
    empty = Comparison(box() > 0, np.zeros((12, 10, 6), bool), (1, 1, 1))
    assert empty.counts.penalised
    with pytest.raises(ValueError, match=r"ask counts\.penalised first"):
        _ = empty.distances
    with pytest.raises(ValueError, match="the prediction has shape"):
        Comparison(box() > 0, box()[1:] > 0)

"""`ssmtl fewshot`: from a labelled folder to curves, a table and sentences; what is resumed, kept apart, refused."""

import csv
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ssmtl_toolkit as toolkit
from helpers.pages import check_page
from helpers.processes import read_until
from helpers.small import write_pair, write_scan
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import BackboneSpec

SMALL = "unet:encoder=plain,width=4"
OPTIONS = {
    "backbone": SMALL,
    "size": 32,
    "classes": "big=10,small=20",
    "surface": False,
    "t": 1,
    "methods": ["ssmtl"],
    "test_scans": 4,
    "budgets": [1, "3slices", 2],
    "draws": 2,
    "pretrainings": 2,
}
SHORT = {"pretrain": {"steps": 2}, "finetune": {"steps": 3, "average": 0.5}}
SETTINGS = ["--set", "pretrain.steps=2", "--set", "finetune.steps=3", "--set", "finetune.average=0.5"]


@pytest.fixture(scope="module")
def done(labelled, tmp_path_factory):
    """A small comparison; do not write there."""
    base = tmp_path_factory.mktemp("done")
    return toolkit.fewshot(str(labelled), out=base / "out", cache=base / "cache", **SHORT, **OPTIONS)


def test_its_report_has_sentences_table_and_curves_with_bands(done, tmp_path):
    page = check_page(toolkit.report(done, out=tmp_path / "page.html"))
    assert page.headings == ["How many labels?", "Runs", "Provenance"]
    assert all(sentence in page.text for sentence in done.summary["sentences"])
    (curves,) = [image["alt"] for image in page.images]
    assert "with a band of one standard deviation" in curves
    assert "ssmtl with 3slices" in curves


def splits_of(done, budget):
    """By draw, the patients and slices that its fine-tunings were trained on."""
    found = {}
    for folder in (done.folder / "finetune").iterdir():
        about = toolkit.FinetuneConfig.read(folder / "finetune.toml")
        split = Split.read(folder / "split.json")
        if (len(split.train), sum(map(len, split.slices[0].values())) < 10) == budget:
            found.setdefault(about["seed"], set()).add((split.train, str(dict(split.slices[0]))))
    return found


def test_every_method_is_trained_on_every_draw_from_every_pretraining(done):
    assert (done.summary["planned"], done.summary["done"]) == (3 * 2 * (1 + 2),) * 2
    assert done.summary["budgets"] == ["1", "2", "3slices"]
    assert len(list((done.folder / "pretrain").iterdir())) == 2
    assert len(list((done.folder / "finetune").iterdir())) == 18
    cells = {(cell["method"], cell["budget"]): cell for cell in done.summary["cells"]}
    assert {cell["done"] for key, cell in cells.items() if key[0] == "ssmtl"} == {4}
    assert {cell["done"] for key, cell in cells.items() if key[0] == "scratch"} == {2}


def test_the_table_is_that_of_the_scores_in_the_csv(done):
    with (done.folder / "fewshot.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["metric"] == "iou" and line["unit"] == "patients"]
    values = {}
    for line in lines:
        key = (line["method"], line["budget"], line["draw"], line["pretraining"], line["class"])
        values[key] = float(line["value"])
    for key, value in values.items():
        if key[-1] == "mean":
            assert value == pytest.approx(np.mean([values[(*key[:-1], label)] for label in ("big", "small")]))
    for cell in (cell for cell in done.summary["cells"] if cell["budget"] in "12"):
        own = [v for k, v in values.items() if k[:2] == (cell["method"], cell["budget"]) and k[-1] == "mean"]
        assert cell["iou"]["mean"] == pytest.approx(np.mean(own))
        assert cell["iou"]["sd"] == pytest.approx(np.std(own, ddof=1))
    cell = next(cell for cell in done.summary["cells"] if (cell["method"], cell["budget"]) == ("ssmtl", "2"))
    gains = [
        values["ssmtl", "2", draw, seed, "mean"] - values["scratch", "2", draw, "", "mean"]
        for draw in "01"
        for seed in "01"
    ]
    assert cell["difference"]["mean"] == pytest.approx(np.mean(gains))
    assert cell["difference"]["ci95"] is None  # of two draws
    text = (done.folder / "fewshot.md").read_text()
    assert "| 2 patients | SSMTL (±t) | 4/4 |" in text
    assert "SSMTL (±t), 3 slices: cannot be said from 2 draws, 4 are needed" in text


def test_arms_share_their_labels_and_small_budgets_are_among_large_ones(done):
    one, two, slices = splits_of(done, (1, False)), splits_of(done, (2, False)), splits_of(done, (3, True))
    for draw in (0, 1):
        ((first, _),), ((both, _),), ((of_slices, _),) = one[draw], two[draw], slices[draw]
        assert set(first) < set(both) < set(of_slices)
    assert one[0] != one[1] or two[0] != two[1] or slices[0] != slices[1]


def test_pretraining_sees_the_training_patients_and_nobody_else(done, labelled):
    split = Split.read(next((done.folder / "finetune").iterdir()) / "split.json")
    for folder in (done.folder / "pretrain").iterdir():
        data = toolkit.RunConfig.read(folder / "run.toml")["data"]
        patients = {scan.patient for scan in list_scans(dataset_of(data), done.folder)}
        assert not patients & set(split.test)
        assert patients | set(split.test) == set("abcde")


def test_the_figure_has_a_panel_for_patients_and_one_for_slices(done):
    drawn = (done.folder / "fewshot.svg").read_text()
    assert "labelled patients" in drawn
    assert "labelled slices" in drawn
    assert "SSMTL (±t)" in drawn


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_draws_are_added(done, labelled, ssmtl, tmp_path):
    models = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*.safetensors")}
    flags = ["--backbone", SMALL, "--size", 32, "--classes", "big=10,small=20", "--no-surface", "--t", 1]
    flags += ["--method", "ssmtl", "--test-scans", 4, "--budget", 1, "--budget", 2, "--budget", "3slices"]
    call = ("fewshot", labelled, *flags, *SETTINGS, "--pretrainings", 2, "--out", done.folder, "--json")
    again = ssmtl(*call, "--draws", 2)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == done.summary
    more = ssmtl(*call, "--draws", 3, "--minutes", 0)
    assert more.returncode == 0, more.stderr
    summary = json.loads(more.stdout)
    assert (summary["done"], summary["planned"]) == (18, 27)
    assert "18 of 27 fine-tunings are done; rerun the command" in (done.folder / "fewshot.md").read_text()
    assert {path: path.stat().st_mtime_ns for path in done.folder.rglob("*.safetensors")} == models
    call = ("fewshot", labelled, "--config", done.folder / "fewshot.toml", "--out", done.folder, "--json")
    assert json.loads(ssmtl(*call, "--draws", 2).stdout) == done.summary


def test_before_anything_is_done_the_table_says_so(labelled, tmp_path):
    found = small(labelled, tmp_path, minutes=0, budgets=[1, "3slices"])
    assert (found.summary["done"], found.summary["planned"]) == (0, 4)
    assert "| 1 patient | SSMTL (±t) | 0/1 | - |" in (found.folder / "fewshot.md").read_text()
    assert (found.folder / "fewshot.svg").is_file()


@pytest.mark.slow
def test_what_was_done_before_it_was_stopped_is_written_and_kept(labelled, tmp_path):
    flags = [word for name in ("backbone", "size", "classes", "t") for word in (f"--{name}", str(OPTIONS[name]))]
    command = [sys.executable, "-m", "ssmtl_toolkit", "fewshot", str(labelled), *flags, *SETTINGS, "--no-surface"]
    command += ["--budget", "1", "--test-scans", "4", "--out", "out", "--cache", "cache"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    read_until(process.stderr, "[2/")
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 143
    assert "rerun the command to resume" in told
    assert "| 1 patient | from scratch | 1/5 |" in (tmp_path / "out" / "fewshot.md").read_text()


def small(data, tmp_path, **options):
    """A comparison with one draw and one pre-training."""
    options = {**OPTIONS, "budgets": [1], "draws": 1, "pretrainings": 1, **options}
    return toolkit.fewshot(str(data), out=tmp_path / "out", cache=tmp_path / "cache", **SHORT, **options)


@pytest.mark.slow
def test_unlabelled_scans_are_pretrained_on_but_for_those_of_test_patients(labelled, done, tmp_path):
    test = Split.read(next((done.folder / "finetune").iterdir()) / "split.json").test
    more = tmp_path / "more"
    for number, name in enumerate(("x", "y", f"{test[0]}_again")):
        write_scan(more / f"{name}.nii.gz", seed=number)
    copied = more / "copy.nii.gz"
    copied.write_bytes((labelled / "images" / f"{test[1]}_pre.nii.gz").read_bytes())
    known = next(patient for patient in "abcde" if patient not in test)
    (more / "known.nii.gz").write_bytes((labelled / "images" / f"{known}_pre.nii.gz").read_bytes())
    found = small(labelled, tmp_path, unlabelled=str(more), semi="mean_teacher")
    (folder,) = (found.folder / "pretrain").iterdir()
    data = toolkit.RunConfig.read(folder / "run.toml")["data"]
    names = {scan.name for scan in list_scans(dataset_of(data), tmp_path)}
    assert {name for name in names if name.startswith("unlabelled/")} == {"unlabelled/x", "unlabelled/y"}
    assert len(names) == 2 + 6  # three training patients with two scans each
    assert [method["id"] for method in found.summary["methods"]] == [
        *("scratch", "ssmtl", "scratch+mean_teacher", "ssmtl+mean_teacher"),
    ]
    assert found.summary["done"] == 4


@pytest.mark.slow
def test_a_method_starts_from_weights_of_others(labelled, tmp_path):
    spec = registry().resolve(BackboneSpec, "unet:encoder=plain,width=8")
    colours = {name: 0.1 * torch.rand_like(v.float()) for name, v in spec.build(3).encoder.state_dict().items()}
    save_file(colours, tmp_path / "colours.safetensors")
    (tmp_path / "mine.toml").write_text(
        "[methods.colours]\nbackbone = 'unet:encoder=plain,width=8'\nweights = 'colours.safetensors'"
    )
    found = small(labelled, tmp_path, methods=[str(tmp_path / "mine.toml")])
    assert [method["id"] for method in found.summary["methods"]] == ["scratch_colours", "colours"]
    (report,) = (found.folder / "finetune").glob("*/transfer.json")
    assert json.loads(report.read_text())["share"]["encoder"] == 1
    assert json.loads(report.read_text())["share"]["decoder"] == 0
    said = "colours.safetensors does not say which scans it was trained on; none of those scored should be one"
    assert f"- {said}\n" in (found.folder / "fewshot.md").read_text()


@pytest.mark.slow
def test_it_says_how_many_scored_scans_a_file_of_weights_has_seen_and_refuses_one_that_knows_their_labels(
    labelled, tmp_path
):
    places, size = {"data": str(labelled), "cache": tmp_path / "cache"}, {"backbone": SMALL, "size": 32}
    run = toolkit.pretrain(tasks=["reconstruct_next"], steps=1, held_out=0, out=tmp_path / "run", **places, **size)
    labels = {"classes": OPTIONS["classes"], "surface": False, "test_scans": 4, "seed": 5}
    tuned = toolkit.finetune(None, steps=1, out=tmp_path / "tuned", **labels, **places, **size)
    (model,) = tuned.folder.glob("*/model.safetensors")
    for name, file in {"seen": run.folder / "backbone.safetensors", "known": model}.items():
        text = f"[methods.{name}]\nbackbone = '{SMALL}'\nweights = '{file}'"
        (tmp_path / f"{name}.toml").write_text(text)
    found = small(labelled, tmp_path, methods=[str(tmp_path / "seen.toml")])
    assert found.summary["seen"] == ["backbone.safetensors has seen 4 of 4 scored scans, without labels"]
    with pytest.raises(toolkit.SsmtlError, match="comes from a training that saw the labels of"):
        small(labelled, tmp_path, methods=[str(tmp_path / "known.toml")])


@pytest.mark.slow
def test_validation_patients_are_scored_instead_of_test_patients(labelled, tmp_path):
    found = small(labelled, tmp_path, test_scans=2, validation_scans=2, score="validation", methods=["scratch"])
    (folder,) = (found.folder / "finetune").iterdir()
    scored = Split.read(folder / "split.json").test
    whole = toolkit.fewshot(
        str(labelled),
        **{**OPTIONS, "budgets": [1], "draws": 1, "methods": ["scratch"], "test_scans": 2, "validation_scans": 2},
        out=tmp_path / "test",
        cache=tmp_path / "cache",
        **SHORT,
    )
    (folder,) = (whole.folder / "finetune").iterdir()
    assert not set(Split.read(folder / "split.json").test) & set(scored)
    assert "1 to score (validation)" in (found.folder / "fewshot.md").read_text()


def test_a_pretraining_that_fails_is_said_and_the_others_are_compared(labelled, ssmtl, tmp_path):
    """A t that no scan is long enough for is the program's own error."""
    (tmp_path / "far.toml").write_text("[methods.far]\ntasks = ['reconstruct_next:t=99']")
    flags = ["--backbone", SMALL, "--size", 32, "--classes", "big=10,small=20", "--no-surface", "--test-scans", 4]
    call = (
        "fewshot",
        labelled,
        *flags,
        *SETTINGS,
        "--budget",
        1,
        "--draws",
        1,
        "--pretrainings",
        1,
        "--method",
        "far.toml",
    )
    ended = ssmtl(*call, "--out", "out")
    assert ended.returncode == 1
    assert "no scan has slices far enough apart" in ended.stderr
    assert "1 of 2 fine-tunings failed" in ended.stderr
    assert "| 1 patient | from scratch | 1/1 |" in (tmp_path / "out" / "fewshot.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budget", "9"], "--budget 9: 3 patients can be trained on"),
        (["--budget", "x"], "such as 4, or of slices, such as 10slices"),
        (["--budget", "1", "--budget", "1patient"], "--budget 1: is given twice"),
        (["--score", "validation"], "--score validation: there are none"),
        (["--method", "smtl"], "did you mean 'ssmtl'"),
        (["--set", "steps=3"], "expected an option of pre-training or fine-tuning"),
        (["--set", "pretrain.a.b=3"], "expected an option of pre-training or fine-tuning"),
        (["--set", "finetun.steps=3"], "did you mean 'finetune'"),
        (["--set", "finetune.seeds=3"], "finetune.seeds is set by this command for all methods; see --draws"),
        (["--set", "other.steps=3"], "expected an option of pre-training or fine-tuning"),
        (["--set", "finetune.stepz=3"], "no option 'stepz'"),
        (["--semi", "mean_student"], "mean_student"),
        (["--t", "0"], "greater than or equal to 1"),
        (["--method", "none.toml"], "none.toml: no such file"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_trained(flags, message, labelled, ssmtl, tmp_path):
    ended = ssmtl("fewshot", labelled, "--test-scans", 4, "--size", 32, *flags, "--out", "out")
    assert ended.returncode == 2
    assert message in ended.stderr
    assert not list((tmp_path / "out").glob("*/*/*.safetensors"))


def test_data_that_is_missing_or_without_labels_is_refused(ssmtl, scans):
    assert "DATA is missing" in ssmtl("fewshot").stderr
    ended = ssmtl("fewshot", scans)
    assert ended.returncode == 3
    assert "none of its 4 scans has a label map" in ended.stderr


def test_the_methods_are_listed_with_those_of_a_file(ssmtl, tmp_path):
    (tmp_path / "mine.toml").write_text("[methods.mine]\ntasks = ['moco_v2']")
    listed = ssmtl("fewshot", "--list", "--method", "mine.toml", "--json")
    assert set(json.loads(listed.stdout)) == {
        *("scratch", "ssmtl", "ssmtl_plus", "ssmtl_contrast", "moco_v2", "imagenet", "mine"),
    }
    assert "reconstruct_prev:t=5mm" in ssmtl("fewshot", "--list").stdout


def test_two_scans_of_one_name_below_several_folders_can_be_pretrained_on(tmp_path):
    """The names of a manifest are those of the data set, not of the files."""
    for number, patient in enumerate("abcd"):
        image = write_pair(tmp_path / "made", patient, seed=number)
        for kind in ("images", "labels"):
            file = tmp_path / "data" / kind / patient / "t1.nii.gz"
            file.parent.mkdir(parents=True)
            file.write_bytes((image.parents[1] / kind / image.name).read_bytes())
    options = {"test_scans": 1, "patient": "(.)/", "methods": ["ssmtl"]}
    assert small(tmp_path / "data", tmp_path, **options).summary["done"] == 2

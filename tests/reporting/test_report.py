"""Reports: whole without a network, readable by everyone, and never in the way of a training."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import ssmtl_toolkit as toolkit
from helpers.pages import check_page
from helpers.small import SMALL
from ssmtl_toolkit.engine.step import Step, TaskOutput
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.pretraining.loading import load_run
from ssmtl_toolkit.reporting.report import watch
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import TaskSpec


@pytest.fixture(autouse=True)
def wanted(monkeypatch):
    monkeypatch.setenv("SSMTL_REPORT", "1")


@pytest.fixture(scope="module")
def run(labelled, tmp_path_factory):
    """A short pre-training with pictures."""
    folder = tmp_path_factory.mktemp("report")
    tasks = ["reconstruct_prev:t=1", "inpaint", "slice_siam:t=1"]
    options = {"data": str(labelled), "backbone": SMALL, "size": 32, "steps": 6, "tasks": tasks, "held_out": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSMTL_REPORT", "1")
        return toolkit.pretrain(
            out=folder / "run",
            cache=folder / "cache",
            log_every=1,
            gradient_norms=True,
            balancer="uncertainty",
            **options,
        )


@pytest.fixture(scope="module")
def tuned_here(run, labelled, tmp_path_factory):
    """A short fine-tuning with its twin, and pictures of its test scans."""
    folder = tmp_path_factory.mktemp("report")
    options = {"classes": "big=10,small=20", "train_scans": 2, "test_scans": 5, "steps": 10, "batch_size": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSMTL_REPORT", "1")
        return toolkit.finetune(
            run,
            data=str(labelled),
            out=folder / "t",
            cache=folder / "cache",
            baseline="scratch",
            surface=False,
            **options,
        )


def test_a_pre_training_ends_with_a_page_on_all_that_it_did(run):
    page = check_page(run.folder / "report.html")
    assert page.headings == [
        *("What was learned", "Data", "Losses", "Slices", "Gradients and weights", "Features along a stack"),
        "Provenance",
    ]
    for label, task in run.summary["tasks"].items():
        assert f"{label}: {task['verdict']}" in page.text
    alts = [image["alt"] for image in page.images]
    assert any(alt.startswith("Loss of reconstruct_prev:t=1 by step: training ends at") for alt in alts)
    assert sum(alt.startswith("reconstruction of") for alt in alts) > 8  # at the end, and over time
    assert any(alt.startswith("Gradient norm at the backbone") for alt in alts)
    assert any(alt.startswith("Factor of the balancer") for alt in alts)
    assert "doi" in page.text
    assert "cite" in page.text


def test_the_pictures_are_files_too_and_show_the_held_out_slices(run):
    held = run.summary["held_out"]["scans"]
    files = sorted((run.folder / "samples").glob("*.png"))
    steps = {int(file.stem.rpartition("-")[2]) for file in files if "inpaint" in file.name}
    assert min(steps) == 0
    assert max(steps) == 6
    with Image.open(files[0]) as image:
        about = json.loads(image.text["ssmtl"])
    assert about["columns"][0] == "anchor"
    assert {row.rpartition(", slice ")[0] for row in about["rows"]} <= set(held)


def test_a_fine_tuning_ends_with_scores_cases_and_confusion(tuned_here):
    page = check_page(tuned_here.folder / "report.html")
    assert page.headings == [
        *(
            "Result",
            "Scores by class",
            "Worst and best cases",
            "Confusion",
            "Score against volume",
            "Curves",
            "Transfer",
        ),
        *("Data", "Provenance"),
    ]
    alts = [image["alt"] for image in page.images]
    assert sum(alt.startswith("Test scan") for alt in alts) == 12  # three worst and three best, of each arm
    assert any(alt.startswith("Dice of class big against the volume of its truth") for alt in alts)
    shown = {file.name for file in (tuned_here.folder / "pretrained-0" / "cases").iterdir()}
    assert {"worst-1.png", "worst-3.png", "best-1.png"} <= shown


def test_a_fine_tuning_with_unlabelled_scans_shows_what_they_taught(labelled, tmp_path):
    options = {"backbone": SMALL, "size": 32, "steps": 10, "batch_size": 4, "test_scans": 5, "surface": False}
    place = {"out": tmp_path / "t", "cache": tmp_path / "cache"}
    toolkit.finetune(data=str(labelled), unlabelled=str(labelled), classes="big=10,small=20", **options, **place)
    page = check_page(tmp_path / "t" / "report.html")
    assert "Unlabelled scans" in page.headings
    for said in ("in 1 of 1 trainings hardly any pixel was sure", "Share of each class in % of all pixels, scratch"):
        assert said in page.text
    assert "Share of the pixels that are sure" in page.text


def test_a_head_that_gives_images_shows_slices_noisy_slices_and_answers(scans, tmp_path):
    options = {"data": str(scans), "backbone": SMALL, "size": 32, "steps": 2, "head": "denoising", "test_scans": 2}
    tuned = toolkit.finetune(None, out=tmp_path / "t", cache=tmp_path / "cache", **options)
    page = check_page(tuned.folder / "report.html")
    assert page.headings == ["Result", "Worst and best cases", "Curves", "Transfer", "Data", "Provenance"]
    assert "noisy input" in page.text
    assert sum("slice, given, answer, error" in image["alt"] for image in page.images) == 2


def test_the_worst_case_is_the_one_with_the_lowest_dice(tuned_here):
    folder = tuned_here.folder / "pretrained-0"
    scans = json.loads((folder / "scores.json").read_text())["scans"]
    means = {s["name"]: np.mean([c["dice"] for c in s["classes"].values() if c["dice"] is not None]) for s in scans}
    with Image.open(folder / "cases" / "worst-1.png") as image:
        about = json.loads(image.text["ssmtl"])
    assert about["scan"] == min(means, key=means.__getitem__)
    assert about["score"] == pytest.approx(min(means.values()))


def test_confusion_adds_up_to_the_counts_of_each_class(tuned_here):
    scores = json.loads((tuned_here.folder / "pretrained-0" / "scores.json").read_text())
    table = np.array(scores["confusion"])
    for i, name in enumerate(("big", "small"), start=1):
        counts = [scan["classes"][name] for scan in scores["scans"]]
        assert table[i, i] == sum(c["tp"] for c in counts)
        assert table[i].sum() == sum(c["tp"] + c["fn"] for c in counts)
        assert table[:, i].sum() == sum(c["tp"] + c["fp"] for c in counts)


def test_tables_by_class_say_of_which_metric_all_scans_are_scored_as_one(tuned_here):
    text = check_page(tuned_here.folder / "report.html").text
    assert "IoU: all test scans as one, ± deviation over repetitions" in text
    assert "Dice: mean over test scans, ± deviation over repetitions" in text


def test_two_runs_are_put_side_by_side_with_what_differs(run, ssmtl, tmp_path, scans):
    other = ["--backbone", SMALL, "--size", 32, "--steps", 2, "--task", "inpaint:mask=0.5", "--no-report"]
    done = ssmtl("run", "--data", scans, *other, "--out", "other")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "other" / "report.html").exists()
    assert not (tmp_path / "other" / "samples").exists()
    done = ssmtl("report", run.folder, "other", "--out", "both.html", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"report": "both.html", "bytes": (tmp_path / "both.html").stat().st_size}
    page = check_page(tmp_path / "both.html")
    assert page.headings == ["Scores", "What differs", "Curves"]
    assert "inpaint:weight=1.0,mask=0.5" in page.text
    assert any(link.endswith("run/report.html") for link in page.linked)


def test_runs_of_two_kinds_and_folders_without_a_run_are_refused(run, tuned, ssmtl, tmp_path):
    done = ssmtl("report", run.folder, tuned)
    assert done.returncode == 2
    assert "several kinds (fine-tuning, pre-training)" in done.stderr
    done = ssmtl("report", tmp_path)
    assert done.returncode == 2
    assert "holds no run" in done.stderr
    with pytest.raises(UsageError, match="is a folder"):
        toolkit.report(run, out=tmp_path)


def test_a_run_that_is_under_way_has_a_page_that_reloads_itself_and_watching_ends_with_the_run(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "live", ignore=shutil.ignore_patterns("summary.json", "checkpoints"))
    holder = tmp_path / "live" / ".lock.json"
    holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    page = tmp_path / "live" / "report.html"
    page.unlink()
    watching = threading.Thread(target=watch, args=(tmp_path / "live",), kwargs={"every": 0.2})
    watching.start()
    until = time.monotonic() + 60
    while not page.exists() and time.monotonic() < until:
        time.sleep(0.05)
    text = page.read_text()
    holder.unlink()
    watching.join(60)
    assert '<meta http-equiv="refresh" content="2">' in text
    assert "Under way: this page loads itself anew every 2 seconds." in text
    assert "The verdicts are given at the end" in text
    assert "refresh" not in page.read_text()
    assert "Not finished" in check_page(page).text


def test_watching_waits_for_a_run_that_still_reads_scans(run, tmp_path):
    (tmp_path / ".lock.json").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    with pytest.raises(UsageError, match="still reads scans; wait until it trains, or follow it with --watch"):
        toolkit.report(tmp_path)
    watching = threading.Thread(target=watch, args=(tmp_path,), kwargs={"every": 0.05})
    watching.start()
    time.sleep(0.2)
    assert watching.is_alive()
    for name in ("metrics.jsonl", "run.toml"):
        shutil.copy(run.folder / name, tmp_path)
    (tmp_path / ".lock.json").unlink()
    watching.join(60)
    assert "Not finished" in check_page(tmp_path / "report.html").text


def test_a_folder_without_a_run_is_refused_with_what_to_give(tuned_here, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        toolkit.report(tmp_path / "nope")
    with pytest.raises(UsageError, match=r"is a part of the fine-tuning .*t; give that"):
        toolkit.report(tuned_here.folder / "pretrained-0")


def test_watching_a_finished_run_writes_its_page_once(run, ssmtl):
    done = ssmtl("report", run.folder, "--watch", "--out", "page.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "page.html"


class Odd(TaskSpec):
    """A third party's task: its pictures fail."""

    name = "odd_pictures"
    needs = frozenset({"dense"})

    def companions(self, spacing):
        return {}

    def build(self, backbone):
        return OddModule(backbone.dense_channels)


class OddModule(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.decode = nn.Conv2d(channels, 1, 1)

    def forward(self, step: Step) -> TaskOutput:
        return TaskOutput(self.decode(step.features().dense).float().square().mean(), {}, pairs=len(step.anchor))

    def pictures(self, step: Step):
        raise ValueError("no <picture> today")


class Heard(Progress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_a_third_party_task_has_a_report_and_pictures_that_fail_are_a_note(scans, tmp_path):
    heard = Heard()
    options = {"data": str(scans), "backbone": SMALL, "size": 32, "steps": 2, "tasks": [Odd()]}
    run = toolkit.pretrain(out=tmp_path / "run", cache=tmp_path / "cache", progress=heard, **options)
    failed = [note for note in heard.notes if "pictures" in note]
    assert len(failed) == 1
    assert "no <picture> today" in failed[0]
    page = check_page(run.folder / "report.html")
    assert "odd_pictures" in page.text


def test_a_report_that_cannot_be_written_does_not_fail_the_training(scans, tmp_path):
    class Wrong(Odd):
        name = "wrong_citation"
        citations = (1,)

    heard = Heard()
    options = {"data": str(scans), "backbone": SMALL, "size": 32, "steps": 2, "tasks": [Wrong()]}
    run = toolkit.pretrain(out=tmp_path / "run", cache=tmp_path / "cache", progress=heard, **options)
    assert run.summary["steps"] == 2
    assert any("the report cannot be written" in note and "(TypeError" in note for note in heard.notes)


def test_pictures_leave_no_trace_in_the_weights(run, labelled, tmp_path):
    """Equal runs with and without report end with equal files."""
    folder = Path(run.folder)
    config = toolkit.RunConfig.of(toolkit.RunConfig.read(folder / "run.toml") | {"report": False})
    again = toolkit.pretrain(config, out=tmp_path / "again", cache=tmp_path / "cache")
    for name in ("backbone.safetensors", "heads.safetensors"):
        assert (folder / name).read_bytes() == (again.folder / name).read_bytes(), name


def test_a_diverged_run_has_a_report_too(ssmtl, scans, tmp_path):
    options = ["--backbone", SMALL, "--size", 32, "--steps", 30, "--task", "reconstruct_prev:t=1", "--lr", 100]
    done = ssmtl("run", "--data", scans, *options, "--out", "far")
    assert done.returncode == 1
    assert "pictures" not in done.stderr
    page = check_page(tmp_path / "far" / "report.html")
    assert "reconstruct_prev:t=1: diverged: its loss ends at" in page.text


def test_a_run_can_be_loaded_with_the_tasks_that_draw(run):
    (checkpoint,) = (Path(run.folder) / "checkpoints").glob("step-*")
    saved = load_file(checkpoint / "state.safetensors")
    loaded = load_run(run.folder).state_dict()
    drawn = [name for name in loaded if name.startswith(("backbone.", "tasks.0.", "tasks.1."))]
    assert any(name.startswith("tasks.1.") for name in drawn)
    assert all(torch.equal(loaded[name], saved[f"model.{name}"]) for name in drawn)


def test_names_of_users_are_text_and_never_markup(run, tmp_path):
    name = "<b>run & <i>x"
    shutil.copytree(run.folder, tmp_path / name, ignore=shutil.ignore_patterns("checkpoints"))
    text = Path(toolkit.report(tmp_path / name)).read_text()
    assert "<title>Pre-training &lt;b&gt;run &amp; &lt;i&gt;x</title>" in text


def test_a_report_is_made_without_torch(run, tmp_path):
    code = (
        "import sys, ssmtl_toolkit\n"
        "ssmtl_toolkit.report(sys.argv[1], out=sys.argv[2])\n"
        "print(sorted({'torch', 'timm', 'lightning_fabric'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, run.folder, tmp_path / "page.html"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_in_a_page_are_png_that_opens(run):
    page = check_page(run.folder / "report.html")
    data = next(image["src"] for image in page.images if "src" in image)
    with Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))) as image:
        assert image.size == (128, 128)
    assert re.match(r"data:image/png;base64,", data)

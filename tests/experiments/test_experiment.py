"""`ssmtl experiment`: the file and its overlays, rows that share and resume, the table, what is refused."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import ssmtl_toolkit as toolkit
from helpers.pages import check_page
from helpers.processes import read_until
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.experiments.reading import read_experiment

TINY = """
title = "Tiny"
published_on = "mmwhs"

[backbones]
small = "unet:encoder=plain,width=4"

[pretrain]
size = 32
batch_size = 8
epochs = 2
snapshot_every = 1

[finetune]
classes = "big=10,small=20"
train_scans = 2
slices_per_scan = 2
steps = 4
seeds = 2
surface = false

[split]
train = 2
test = 4

[rows.scratch]
name = "from scratch"
backbone = "small"

[rows.end]
name = "SSMTL"
backbone = "small"
tasks = ["reconstruct_prev:t=1", "reconstruct_next:t=1"]
published = { big = 0.5, mIoU = 0.4, other = 0.1 }

[rows.epochs]
name = "SSMTL, {epoch} epochs"
backbone = "small"
tasks = ["reconstruct_prev:t=1", "reconstruct_next:t=1"]
snapshots = [1, 2]

[on.folder]
dataset = { channel = 0 }

[quick.pretrain]
epochs = 3

[quick.rows.end]
name = "SSMTL, short"
"""


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml"


@pytest.fixture(scope="module")
def done(labelled, tmp_path_factory):
    """The tiny experiment, done; do not write there."""
    base = tmp_path_factory.mktemp("done")
    (base / "tiny.toml").write_text(TINY)
    return toolkit.experiment(base / "tiny.toml", data=str(labelled), out=base / "out", cache=base / "cache")


def test_its_report_has_the_table_and_leads_to_its_runs(done, tmp_path):
    page = check_page(toolkit.report(done, out=tmp_path / "page.html"))
    assert page.headings == [done.summary["title"] or "tiny", "Runs", "Provenance"]
    assert all(row["name"] in page.text for row in done.summary["rows"])
    assert done.summary["how"] in page.text
    assert all(name in page.text for name in folders(done.folder, "finetune"))


def folders(out, kind):
    return sorted(path.name for path in (out / kind).iterdir())


def test_every_row_has_the_scores_of_its_own_fine_tuning(done):
    rows = {row["id"]: row for row in done.summary["rows"]}
    assert list(rows) == ["scratch", "end", "epochs@1", "epochs@2"]
    for row in rows.values():
        arm = "scratch" if row["id"] == "scratch" else "pretrained"
        folder = done.folder / "finetune" / row["finetune"]["folder"].rpartition("/")[2]
        each = [json.loads((folder / f"{arm}-{seed}" / "scores.json").read_text()) for seed in (0, 1)]
        for label in ("big", "small"):
            values = [one["classes"][label]["iou"] for one in each]
            assert row["columns"][label]["values"] == values
            assert row["columns"][label]["mean"] == pytest.approx(np.mean(values))
            assert row["columns"][label]["sd"] == pytest.approx(np.std(values, ddof=1))
        assert row["columns"]["mIoU"]["values"] == pytest.approx(
            [np.mean([one["classes"][label]["iou"] for label in ("big", "small")]) for one in each]
        )


def test_the_gain_is_paired_with_the_same_network_from_scratch(done):
    rows = {row["id"]: row for row in done.summary["rows"]}
    ours, theirs = (rows[name]["columns"]["mIoU"]["values"] for name in ("end", "scratch"))
    difference = np.subtract(ours, theirs)
    gain = rows["end"]["gain"]
    assert gain["over"] == "scratch"
    assert gain["mean"] == pytest.approx(difference.mean())
    assert gain["sd"] == pytest.approx(np.std(difference, ddof=1))
    assert gain["ci95"] is None  # of two repetitions
    assert rows["scratch"]["gain"] is None


def test_rows_share_slices_and_one_pretraining_and_equal_rows_are_one(done):
    assert len(folders(done.folder, "pretrain")) == 1
    splits = [json.loads(file.read_text()) for file in done.folder.glob("finetune/*/split.json")]
    assert len(splits) == 3  # the end and its last snapshot are one
    assert all(split == splits[0] for split in splits)
    assert len(splits[0]["slices"]) == 2


def test_the_last_snapshot_scores_like_the_end_of_the_run(done):
    rows = {row["id"]: row for row in done.summary["rows"]}
    assert rows["epochs@2"]["columns"]["mIoU"]["values"] == rows["end"]["columns"]["mIoU"]["values"]
    assert rows["epochs@1"]["columns"]["mIoU"]["values"] != rows["end"]["columns"]["mIoU"]["values"]


def test_published_values_stand_beside_ours_and_say_whether_they_compare(done):
    found = done.summary
    assert found["columns"] == ["big", "small", "mIoU", "other"]
    assert (found["comparable"], found["not_comparable_because"]) == (False, ["other data (folder)"])
    end = next(row for row in found["rows"] if row["id"] == "end")
    assert end["columns"]["big"]["difference"] == pytest.approx(end["columns"]["big"]["mean"] - 0.5)
    text = (done.folder / "tiny.md").read_text()
    assert "| published* |" in text
    assert "NOT COMPARABLE" in text
    assert "(0.100)" in text  # of a class that we do not have: shown all the same
    with (done.folder / "tiny.csv").open() as file:
        lines = {(line["row"], line["column"]): line for line in csv.DictReader(file)}
    assert len(lines) == 4 * 4
    assert float(lines["end", "mIoU"]["mean"]) == end["columns"]["mIoU"]["mean"]
    assert float(lines["end", "other"]["published"]) == 0.1
    assert lines["end", "other"]["mean"] == ""


def test_the_ensemble_of_each_rows_repetitions_has_a_table_of_its_own(done):
    rows = {row["id"]: row for row in done.summary["rows"]}
    cells = [line.strip("| ").split(" | ") for line in (done.folder / "tiny.md").read_text().splitlines()]
    start = cells.index(["ensemble", "models", "mIoU", "Dice"])
    table = {line[0]: line[1:] for line in cells[start + 2 : start + 6]}
    for row in rows.values():
        arm = "scratch" if row["id"] == "scratch" else "pretrained"
        folder = done.folder / "finetune" / row["finetune"]["folder"].rpartition("/")[2]
        scores = json.loads((folder / f"ensemble-{arm}.json").read_text())["scores"]
        assert row["ensemble"]["models"] == 2
        assert row["ensemble"]["also"] == {"dice": scores["mean"]["dice"]}
        assert row["ensemble"]["columns"] == {
            **{label: one["iou"] for label, one in scores["classes"].items()},
            "mIoU": scores["mean"]["iou"],
        }
        assert table[row["name"]] == ["2", f"{scores['mean']['iou']:.3f}", f"{scores['mean']['dice']:.3f}"]
    assert "Ensemble: the models of all repetitions" in (done.folder / "tiny.md").read_text()


def test_a_row_of_fewer_repetitions_than_its_folder_has_shows_no_ensemble(tiny, done, tmp_path, labelled):
    shutil.copytree(done.folder, tmp_path / "out")
    again = toolkit.experiment(tiny, data=str(labelled), out=tmp_path / "out", cache=tmp_path / "cache", seeds=1)
    assert [row["ensemble"] for row in again.summary["rows"]] == [None] * 4
    assert [row["columns"]["mIoU"]["n"] for row in again.summary["rows"]] == [1] * 4
    assert "nsemble" not in (tmp_path / "out" / "tiny.md").read_text()


def test_the_figure_shows_every_snapshot(done):
    drawn = (done.folder / "tiny.svg").read_text()
    assert drawn.startswith("<?xml")
    assert "epochs of pre-training" in drawn
    assert "from scratch" in drawn


def test_the_resolved_file_says_the_same_without_overlays(done, labelled):
    resolved = read_experiment(done.folder / "tiny.toml")
    again = read_experiment(done.folder.parent / "tiny.toml", str(labelled))
    assert resolved.jobs == again.jobs


LEFT = (".lock.json", ".environment.json.0123abcd-1-1.part")
"""What a process leaves in a row's folder that is killed when all is done, and its end is written down."""


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_more_seeds_are_added(labelled, tiny, ssmtl, tmp_path):
    call = ("experiment", tiny, "--data", labelled, "--out", "out", "--row", "scratch", "--row", "end")
    first = ssmtl(*call, "--json")
    assert first.returncode == 0, first.stderr
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert len(times) > 4
    left = [run / name for run in (tmp_path / "out" / "finetune").iterdir() for name in LEFT]
    for file in left:
        file.write_text("{}")
    second = ssmtl(*call, "--json")
    assert [file for file in left if file.exists()] == []
    assert json.loads(second.stdout) == json.loads(first.stdout)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")} == times
    more = ssmtl(*call, "--json", "--seeds", 3)
    assert more.returncode == 0, more.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in times.items())
    for before, after in zip(json.loads(first.stdout)["rows"][:2], json.loads(more.stdout)["rows"][:2], strict=True):
        assert after["columns"]["mIoU"]["values"][:2] == before["columns"]["mIoU"]["values"]
        assert after["columns"]["mIoU"]["n"] == 3


@pytest.mark.slow
def test_rows_done_alone_and_in_another_order_give_the_same_numbers(labelled, tiny, done, tmp_path):
    for row in ("epochs@2", "scratch"):
        found = toolkit.experiment(tiny, data=str(labelled), out=tmp_path / "out", cache=tmp_path / "c", rows=[row])
    status = {row["id"]: row["status"] for row in found.summary["rows"]}
    assert status == {"scratch": "done", "end": "done", "epochs@1": "missing", "epochs@2": "done"}
    whole = {row["id"]: row["columns"] for row in done.summary["rows"]}
    assert all(row["columns"] == whole[row["id"]] for row in found.summary["rows"] if row["status"] == "done")
    assert "| SSMTL, 1 epochs | missing |" in (tmp_path / "out" / "tiny.md").read_text()


def start(tmp_path, *arguments):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "COLUMNS": "160"}
    command = [sys.executable, "-m", "ssmtl_toolkit", "experiment", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_killed_matrix_goes_on_where_it_was(labelled, tiny, done, ssmtl, tmp_path):
    process = start(tmp_path, tiny, "--data", labelled, "--out", "out")
    read_until(process.stderr, "SSMTL: fine-tuning in")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.glob("out/pretrain/*/summary.json"))
    models = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/**/*.safetensors")}
    again = ssmtl("experiment", tiny, "--data", labelled, "--out", "out", "--json")
    assert again.returncode == 0, again.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in models.items())
    for ours, whole in zip(json.loads(again.stdout)["rows"], done.summary["rows"], strict=True):
        assert ours["columns"] == whole["columns"]


@pytest.mark.slow
def test_two_processes_share_the_work(labelled, tiny, done, tmp_path):
    both = [start(tmp_path, tiny, "--data", labelled, "--out", "out", "--json") for _ in range(2)]
    ended = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    said = "".join(err for _, err in ended)
    assert said.count("pre-training in") == 1
    assert said.count("fine-tuning in") == 3
    for out, _ in ended:
        assert [row["columns"] for row in json.loads(out)["rows"]] == [row["columns"] for row in done.summary["rows"]]


@pytest.mark.slow
def test_a_signal_ends_it_with_what_is_done_kept(labelled, tiny, ssmtl, tmp_path):
    process = start(tmp_path, tiny, "--data", labelled, "--out", "out", "--set", "finetune.steps=5000")
    read_until(process.stderr, "step ")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.splitlines()[-1].endswith("rerun the command to resume")


def test_a_row_that_cannot_be_does_not_stop_the_others(labelled, tiny, ssmtl, tmp_path):
    tiny.write_text(
        TINY.replace(
            'tasks = ["reconstruct_prev:t=1", "reconstruct_next:t=1"]\npub', 'tasks = ["reconstruct_prev:t=50"]\npub'
        )
    )
    failed = ssmtl("experiment", tiny, "--data", labelled, "--out", "out", "--row", "end", "--row", "scratch")
    assert failed.returncode == 1
    assert "1 of 2 rows failed" in failed.stderr
    assert "row 'end': task 'reconstruct_prev:t=50': no scan has slices far enough apart" in failed.stderr
    rows = {row["id"]: row for row in json.loads((tmp_path / "out" / "tiny.json").read_text())["rows"]}
    assert (rows["end"]["status"], rows["scratch"]["status"]) == ("failed", "done")
    assert "SSMTL: failed: task" in (tmp_path / "out" / "tiny.md").read_text()


@pytest.mark.slow
def test_validation_patients_can_be_scored_and_held_out_of_pretraining(labelled, tiny, tmp_path):
    parts = 'train = 2\nvalidation = 4\ntest = 2\nscore = "validation"\npretrain_on = "train"\n'
    tiny.write_text(TINY.replace("train = 2\ntest = 4\n", parts))
    toolkit.experiment(tiny, data=str(labelled), out=tmp_path / "out", cache=tmp_path / "c", rows=["end"])
    (run,) = tmp_path.glob("out/pretrain/*")
    (tuned,) = tmp_path.glob("out/finetune/*")
    whole = json.loads(Path(tomllib.loads((run / "run.toml").read_text())["without"]).read_text())
    used = json.loads((tuned / "split.json").read_text())
    assert len(whole["validation"]) == 2  # of 4 scans
    assert used["test"] == whole["validation"]
    assert json.loads((run / "summary.json").read_text())["scans"]["used"] == 2 * len(whole["train"])
    assert json.loads((tuned / "summary.json").read_text())["scans"]["test_seen_in_pretraining"] == 0


@pytest.mark.slow
def test_a_folder_that_was_moved_goes_on_and_changed_labels_make_another_run(labelled, tiny, ssmtl, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(labelled, data)
    call = ("experiment", tiny, "--data", data, "--row", "end", "--json")
    assert ssmtl(*call, "--out", "out").returncode == 0
    shutil.move(tmp_path / "out", tmp_path / "moved")
    more = ssmtl(*call, "--out", "moved", "--seeds", 3)
    assert more.returncode == 0, more.stderr
    assert len(folders(tmp_path / "moved", "finetune")) == 1
    label = nib.load(data / "labels" / "a_pre.nii.gz")
    changed = np.asanyarray(label.dataobj).copy()
    changed[0, 0, 0] = 10
    nib.save(nib.Nifti1Image(changed, label.affine), data / "labels" / "a_pre.nii.gz")
    assert ssmtl(*call, "--out", "moved").returncode == 0
    assert len(folders(tmp_path / "moved", "finetune")) == 2
    assert len(folders(tmp_path / "moved", "pretrain")) == 1  # which sees no labels
    shutil.copy(labelled / "images" / "b_pre.nii.gz", data / "images" / "unlabelled.nii.gz")
    assert ssmtl(*call, "--out", "moved").returncode == 0
    assert len(folders(tmp_path / "moved", "pretrain")) == 2


@pytest.mark.slow
def test_data_that_were_moved_are_the_same_data_and_nothing_is_trained_again(labelled, tiny, ssmtl, tmp_path):
    shutil.copytree(labelled, tmp_path / "here")
    call = ("experiment", tiny, "--row", "end", "--out", "out", "--json")
    first = ssmtl(*call, "--data", tmp_path / "here")
    assert first.returncode == 0, first.stderr
    shutil.move(tmp_path / "here", tmp_path / "there")
    second = ssmtl(*call, "--data", tmp_path / "there")
    assert second.returncode == 0, second.stderr
    assert "pre-training in" not in second.stderr
    assert "fine-tuning in" not in second.stderr
    assert len(folders(tmp_path / "out", "pretrain")) == len(folders(tmp_path / "out", "finetune")) == 1


@pytest.mark.slow
def test_what_computes_or_logs_makes_no_other_run(labelled, tiny, ssmtl, tmp_path):
    call = ("experiment", tiny, "--data", labelled, "--row", "end", "--out", "out", "--json")
    assert ssmtl(*call).returncode == 0
    again = ssmtl(*call, "--set", "pretrain.gradient_norms=true", "--set", "pretrain.channels_last=on")
    assert again.returncode == 0, again.stderr
    assert "pre-training in" not in again.stderr


OF_A_START = 'freeze = "encoder", transfer = "encoder", pretrained_lr = 0.5, frozen_steps = 1'


@pytest.mark.slow
def test_the_gain_is_over_the_row_from_scratch_with_the_same_slices_whatever_the_repetitions(labelled, tiny, ssmtl):
    tiny.write_text(
        TINY.replace('name = "SSMTL"\n', f'name = "SSMTL"\nfinetune = {{ seeds = 3, {OF_A_START} }}\n')
        + '\n[rows.many]\nbackbone = "small"\nfinetune = { slices_per_scan = 3 }\n'
    )
    done = ssmtl("experiment", tiny, "--data", labelled, "--out", "o", "--row", "scratch", "--row", "end", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["id"]: row for row in json.loads(done.stdout)["rows"]}
    end = rows["end"]
    assert (end["gain"]["over"], end["gain"]["n"], end["columns"]["mIoU"]["n"]) == ("scratch", 2, 3)
    assert rows["many"]["gain"] is None


def test_a_table_of_which_nothing_is_done_shows_the_published_values(labelled, tiny, ssmtl, tmp_path):
    tiny.write_text(TINY.replace("t=1", "t=50"))
    failed = ssmtl("experiment", tiny, "--data", labelled, "--out", "o", "--row", "end", "--row", "epochs")
    assert failed.returncode == 1
    assert failed.stderr.count("pre-training in") == 1  # what failed for one row is not tried again for others
    assert "| SSMTL | failed | 0.400 | - |" in (tmp_path / "o" / "tiny.md").read_text()


def test_what_makes_values_not_comparable_is_kept_in_the_resolved_file(labelled, tiny, tmp_path):
    resolved = read_experiment(tiny, str(labelled), quick=True)
    (tmp_path / "again.toml").write_text(resolved.write())
    assert read_experiment(tmp_path / "again.toml").not_comparable_because == ("other data (folder)", "--quick")


# The file


def test_overlays_lie_over_each_other(tiny, labelled, tmp_path):
    (tmp_path / "over.toml").write_text(
        'base = "tiny.toml"\ndata = "scans"\n[pretrain]\nsize = 48\n'
        "[on.folder.pretrain]\nbatch_size = 5\n[on.phantom.pretrain]\nbatch_size = 6\n"
    )
    (tmp_path / "scans").mkdir()
    plain = read_experiment(tmp_path / "over.toml").jobs[1].pretrain
    assert (plain.size, plain.batch_size, plain.epochs, plain.steps) == (48, 5, 2, None)
    assert plain.data.root == tmp_path / "scans"  # relative to the file, wherever one is
    quick = read_experiment(tmp_path / "over.toml", "phantom", quick=True, settings={"pretrain.size": 40}, seeds=7)
    run = quick.jobs[1].pretrain
    assert (run.size, run.batch_size, run.epochs) == (40, 6, 3)
    assert quick.jobs[1].name == "SSMTL, short"
    assert quick.jobs[0].finetune.seeds == 7
    assert quick.not_comparable_because == ("other data (phantom)", "--quick", "pretrain.size = 40")


def test_of_steps_and_epochs_the_upper_one_stays(tmp_path):
    (tmp_path / "x.toml").write_text(
        '[pretrain]\nepochs = 5\n[rows.epochs]\ntasks = ["moco_v2"]\n'
        '[rows.steps]\ntasks = ["moco_v2"]\npretrain = { steps = 3 }\n'
    )
    by_epochs, by_steps = read_experiment(tmp_path / "x.toml", "phantom", settings={"rows.steps.name": "S"}).jobs
    assert (by_epochs.pretrain.epochs, by_epochs.pretrain.steps, by_steps.pretrain.steps) == (5, None, 3)
    assert by_steps.name == "S"
    (longer, _) = read_experiment(tmp_path / "x.toml", "phantom", settings={"pretrain.steps": 7}).jobs
    assert longer.pretrain.steps == 7


def test_fine_tuning_sees_the_same_slices_as_pre_training_from_scratch_too(tiny, labelled):
    jobs = read_experiment(tiny, str(labelled), settings={"pretrain.axis": "coronal"}).jobs
    assert {(job.finetune.axis, job.finetune.size) for job in jobs} == {("coronal", 32)}


def test_dataset_options_fill_in_only_what_was_not_given(tmp_path):
    (tmp_path / "x.toml").write_text("[on.phantom.dataset]\npatients = 3\nseed = 4\n[rows.a]\n")
    assert str(read_experiment(tmp_path / "x.toml", "phantom").dataset) == "phantom:patients=3,seed=4"
    assert str(read_experiment(tmp_path / "x.toml", "phantom:seed=1").dataset) == "phantom:patients=3,seed=1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("steps = 4", "stps = 4"), "row 'scratch': options: no option 'stps'; did you mean 'steps'?"),
        (("[split]", "[spilt]"), "no key 'spilt'; did you mean 'split'?"),
        (("train = 2\ntest", "trian = 2\ntest"), "no key 'split.trian'; did you mean 'train'?"),
        (('backbone = "small"', 'bakcbone = "small"'), "no key 'rows.scratch.bakcbone'; did you mean 'backbone'?"),
        (("reconstruct_prev", "reconstruct_pre"), "row 'end': no task named 'reconstruct_pre'"),
        (('backbone = "small"', 'backbone = "smal"'), "row 'scratch': no backbone named 'smal'"),
        (("[quick.rows.end]", "[quick.rows.ned]"), "refers to row 'ned'"),
        (("snapshots = [1, 2]", "snapshots = [1, 9]"), "row 'epochs': has snapshots after its 2 epochs"),
        (("snapshot_every = 1\n\n", "snapshot_every = 2\n\n"), "row 'epochs': its snapshots are not multiples of"),
        (("snapshots = [1, 2]", "snapshots = [0]"), "rows.epochs.snapshots: expected different epochs"),
        (("big = 0.5", 'big = "x"'), "rows.end.published.big"),
        (("size = 32", 'size = 32\nwithout = "x"'), "[pretrain] without is set by the experiment itself"),
        (("steps = 4", 'steps = 4\nsource = "x"'), "[finetune] source is set by the experiment itself"),
        (("size = 32", "size = 32\ndevices = 2"), "several devices"),
        (('title = "Tiny"', 'title = "Tiny'), "cannot be read as an experiment"),
        (('title = "Tiny"', 'base = "tiny.toml"'), "leads back to itself"),
        (('title = "Tiny"', 'base = "no.toml"'), "no.toml: no such file"),
        (("[on.folder]", "[other.folder]"), "no key 'other'"),
        (("[on.folder]", "[on.foldr]"), "no dataset named 'foldr'; did you mean 'folder'?"),
        (("[quick.rows.end]", "[on.folder.rows.x]\n[quick.rows.end]"), "refers to row 'x'"),
        (("[quick.pretrain]", '[quick]\ndata = "phantom"\n[quick.pretrain]'), "give them with --data"),
        (("test = 4", 'test = 4\nscore = "validation"'), "needs validation scans"),
        (("epochs = 2", "steps = 2"), "snapshots are after epochs"),
        (('name = "SSMTL"', 'name = "SSMTL"\nfinetune = { head = "denoising", classes = "" }'), "row 'end'"),
        (("channel = 0", "chanel = 0"), "[dataset] folder: no option 'chanel'; did you mean 'channel'?"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_before_anything_is_trained(tiny, labelled, ssmtl, tmp_path, change, said):
    assert change[0] in TINY
    tiny.write_text(TINY.replace(*change, 1))
    done = ssmtl("experiment", tiny, "--data", labelled, "--out", "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert "tiny.toml" in done.stderr or "no.toml" in done.stderr or "[dataset]" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("no.toml",), 2, "no.toml: no such file"),
        (("tiny.toml",), 2, "names no data; give them with --data"),
        (("tiny.toml", "--data", "nowhere"), 3, "nowhere: no such file or folder"),
        (("tiny.toml", "--data", "phantom", "--row", "ned"), 2, "no row 'ned'; did you mean 'end'?"),
        (("tiny.toml", "--data", "phantom", "--set", "x"), 2, "write KEY=VALUE"),
        (("tiny.toml", "--data", "phantom", "--set", "pretrain.size=big"), 2, "size"),
        (("bare.toml", "--data", "phantom", "--quick"), 2, "has no table [quick]"),
    ],
)
def test_wrong_use_is_told(tiny, ssmtl, tmp_path, arguments, code, said):
    (tmp_path / "bare.toml").write_text("[rows.a]\n")
    done = ssmtl("experiment", *arguments, "--out", "out")
    assert done.returncode == code
    assert said in done.stderr


def test_python_says_the_same(tiny, labelled, tmp_path):
    with pytest.raises(UsageError, match="no row"):
        toolkit.experiment(tiny, data=str(labelled), out=tmp_path / "out", rows=["x"])
    (tmp_path / "file").write_text("")
    with pytest.raises(SsmtlError, match="cannot be written"):
        toolkit.experiment(tiny, data=str(labelled), out=tmp_path / "file" / "out", cache=tmp_path / "c")

"""Fine-tuning from the command line and from Python, on scans of balls whose labels are known."""

import json
import os
import shutil
import signal
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from torch.nn import functional as F

import ssmtl_toolkit as toolkit
from helpers.processes import read_until
from helpers.small import SMALL, write_pair
from ssmtl_toolkit import DataError, UsageError
from ssmtl_toolkit.data.sampling import in_turn
from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.downstream.model import ModelSpec
from ssmtl_toolkit.evaluation import statistics
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import MetricSpec

QUICK = {"surface": False, "steps": 4, "slices_per_scan": 2, "train_scans": 2, "test_scans": 2}
GIVEN = {k: v for k, v in QUICK.items() if k != "test_scans"}  # with a split


class Notes(Progress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_report_holds_scores_by_class_over_seeds_and_the_paired_difference(tuned):
    summary = summary_of(tuned)
    assert set(summary["arms"]) == {"pretrained", "scratch"}
    for arm, found in summary["arms"].items():
        values = [json.loads((tuned / f"{arm}-{i}" / "scores.json").read_text())["mean"]["iou"] for i in (0, 1)]
        assert found["iou"]["values"] == values
        assert found["iou"]["mean"] == pytest.approx(np.mean(values))
        assert found["iou"]["sd"] == pytest.approx(np.std(values, ddof=1))
        assert list(found["classes"]) == ["big", "small"]
    both = [np.array(summary["arms"][arm]["iou"]["values"]) for arm in ("pretrained", "scratch")]
    difference = summary["difference"]["iou"]
    assert difference["values"] == pytest.approx(list(both[0] - both[1]))
    assert difference["ci95"] is None  # of two repetitions
    assert summary["difference"]["dice"]["over_patients"]["n"] == 2
    assert summary["difference"]["dice"]["over_patients"]["ci95"] is None


def test_it_learns_to_find_the_big_ball(tuned):
    assert min(summary_of(tuned)["arms"]["pretrained"]["classes"]["big"]["iou"]["values"]) > 0.5


def test_twins_share_slices_seeds_and_the_heads_first_weights(tuned, labelled):
    split = json.loads((tuned / "split.json").read_text())
    assert len(split["slices"]) == 2
    for drawn in split["slices"]:
        assert [len(rows) for rows in drawn.values()] == [3, 3]
        assert all(name[0] in split["train"] for name in drawn) or all(
            name.rpartition("_")[0] in split["train"] for name in drawn
        )
    assert not set(split["train"]) & set(split["test"])
    assert len(split["test"]) == 2  # four scans, of two patients
    training = summary_of(tuned)["training"]
    assert [one["steps"] for arm in training.values() for one in arm] == [60] * 4


def test_three_updates_are_those_of_plain_torch(labelled, pretrained, tmp_path):
    done = toolkit.finetune(
        pretrained, data=str(labelled), out=tmp_path / "f", recipe="paper", **{**QUICK, "steps": 3, "batch_size": 4}
    )
    model_spec, _ = ModelSpec.load(done.folder / "pretrained-0" / "model.safetensors")
    torch.manual_seed(step_seed(0, 4))
    model = model_spec.build()
    model.backbone.load_state_dict(load_file(pretrained / "backbone.safetensors"))
    images, targets = [], []
    (drawn,) = json.loads((done.folder / "split.json").read_text())["slices"]
    for name, rows in drawn.items():
        image = np.asanyarray(nib.load(labelled / "images" / f"{name}.nii.gz").dataobj)
        label = np.asanyarray(nib.load(labelled / "labels" / f"{name}.nii.gz").dataobj)
        for row in rows:  # axial, L P in the file -> rows to P, columns to L: the transpose
            pixels = image[:, :, row].T.astype(np.float64)
            images.append(((pixels - pixels.mean()) / pixels.std()).astype(np.float16).astype(np.float32))
            targets.append(np.select([label[:, :, row].T == 10, label[:, :, row].T == 20], [1, 2]))
    images, targets = torch.tensor(np.stack(images))[:, None], torch.tensor(np.stack(targets))
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for step in range(3):
        chosen = in_turn(np.arange(len(images)), step * 4, 4, step_seed(0, 5))
        F.cross_entropy(model(images[chosen]), targets[chosen]).backward()
        adam.step()
        adam.zero_grad()
    saved = load_file(done.folder / "pretrained-0" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor.float(), saved[name].float(), atol=2e-4, rtol=1e-3), name


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights_and_a_stopped_one_goes_on(labelled, pretrained, tmp_path, ssmtl):
    options = ["--from", pretrained, "--data", labelled, "--train-scans", 2, "--test-scans", 2, "--steps", 3]
    options += ["--no-surface", "--seeds", 2, "--baseline", "scratch"]
    assert ssmtl("finetune", *options, "--out", "one").returncode == 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "scratch-1")
    (tmp_path / "two" / "pretrained-1" / "scores.json").unlink()  # as if it was stopped in the test
    (tmp_path / "two" / "summary.json").unlink()
    kept = (tmp_path / "two" / "scratch-0" / "model.safetensors").stat().st_mtime_ns
    done = ssmtl("finetune", "--resume", "two", "--json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two" / "scratch-0" / "model.safetensors").stat().st_mtime_ns == kept
    one, two = (summary_of(tmp_path / name) for name in ("one", "two"))
    assert one["arms"] == two["arms"]
    assert json.loads(done.stdout)["arms"] == two["arms"]
    for name in ("pretrained-1", "scratch-1"):
        first, second = (load_file(tmp_path / run / name / "model.safetensors") for run in ("one", "two"))
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_more_seeds_can_be_added_and_other_options_are_refused(labelled, pretrained, ssmtl, tmp_path):
    options = ["--from", pretrained, "--data", labelled, "--test-scans", 2, "--steps", 1, "--no-surface"]
    assert ssmtl("finetune", *options, "--out", "f").returncode == 0
    done = ssmtl("finetune", "--resume", "f", "--lr", 0.1)
    assert done.returncode == 2
    assert "lr is 0.1, was 0.001" in done.stderr
    done = ssmtl("finetune", "--resume", "f", "--seeds", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["seeds"] == [0, 1]
    assert len(json.loads((tmp_path / "f" / "split.json").read_text())["slices"]) == 2


def test_a_split_that_is_given_is_used_with_its_slices(labelled, pretrained, tmp_path):
    split = {"train": ["a", "b"], "validation": [], "test": ["c"], "slices": [{"a_pre": [4, 5], "b_post": [5]}]}
    (tmp_path / "s.json").write_text(json.dumps(split))
    done = toolkit.finetune(pretrained, data=str(labelled), split=tmp_path / "s.json", out=tmp_path / "f", **GIVEN)
    assert done.summary["training_slices"] == [3]
    assert [
        scan["name"] for scan in json.loads((done.folder / "pretrained-0" / "scores.json").read_text())["scans"]
    ] == [
        "c_post",
        "c_pre",
    ]
    assert json.loads((done.folder / "split.json").read_text())["slices"] == split["slices"]


def test_repetitions_that_are_added_take_the_slices_of_the_given_split(labelled, pretrained, ssmtl, tmp_path):
    split = {"train": ["a", "b"], "test": ["c"], "slices": [{"a_pre": [4]}, {"b_pre": [5, 6]}]}
    (tmp_path / "s.json").write_text(json.dumps(split))
    options = ["--from", pretrained, "--data", labelled, "--split", "s.json", "--steps", 1, "--no-surface"]
    assert ssmtl("finetune", *options, "--out", "f").returncode == 0
    done = ssmtl("finetune", "--resume", "f", "--seeds", 3, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["training_slices"] == [1, 2, 1]


@pytest.mark.parametrize(
    ("slices", "said"),
    [
        ({"a_pre": [99]}, "slice 99 of 'a_pre' does not exist, it has 0 to 9"),
        ({"c_pre": [1]}, "slices belong to 'c_pre', which is not a training scan"),
    ],
)
def test_slices_that_cannot_be_are_refused(labelled, pretrained, tmp_path, slices, said):
    (tmp_path / "s.json").write_text(json.dumps({"train": ["a"], "test": ["c"], "slices": [slices]}))
    with pytest.raises(DataError, match=said):
        toolkit.finetune(pretrained, data=str(labelled), split=tmp_path / "s.json", out=tmp_path / "f", **GIVEN)


def test_frozen_parts_keep_every_bit_batch_norm_included(labelled, pretrained, tmp_path):
    saved = load_file(pretrained / "backbone.safetensors")
    for freeze, moved in (("encoder", {"decoder", "head"}), ("backbone", {"head"})):
        done = toolkit.finetune(pretrained, data=str(labelled), freeze=freeze, out=tmp_path / freeze, **QUICK)
        tuned = load_file(done.folder / "pretrained-0" / "model.safetensors")
        for part in ("encoder", "decoder"):
            same = [torch.equal(tuned[f"backbone.{k}"], v) for k, v in saved.items() if k.startswith(part)]
            assert all(same) is (part not in moved)


def test_encoder_and_decoder_take_their_own_learning_rates(labelled, pretrained, tmp_path):
    saved = load_file(pretrained / "backbone.safetensors")
    rates = {"encoder_lr": 1e-9, "decoder_lr": 1e-2}
    done = toolkit.finetune(pretrained, data=str(labelled), out=tmp_path / "f", **rates, **QUICK)
    tuned = load_file(done.folder / "pretrained-0" / "model.safetensors")
    moved = {
        part: max(
            float((tuned[f"backbone.{k}"] - v).abs().max())
            for k, v in saved.items()
            if k.startswith(part) and k.endswith("weight")
        )
        for part in ("encoder", "decoder")
    }
    assert moved["encoder"] < 1e-7
    assert moved["decoder"] > 1e-3


def test_with_validation_scans_it_stops_when_nothing_is_gained_and_keeps_the_best_weights(
    labelled, pretrained, tmp_path
):
    options = {**QUICK, "steps": 400, "check_every": 4, "patience": 2, "validation_scans": 2, "lr": 0.01}
    done = toolkit.finetune(pretrained, data=str(labelled), out=tmp_path / "f", **options)
    (training,) = done.summary["training"]["pretrained"]
    records = [json.loads(line) for line in (done.folder / "pretrained-0" / "metrics.jsonl").read_text().splitlines()]
    checks = {record["step"]: record["validation"] for record in records if "validation" in record}
    assert training["steps"] < 400
    assert training["steps"] == max(checks)
    assert training["validation"] == max(checks.values()) == checks[training["kept_step"]]
    assert training["steps"] - training["kept_step"] == 8
    assert not any(value > training["validation"] for value in checks.values())


def test_unannotated_voxels_change_neither_loss_nor_score(pretrained, tmp_path):
    """Two data sets that differ only where a value says that nobody annotated give the same weights and scores."""
    results = []
    for junk in (10, 20):
        root = tmp_path / f"data{junk}"
        for i, name in enumerate("abc"):
            write_pair(root, name, seed=i)
            file = root / "labels" / f"{name}.nii.gz"
            image = nib.load(file)
            label = np.asanyarray(image.dataobj).copy()
            label[:10] = 255
            if junk == 20:
                label[:10, ::2] = 255
            nib.save(nib.Nifti1Image(label, image.affine), file)
        done = toolkit.finetune(
            pretrained, data=str(root), ignore_value=255, out=tmp_path / f"f{junk}", **{**QUICK, "test_scans": 1}
        )
        results.append(json.loads((done.folder / "pretrained-0" / "scores.json").read_text())["scans"][0])
    counted = sum(v for k, v in results[0]["classes"]["10"].items() if k in {"tp", "fn"})
    assert results[0] == results[1]
    assert counted > 0


def test_a_class_on_no_training_slice_is_named(labelled, pretrained, tmp_path):
    heard = Notes()
    split = {"train": ["a"], "test": ["c"], "slices": [{"a_pre": [5]}]}
    root = shutil.copytree(labelled, tmp_path / "data")
    for name in ("a_pre", "a_post"):
        image = nib.load(root / "labels" / f"{name}.nii.gz")
        label = np.asanyarray(image.dataobj).copy()
        label[label == 20] = 0
        nib.save(nib.Nifti1Image(label, image.affine), root / "labels" / f"{name}.nii.gz")
    (tmp_path / "s.json").write_text(json.dumps(split))
    toolkit.finetune(pretrained, data=str(root), split=tmp_path / "s.json", out=tmp_path / "f", progress=heard, **GIVEN)
    assert "class '20' does not appear in the 1 training slices of seed 0" in heard.notes
    assert any("label classes by their values: 10 (in 3 of 3 scans), 20 (in 2 of 3 scans)" in n for n in heard.notes)


def broken(tmp_path, labelled, change):
    root = shutil.copytree(labelled, tmp_path / "data")
    for file in sorted((root / "labels").iterdir()):
        image = nib.load(file)
        nib.save(change(np.asanyarray(image.dataobj), image.affine), file)
    return root


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a, m: nib.Nifti1Image(a[:, :, 1:], m), "32 x 32 x 9"),
        (lambda a, m: nib.Nifti1Image(a, m @ np.diag([1, 1, 1.5, 1])), "--ignore-affine"),
        (lambda a, m: nib.Nifti1Image(a * 0.55, m), "whole numbers"),
        (lambda a, m: nib.Nifti1Image(np.where(a > 0, np.nan, 0.0), m), "NaN"),
        (lambda a, m: nib.Nifti1Image(a * 0, m), "nothing but background"),
    ],
)
def test_labels_that_cannot_be_right_are_refused_before_training(tmp_path, labelled, pretrained, change, said, ssmtl):
    root = broken(tmp_path, labelled, change)
    done = ssmtl("finetune", "--from", pretrained, "--data", root, "--steps", 1, "--no-surface", "--out", "f")
    assert done.returncode == 3
    assert said in done.stderr
    assert ".nii.gz" in done.stderr or "label maps" in done.stderr
    assert not (tmp_path / "f" / "pretrained-0").exists()


def test_a_value_that_is_no_class_is_refused_or_taken_as_background_with_a_note(labelled, pretrained, tmp_path):
    heard = Notes()
    options = {**QUICK, "data": str(labelled), "classes": "big=10", "progress": heard}
    toolkit.finetune(pretrained, out=tmp_path / "f", **options)
    assert any("values assigned to no class count as background: 20" in note for note in heard.notes)


def test_the_same_scan_in_training_and_test_is_refused(labelled, pretrained, tmp_path):
    root = tmp_path / "data"
    for i, name in enumerate("pqr"):
        write_pair(root, name, seed=i)
    image = nib.load(root / "images" / "p.nii.gz")
    options = {**QUICK, "data": str(root), "test_scans": 1, "train_scans": 2}
    shutil.copy(root / "images" / "p.nii.gz", root / "images" / "r.nii.gz")
    with pytest.raises(DataError, match=r"is the same scan as .*[pr]\.nii\.gz"):
        toolkit.finetune(pretrained, out=tmp_path / "f", **options)
    image.header["descrip"] = b"saved again"
    nib.save(nib.Nifti1Image(image.get_fdata(), image.affine, image.header), root / "images" / "r.nii.gz")
    with pytest.raises(DataError, match=r"is the same scan as .*[pr]\.nii\.gz, voxel by voxel"):
        toolkit.finetune(pretrained, out=tmp_path / "g", **options)


def test_a_blank_test_scan_is_refused_by_name_before_training(pretrained, tmp_path):
    root = tmp_path / "data"
    for i, name in enumerate("pqr"):
        write_pair(root, name, seed=i)
    image = nib.load(root / "images" / "r.nii.gz")
    nib.save(nib.Nifti1Image(np.full(image.shape, 7, np.int16), image.affine), root / "images" / "r.nii.gz")
    (tmp_path / "s.json").write_text(json.dumps({"train": ["p", "q"], "test": ["r"]}))
    with pytest.raises(DataError, match=r"r\.nii\.gz: is blank"):
        toolkit.finetune(pretrained, data=str(root), split=tmp_path / "s.json", out=tmp_path / "f", **GIVEN)
    assert not (tmp_path / "f").exists()


def test_it_tells_how_many_test_scans_the_pretraining_has_seen(tuned, labelled, pretrained, tmp_path):
    assert summary_of(tuned)["scans"]["test_seen_in_pretraining"] == 4
    root = tmp_path / "other"
    for i, name in enumerate("xyz"):
        write_pair(root, name, seed=100 + i)
    done = toolkit.finetune(pretrained, data=str(root), out=tmp_path / "f", **{**QUICK, "test_scans": 1})
    assert done.summary["scans"]["test_seen_in_pretraining"] == 0


def test_a_test_scan_that_the_pretraining_has_seen_is_known_by_its_voxels(labelled, pretrained, tmp_path):
    root = tmp_path / "renamed"
    for i, name in enumerate("xy"):
        write_pair(root, name, seed=100 + i)
    for part in ("images", "labels"):  # saved again, not compressed: another file
        image = nib.load(labelled / part / "a_pre.nii.gz")
        image.header["descrip"] = b"saved again"
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header), root / part / "z.nii")
    (tmp_path / "s.json").write_text(json.dumps({"train": ["x", "y"], "test": ["z"]}))
    done = toolkit.finetune(pretrained, data=str(root), split=tmp_path / "s.json", out=tmp_path / "f", **GIVEN)
    assert done.summary["scans"]["test_seen_in_pretraining"] == 1


def test_what_is_damaged_of_a_finished_fine_tuning_is_written_again_or_said(labelled, pretrained, tmp_path):
    options = {"data": str(labelled), "out": tmp_path / "f", **QUICK}
    toolkit.finetune(pretrained, **options)
    told = {name: (tmp_path / "f" / name).read_bytes() for name in ("transfer.json", "summary.json")}
    log = tmp_path / "f" / "pretrained-0" / "metrics.jsonl"
    whole = log.read_text()
    for damaged in ("", whole[:-9], whole.replace("{", "", 1)):
        log.write_text(damaged)
        (tmp_path / "f" / "transfer.json").write_text("{")
        notes = Notes()
        toolkit.finetune(pretrained, resume=True, progress=notes, **options)
        assert any(f"{log}: is damaged or not complete" in note for note in notes.notes), notes.notes
        assert any("transfer.json: is damaged or missing; it is written again" in note for note in notes.notes)
        assert (tmp_path / "f" / "transfer.json").read_bytes() == told["transfer.json"]
        assert not (tmp_path / "f" / "pretrained-0" / "checkpoints").exists()
    log.write_text(whole)
    notes = Notes()
    toolkit.finetune(pretrained, resume=True, progress=notes, **options)
    assert not any("damaged" in note for note in notes.notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--head", "segmentaton"], "did you mean 'segmentation'?"),
        (["--head", "denoising", "--classes", "a=1"], "uses no labels"),
        (["--classes", "big"], "write name=value"),
        (["--patient", "("], "not a regular expression"),
        (["--patient", "zzz"], "finds no patient"),
        (["--split", "no.json"], "no such file"),
        (["--test-scans", "99"], "leave none to train on"),
        (["--backbone", "unet:encoder=plain,width=4"], "--min-transfer"),
        (["--axis", "up"], "axial"),
        (["--freze", "encoder"], "--freeze"),
        (["--baseline", "none", "--seeds", "0"], "seeds"),
        (["--freeze", "encoder", "--encoder-lr", "1e-4"], "does not learn under --freeze encoder"),
        (["--freeze", "backbone", "--decoder-lr", "1e-4"], "does not learn under --freeze backbone"),
        (["--split", "s.json", "--test-scans", "3"], "omit --split or --test-scans"),
    ],
)
def test_wrong_use_is_told_with_exit_code_2(options, said, ssmtl, labelled, pretrained):
    base = ["--from", pretrained, "--data", labelled, "--steps", 1, "--no-surface", "--out", "f"]
    done = ssmtl("finetune", *base, *options)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr


def test_without_a_pretraining_there_is_no_baseline_to_compare_with(ssmtl, labelled):
    done = ssmtl("finetune", "--data", labelled, "--baseline", "scratch")
    assert done.returncode == 2
    assert "--from" in done.stderr
    done = ssmtl("finetune", "--data", labelled, "--freeze", "encoder")
    assert done.returncode == 2
    assert "no pre-trained weights to keep" in done.stderr


def test_a_folder_without_labels_is_refused_with_what_would_be_read(ssmtl, scans, pretrained):
    done = ssmtl("finetune", "--from", pretrained, "--data", scans, "--out", "f")
    assert done.returncode == 3
    assert "none of its 4 scans has a label map" in done.stderr


def test_from_scratch_without_any_pretraining(ssmtl, labelled):
    options = ["--backbone", SMALL, "--size", 32, "--steps", 2, "--train-scans", 1, "--test-scans", 2, "--no-surface"]
    done = ssmtl("finetune", "--data", labelled, *options, "--out", "f", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert list(summary["arms"]) == ["scratch"]
    assert summary["source"] is None


@pytest.mark.slow
def test_denoising_beats_the_noisy_input(labelled, pretrained, tmp_path):
    options = {"steps": 150, "lr": 3e-3, "test_scans": 2, "surface": False, "head": "denoising:sigma=0.8"}
    options |= {"batch_size": 4, "recipe": "paper"}
    done = toolkit.finetune(pretrained, data=str(labelled), out=tmp_path / "f", **options)
    arm = done.summary["arms"]["pretrained"]
    assert arm["psnr"]["mean"] > arm["noisy"]["psnr"] + 2


def test_over_patients_averages_the_repetitions_of_each_patient():
    ours = [{"p": [1.0, 0.8], "q": [0.5, None]}, {"p": [0.6, 0.8], "q": [0.7, 0.1]}]
    theirs = [{"p": [0.5, 0.5], "q": [0.5, 0.9]}, {"p": [0.5, 0.5], "q": [0.1, 0.1]}]
    found = statistics.over_patients(ours, theirs)
    assert found["mean"] == pytest.approx(np.mean([np.mean([0.4, 0.2]), np.mean([0.0, 0.3])]))
    assert found["n"] == 2


def test_the_interval_over_repetitions_is_that_of_a_paired_t_test_from_four_repetitions_on():
    ours, theirs = np.random.default_rng(0).uniform(size=(2, 5))
    for n in (4, 5):
        interval = stats.ttest_rel(ours[:n], theirs[:n]).confidence_interval(0.95)
        assert statistics.paired(ours[:n], theirs[:n])["ci95"] == pytest.approx([interval.low, interval.high])
    for n in (1, 2, 3):
        assert statistics.paired(ours[:n], theirs[:n])["ci95"] is None


def test_undefined_values_do_not_count_towards_the_repetitions_of_an_interval():
    found = statistics.paired([0.5, None, 0.7, 0.8], [0.4, 0.2, 0.5, 0.5])
    assert found["n"] == 3
    assert found["ci95"] is None


def test_the_interval_over_patients_needs_eight_of_them():
    differences = np.random.default_rng(0).normal(0.1, 0.05, 8)
    ours = [{str(i): [float(d)] for i, d in enumerate(differences)}]
    theirs = [{str(i): [0.0] for i in range(8)}]
    low, high = statistics.over_patients(ours, theirs)["ci95"]
    assert differences.min() < low < differences.mean() < high < differences.max()
    seven = [{p: v for p, v in ours[0].items() if p != "0"}]
    assert statistics.over_patients(seven, theirs)["ci95"] is None


def test_few_repetitions_and_patients_are_told_in_words_instead_of_an_interval(tuned, ssmtl, tmp_path):
    done = ssmtl("finetune", "--resume", shutil.copytree(tuned, tmp_path / "tuned"))
    assert done.returncode == 0
    assert "95 %" not in done.stderr
    assert "over 2 test patients" in done.stderr
    assert "too few patients for an interval" in done.stderr
    assert done.stderr.splitlines()[-1] == "too few repetitions to tell (2; --seeds 5 gives an interval)"


@pytest.mark.parametrize(
    ("metric", "differences", "told"),
    [
        ("iou", [0.04, 0.05, 0.045, 0.045], "pre-training helped: mIoU +0.045 (95 % +0.039 to +0.051)"),
        ("iou", [0.04, -0.05, 0.045, 0.01], "no difference can be told: mIoU +0.011 (95 % -0.058 to +0.081)"),
        ("iou", [-0.04, -0.05, -0.045, -0.045], "pre-training harmed: mIoU -0.045 (95 % -0.051 to -0.039)"),
        ("iou", [0.1, 0.1, 0.1, 0.1], "pre-training helped: mIoU +0.100 (95 % +0.100 to +0.100)"),
        ("hd95", [-2.0, -1.0, -1.5, -1.5], "pre-training helped: HD95 (mm) -1.50 (95 % -2.15 to -0.85)"),
        ("hd95", [2.0, 1.0, 1.5, 1.5], "pre-training harmed: HD95 (mm) +1.50 (95 % +0.85 to +2.15)"),
        ("psnr", [0.0, 0.0, 0.0, 0.0], "no difference can be told: PSNR (dB) +0.00 (95 % +0.00 to +0.00)"),
        ("iou", [0.1, 0.2, 0.1], "too few repetitions to tell (3; --seeds 5 gives an interval)"),
        ("iou", [0.1, None, 0.1, 0.2], "too few repetitions to tell (3 of 4 have a score)"),
    ],
)
def test_a_line_says_whether_pre_training_helped_by_the_interval_and_the_direction(metric, differences, told):
    spec = registry().resolve(MetricSpec, metric)
    paired = statistics.paired(differences, [0.0] * len(differences))
    assert statistics.verdict(paired, spec) == told


def test_the_summary_holds_the_verdict(tuned):
    difference = summary_of(tuned)["difference"]
    assert difference["verdict"] == "too few repetitions to tell (2; --seeds 5 gives an interval)"


@pytest.mark.slow
def test_a_phantom_says_its_classes(ssmtl):
    options = ["--backbone", SMALL, "--size", 32, "--steps", 2, "--train-scans", 1, "--slices-per-scan", 2]
    options += ["--test-scans", 1, "--no-surface", "--classes", "LV,RV", "--data", "phantom:patients=3"]
    done = ssmtl("finetune", *options, "--out", "f", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["classes"] == ["LV", "RV"]


def test_a_backbone_that_lacks_what_the_head_needs_is_refused_before_training():
    from ssmtl_toolkit.config import FinetuneConfig

    with pytest.raises(UsageError, match="no head named 'x'"):
        FinetuneConfig.of({"head": "x"}).resolve()


@pytest.mark.slow
def test_a_signal_keeps_finished_repetitions_and_says_how_to_go_on(labelled, pretrained, tmp_path):
    command = [sys.executable, "-m", "ssmtl_toolkit", "finetune", "--from", pretrained, "--data", labelled]
    command += ["--seeds", 50, "--steps", 20, "--batch-size", 4, "--test-scans", 2, "--no-surface"]
    command += ["--out", tmp_path / "f", "--cache", tmp_path / "cache"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    read_until(process.stderr, "pretrained, seed 1:")
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "continue with --resume" in told
    assert "Traceback" not in told
    assert (tmp_path / "f" / "pretrained-0" / "model.safetensors").exists()
    assert not (tmp_path / "f" / "summary.json").exists()


def test_a_rare_label_value_is_named_with_its_file_and_a_negative_one_is_refused(tmp_path, pretrained):
    for i in range(4):
        write_pair(tmp_path / "d", f"p{i}", seed=i)
    file = tmp_path / "d" / "labels" / "p2.nii.gz"
    label = nib.load(file)
    told = Notes()

    def train_loop(value, out):
        array = np.asanyarray(label.dataobj).astype(np.int16)
        array[0, 0, 0] = value
        nib.save(nib.Nifti1Image(array, label.affine), file)
        options = {**QUICK, "train_scans": 9, "test_scans": 1}
        toolkit.finetune(pretrained, data=str(tmp_path / "d"), out=tmp_path / out, progress=told, **options)

    train_loop(255, "a")
    (note,) = [note for note in told.notes if note.startswith("label classes by their values")]
    assert "255 (in 1 of 4 scans: " in note
    assert "p2.nii.gz)" in note
    assert "--ignore-value 255" in note
    assert "--train-scans 9: there are only 3, all of them are used" in told.notes
    with pytest.raises(DataError, match=r"p2.nii.gz: has the label value -1 .* --ignore-value=-1"):
        train_loop(-1, "b")


def test_a_resume_of_a_finished_fine_tuning_on_the_command_line_leaves_its_summary_as_it_is(labelled, tmp_path):
    options = ["--data", labelled, "--backbone", SMALL, "--size", 32, "--steps", 2, "--test-scans", 2, "--no-surface"]
    summaries, environment = [], {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "SSMTL_REPORT": "1"}
    for arguments in ([*options, "--out", tmp_path / "ft"], ["--resume", tmp_path / "ft"]):
        command = [sys.executable, "-m", "ssmtl_toolkit", "finetune", *map(str, arguments)]
        subprocess.run(command, cwd=tmp_path, check=True, env=environment)
        summaries.append((tmp_path / "ft" / "summary.json").read_bytes())
    assert summaries[0] == summaries[1]
    starts = json.loads((tmp_path / "ft" / "environment.json").read_text())["starts"]
    assert [start["command"].split()[2] for start in starts] == ["--data", "--resume"]
    assert "--resume" in (tmp_path / "ft" / "report.html").read_text()

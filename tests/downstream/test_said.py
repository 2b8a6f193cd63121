"""What a fine-tuning says of itself is what ran: which options had an effect, what an interval is about, who is new."""

import json

import pytest

import ssmtl_toolkit as toolkit
from helpers.small import SMALL
from ssmtl_toolkit import UsageError
from ssmtl_toolkit.config import EvaluateConfig, FinetuneConfig
from ssmtl_toolkit.runtime.transfer import Pretrained

QUICK = {"classes": "big=10,small=20", "surface": False, "steps": 2, "recipe": "paper", "report": False}


def test_an_interval_over_repetitions_of_the_same_slices_is_not_said_to_be_about_others(ssmtl, labelled, tmp_path):
    options = ["--classes", "big=10,small=20", "--backbone", SMALL, "--size", 32, "--recipe", "paper", "--steps", 1]
    options += ["--data", labelled, "--test-scans", 4, "--seeds", 2, "--no-surface", "--no-report"]
    same = ssmtl("finetune", *options, "--out", "same")
    assert same.returncode == 0, same.stderr
    assert "2 repetitions; training slices: the same 30 in all; 4 test scans" in same.stderr
    how = json.loads((tmp_path / "same" / "summary.json").read_text())["how"]
    assert "and other seeds, not for other training slices" in how
    assert "other draws" not in how
    drawn = ssmtl("finetune", *options, "--train-scans", 1, "--out", "drawn")
    assert "2 repetitions; training slices: 5, 5; 4 test scans" in drawn.stderr
    assert "other draws of training slices" in json.loads((tmp_path / "drawn" / "summary.json").read_text())["how"]


def test_options_without_effect_are_named(ssmtl, labelled, tmp_path):
    first = ["--data", labelled, "--backbone", SMALL, "--size", 32, "--classes", "big=10,small=20", "--no-surface"]
    first += ["--recipe", "paper", "--steps", 1, "--no-report"]
    done = ssmtl(
        *("finetune", *first, "--test-scans", 4, "--train-scans", 1, "--out", "a", "--pretrained-lr", 0.1),
        *("--frozen-steps", 3, "--transfer", "encoder", "--min-transfer", 0.5, "--patience", 2, "--check-every", 10),
        *("--tolerance", 2),
    )
    assert done.returncode == 0, done.stderr
    assert "--tolerance 2: has no effect, no surface Dice is computed" in done.stderr
    for option in ("--pretrained-lr 0.1", "--frozen-steps 3", "--transfer encoder", "--min-transfer 0.5"):
        assert f"{option}: has no effect, there are no weights to start from (--from)" in done.stderr
    for option in ("--patience 2", "--check-every 10"):
        assert f"{option}: has no effect, there are no validation scans" in done.stderr
    assert "--train-scans" not in done.stderr
    split = tmp_path / "a" / "split.json"
    given = ssmtl("finetune", *first, "--split", split, "--train-scans", 2, "--slices-per-scan", 3, "--out", "b")
    for option in ("--train-scans 2", "--slices-per-scan 3"):
        assert f"{option}: has no effect, {split} names the slices" in given.stderr
    assert given.stderr.count("has no effect") == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"surface": False}, ["--tolerance 3: has no effect, no surface Dice is computed"]),
        (
            {"metrics": ("surface_dice:tolerance=2",)},
            ["--tolerance 3: has no effect, --metric surface_dice:tolerance=2.0 has its own"],
        ),
        ({"surface": False, "metrics": ("surface_dice",)}, []),
        ({"surface": True}, []),
    ],
)
def test_a_tolerance_that_no_metric_takes_is_named(options, said):
    for config in (FinetuneConfig, EvaluateConfig):
        given = config(tolerance=3, **options)
        assert given.unused(given.chosen_metrics("labels")) == said
        assert not config(**options).unused(given.chosen_metrics("labels"))


def test_labels_are_no_matter_to_a_head_that_gives_images():
    for option in ({"classes": "a=1"}, {"ignore_value": 255}, {"ignore_affine": True}):
        with pytest.raises(UsageError, match=f"uses no labels; omit --{next(iter(option)).replace('_', '-')}"):
            FinetuneConfig(head="denoising", **option).resolve()


def test_the_surface_dice_that_is_named_is_within_the_tolerance_that_is_given():
    for config in (FinetuneConfig, EvaluateConfig):
        named = config(surface=False, tolerance=3, metrics=("surface_dice",)).chosen_metrics("labels")
        assert [metric.full() for metric in named if metric.name == "surface_dice"] == ["surface_dice:tolerance=3.0"]
        own = config(tolerance=3, metrics=("surface_dice:tolerance=2",)).chosen_metrics("labels")
        assert [metric.full() for metric in own if metric.name == "surface_dice"] == ["surface_dice:tolerance=2.0"]


def test_what_may_be_of_several_types_is_refused_in_one_line():
    for options in ({"folds": 1}, {"volume": -3}, {"folds": "al"}):
        with pytest.raises(UsageError) as refused:
            FinetuneConfig.of(options)
        assert str(refused.value).count("\n") == 0
    assert "folds: Input should be 'all', or greater than or equal to 2, got 1" in str(_refused(folds=1))
    assert len(str(_refused(folds=1, seeds=0)).splitlines()) == 2


def _refused(**options):
    with pytest.raises(UsageError) as refused:
        FinetuneConfig.of(options)
    return refused.value


def test_a_list_among_the_options_of_a_spec_is_asked_for_as_one():
    with pytest.raises(UsageError, match=r'\'tasks\': expected a list, such as tasks=\["a","b"\]'):
        FinetuneConfig(semi="pretext:tasks=reconstruct_next").resolve()


def test_slices_of_a_scan_that_is_not_trained_on_are_refused_with_their_file(labelled, tmp_path):
    split = {"patient": None, "train": ["a"], "validation": [], "test": ["b"], "slices": [{"b_pre": [3]}]}
    file = tmp_path / "odd.json"
    file.write_text(json.dumps({**split, "patient": "(.)_.*"}))
    with pytest.raises(toolkit.DataError, match=r"odd\.json: its slices belong to 'b_pre', which is not a training"):
        toolkit.finetune(data=str(labelled), backbone=SMALL, size=32, split=file, out=tmp_path / "f", **QUICK)


def test_a_model_is_not_tested_on_what_it_was_fine_tuned_on(tuned, labelled, tmp_path):
    model = tuned / "pretrained-0" / "model.safetensors"
    split = json.loads((tuned / "split.json").read_text())
    assert Pretrained.open(model).learned
    options = {"data": str(labelled), "cache": tmp_path / "c", **QUICK}
    same = {**split, "slices": []}
    turned = {**same, "train": split["test"], "test": split["train"]}
    for name, content in (("same", same), ("turned", turned)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="saw the labels of 2 of the 6 test scans, such as"):
        toolkit.finetune(model, split=tmp_path / "turned.json", out=tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()
    more = toolkit.finetune(model, split=tmp_path / "same.json", out=tmp_path / "more", **options)
    learned = Pretrained.open(tmp_path / "more" / "pretrained-0" / "model.safetensors").learned
    assert Pretrained.open(model).learned < learned
    assert more.summary["scans"]["test"] == 4


def test_a_pre_training_from_a_model_remembers_what_that_was_fine_tuned_on(tuned, labelled, tmp_path):
    model = tuned / "pretrained-0" / "model.safetensors"
    options = {"data": str(labelled), "cache": tmp_path / "c"}
    run = toolkit.pretrain(source=model, tasks=["reconstruct_next:t=1"], steps=1, out=tmp_path / "run", **options)
    assert Pretrained.open(run.backbone).learned == Pretrained.open(model).learned
    split = json.loads((tuned / "split.json").read_text())
    turned = {**split, "slices": [], "train": split["test"], "test": split["train"]}
    (tmp_path / "turned.json").write_text(json.dumps(turned))
    with pytest.raises(UsageError, match=r"backbone\.safetensors: comes from a training that saw the labels"):
        toolkit.finetune(run, split=tmp_path / "turned.json", out=tmp_path / "refused", **options, **QUICK)

"""Folds as nnU-Net's splits_final.json has them: written, read, and one of them as a split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.small import SMALL, write_pair
from ssmtl_toolkit.data.folds import Folds, make_folds
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.specs import Scan


def scans(*names: str) -> list[Scan]:
    """Scans PATIENT_NUMBER."""
    return [Scan(Path(name), name, name.partition("_")[0]) for name in names]


SIX = scans("a_1", "a_2", "b_1", "c_1", "d_1", "e_1")


@given(st.integers(2, 5), st.integers(0, 99))
def test_every_scan_is_scored_once_and_no_patient_is_on_two_sides(number, seed):
    folds = make_folds(SIX, number, seed)
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(scan.name for scan in SIX)
    for fold in folds:
        assert sorted([*fold["train"], *fold["val"]]) == sorted(scan.name for scan in SIX)
        assert not {name[0] for name in fold["train"]} & {name[0] for name in fold["val"]}
    assert folds == make_folds(SIX, number, seed)


def written(folder: Path, *folds: tuple[list[str], list[str]]) -> Path:
    file = folder / "splits_final.json"
    file.write_text(json.dumps([{"train": train, "val": val} for train, val in folds]))
    return file


def test_a_fold_is_a_split_whose_val_is_the_test(tmp_path):
    file = written(tmp_path, (["a_1", "a_2", "b_1"], ["c_1"]), (["c_1"], ["a_1", "a_2"]))
    assert Folds.read(file).split(1, SIX) == Split(("c",), (), ("a",))
    assert Folds.read(file).split(0, SIX).train == ("a", "b")


def test_cases_may_be_patients(tmp_path):
    assert Folds.read(written(tmp_path, (["a", "b"], ["c"]))).split(0, SIX) == Split(("a", "b"), (), ("c",))


def test_wrong_folds_are_refused_by_name(tmp_path):
    file = written(tmp_path, (["a_1"], ["a_2"]), (["a_1"], ["x_1"]))
    with pytest.raises(DataError, match=r"splits_final\.json: fold 0: patient 'a' is in train and in test"):
        Folds.read(file).split(0, SIX)
    with pytest.raises(DataError, match=r"1 case without a labelled scan \(x_1\); is it of other data\? \(known: a_1"):
        Folds.read(file).split(1, SIX)
    with pytest.raises(UsageError, match=r"--fold 2: .* holds 2 folds, 0 to 1"):
        Folds.read(file).split(2, SIX)
    with pytest.raises(
        UsageError, match=r"is a list of folds, as nnU-Net's splits_final\.json; choose one by --fold 0"
    ):
        Split.read(file)
    for text, said in {
        "[]": "it is empty",
        "[{}]": "train",
        "[{'": "Expecting",
        '[{"train": [], "val": ["a"]}]': "names",
    }.items():
        file.write_text(text)
        with pytest.raises(DataError, match=rf"is no list of folds .*{said}"):
            Folds.read(file)
    with pytest.raises(UsageError, match="--folds 6: there are 5 patients"):
        make_folds(SIX, 6, 0)


def test_folds_are_written_and_made_a_split_by_the_command(tmp_path, ssmtl):
    for i in range(4):
        write_pair(tmp_path / "data", f"p{i}", slices=6, seed=i)
    done = ssmtl("data", "split", "data", "--folds", 2, "--out", "splits_final.json")
    assert done.returncode == 0, done.stderr
    folds = json.loads((tmp_path / "splits_final.json").read_text())
    assert [sorted([*fold["train"], *fold["val"]]) for fold in folds] == [["p0", "p1", "p2", "p3"]] * 2
    done = ssmtl("data", "split", "data", "--split", "splits_final.json", "--fold", 1, "--out", "one.json")
    assert done.returncode == 0, done.stderr
    assert list(Split.read(tmp_path / "one.json").test) == folds[1]["val"]
    for options in (["--fold", 1], ["--folds", 2, "--test-scans", 1], ["--split", "s", "--fold", 0, "--folds", 2]):
        assert ssmtl("data", "split", "data", *options, "--out", "two.json").returncode == 2
    assert ssmtl("finetune", "--data", "data", "--fold", 1, "--out", "x").returncode == 2


@pytest.mark.slow
def test_a_fine_tuning_trains_and_tests_on_a_fold(tmp_path, ssmtl):
    for i in range(4):
        write_pair(tmp_path / "data", f"p{i}", slices=6, seed=i)
    written(tmp_path, (["p0"], ["p1"]), (["p2", "p3"], ["p0", "p1"]))
    options = ("--size", 32, "--steps", 2, "--backbone", SMALL, "--no-surface", "--split", "splits_final.json")
    done = ssmtl("finetune", "--data", "data", *options, "--fold", 1, "--out", "ft")
    assert done.returncode == 0, done.stderr
    split = Split.read(tmp_path / "ft" / "split.json")
    assert (split.train, split.test) == (("p2", "p3"), ("p0", "p1"))
    assert ssmtl("finetune", "--resume", "ft").returncode == 0

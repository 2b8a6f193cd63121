"""Patients stay together: splits made, given, written and refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmtl_toolkit.data import split as splitting
from ssmtl_toolkit.data.split import Split, choose, fitting, in_order, make, with_patients
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.specs import Scan


def scans_of(*names, patient=None):
    return [Scan(path=None, name=name, patient=patient(name) if patient else name, label="x") for name in names]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 4), min_size=3, max_size=12),
    test=st.none() | st.integers(1, 6),
    validation=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_a_patient_is_in_one_part_only_and_the_parts_hold_enough_scans(counts, test, validation, seed):
    scans = [Scan(None, f"{i}-{j}", str(i)) for i, number in enumerate(counts) for j in range(number)]
    try:
        split = make(scans, test, validation, seed)
    except UsageError:  # only where whole patients, each part up to one more than its scans, use all of them up
        most, fifth = max(counts), max(1, round(len(counts) / 5))
        for_test = sum(sorted(counts)[-fifth:]) if test is None else test + most - 1
        assert for_test + validation + most - 1 >= sum(counts)
        return
    parts = [set(split.train), set(split.validation), set(split.test)]
    assert set.union(*parts) == {scan.patient for scan in scans}
    assert sum(map(len, parts)) == len(counts)
    assert split.train
    assert len(split.of(scans, "validation")) >= validation
    if test is not None:
        assert len(split.of(scans, "test")) >= test
    assert make(scans, test, validation, seed) == split


def test_another_seed_gives_another_split():
    scans = scans_of(*"abcdefghijkl")
    assert len({make(scans, 4, 0, seed).test for seed in range(5)}) > 1


def test_names_that_differ_in_a_last_word_are_one_patient_and_it_is_said():
    scans, notes = with_patients(scans_of("SC-01_ED", "SC-01_ES", "SC-02_ED", "SC-02_ES"), None)
    assert [scan.patient for scan in scans] == ["SC-01", "SC-01", "SC-02", "SC-02"]
    assert "4 scans are taken as 2 patients (SC-01_ED and SC-01_ES as one)" in notes[0]


@pytest.mark.parametrize(
    "names",
    [["hippocampus_001", "hippocampus_004"], ["a", "b"], ["liver_a", "heart_b", "lung_c", "brain_d"], ["x_1", "x_2"]],
)
def test_numbered_and_unrelated_names_are_a_patient_each(names):
    scans, notes = with_patients(scans_of(*names), None)
    assert [scan.patient for scan in scans] == names
    assert notes == []


def test_what_the_dataset_says_of_patients_is_kept():
    scans = scans_of("a_pre", "a_post", patient=lambda name: f"patient {name[0]}")
    assert with_patients(scans, None) == (scans, [])


def test_a_regex_finds_the_patient_and_one_that_does_not_is_refused():
    scans, _ = with_patients(scans_of("s1p7x", "s2p7y", "s3p8z"), "p([0-9])")
    assert [scan.patient for scan in scans] == ["7", "7", "8"]
    with pytest.raises(UsageError, match=r"finds no patient in the scan name 'b'"):
        with_patients(scans_of("a7", "b"), "[0-9]")


def test_a_patient_on_two_sides_is_refused(tmp_path):
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["a", "b"], "test": ["b", "c"]}))
    with pytest.raises(DataError, match=r"split\.json: patient 'b' is in train and in test"):
        Split.read(file)


def test_a_split_reads_back_to_itself(tmp_path):
    split = Split(("a",), ("b",), ("c", "d"), "(.)_", ({"a_1": (0, 3)}, {"a_2": (1,)}))
    (tmp_path / "s.json").write_text(json.dumps(split.to_json()))
    assert Split.read(tmp_path / "s.json") == split


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"train": "a"}', '{"train": ["a"], "tset": ["b"]}', '{"train": [1]}', "\x00"]
)
def test_what_is_no_split_is_refused_with_the_file(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(DataError, match=r"s\.json: is not a split"):
        Split.read(tmp_path / "s.json")


def test_a_split_of_other_data_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"1 patients have no labelled scan \(z\)"):
        splitting.check_known(Split(("a",), (), ("z",)), scans_of("a", "b"), tmp_path / "s.json")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(), unique=True, max_size=20), st.none() | st.integers(1, 25), st.integers(0, 9))
def test_a_choice_is_a_part_in_order_and_the_same_for_the_same_seed(among, number, seed):
    chosen = choose(number, among, seed, 3)
    assert len(chosen) == min(len(among), len(among) if number is None else number)
    assert [item for item in among if item in chosen] == chosen
    assert choose(number, among, seed, 3) == chosen


def test_the_command_writes_a_split_by_patient_and_run_leaves_the_held_out_ones_out(ssmtl, labelled):
    done = ssmtl("data", "split", labelled, "--out", "s.json", "--test-scans", 3, "--validation-scans", 1)
    assert done.returncode == 0, done.stderr
    assert "train 4 scans of 2 patients; validation 2 scans of 1 patients; test 4 scans of 2 patients" in done.stderr
    assert ssmtl("data", "split", labelled, "--out", "s.json").returncode == 2
    options = ["--backbone", "unet:encoder=plain,width=4", "--size", 32, "--steps", 1, "--task", "reconstruct_next:t=1"]
    done = ssmtl("run", "--data", labelled, "--without", "s.json", *options, "--out", "r", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scans"]["used"] == 4
    assert "6 scans of 3 validation and test patients are left out" in done.stderr


def test_sunnybrooks_phases_stay_together(ssmtl, sunnybrook):
    done = ssmtl("data", "split", sunnybrook, "--out", "s.json", "--test-scans", 20)
    assert done.returncode == 0, done.stderr
    assert (
        "train 40 scans of 20 patients; validation 0 scans of 0 patients; test 20 scans of 10 patients" in done.stderr
    )


def test_patients_in_a_given_order_train_first_and_those_that_are_missing_are_passed_over():
    scans = scans_of("a", "c", "d", "e", "f")
    split = in_order(scans, ["f", "b", "a", "c", "d"], 2, 1, None)
    assert (split.train, split.validation, split.test) == (("f", "a"), ("c",), ("d",))
    assert in_order(scans, list("abcdef"), 1, 0, 2).test == ("c", "d")
    assert in_order(scans, list("abcdef"), None, 0, 2).train == ("a", "c", "d")
    with pytest.raises(DataError, match="has 2 of the 3 patients"):
        in_order(scans, list("abc"), 2, 0, None)


def test_where_scans_are_few_the_test_shrinks_in_proportion():
    assert [fitting(number, 5, 0, 15) for number in (100, 20, 12, 4, 2)] == [15, 15, 9, 3, 1]
    assert fitting(3, None, 0, 15) == 15
    assert fitting(3, 5, 0, None) is None

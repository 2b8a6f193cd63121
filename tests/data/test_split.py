"""Patients stay together: splits made, given, written and refused."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small import SMALL, write_scan
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


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["BraTS-0/BraTS-0-t1n", "BraTS-0/BraTS-0-t2w", "BraTS-1/BraTS-1-t1n", "BraTS-1/BraTS-1-t2w"], 2),
        (["BraTS-0-t1n", "BraTS-0-t2w", "BraTS-1-t1n", "BraTS-1-t2w"], 2),
        (["p_T1Gd", "p_T2f", "q_T1Gd", "q_T2f"], 2),
    ],
)
def test_contrasts_that_differ_in_the_last_word_are_one_patient(names, patients):
    scans, notes = with_patients(scans_of(*names), None)
    assert len({scan.patient for scan in scans}) == patients
    assert "are taken as 2 patients" in notes[0]


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["a/T1", "a/T2", "b/T1", "b/T2"], ["a", "a", "b", "b"]),
        (["anna/pre", "anna/post", "ben/pre", "ben/post"], ["anna", "anna", "ben", "ben"]),
        (
            ["t/patient1/patient1_frame01", "t/patient1/patient1_frame12", "t/patient2/patient2_frame01"],
            ["t/patient1"] * 2 + ["t/patient2"],
        ),
        (["LIDC-01/01-2000/3.0", "LIDC-01/02-2001/4.1", "LIDC-02/05-2003/9.5"], ["LIDC-01", "LIDC-01", "LIDC-02"]),
        (["U/0/pre/FLAIR", "U/0/pre/T1", "S/7/pre/FLAIR", "S/7/pre/T1"], ["U/0", "U/0", "S/7", "S/7"]),
        (["c_1_0000", "c_1_0001", "c_2_0000", "c_2_0001"], ["c_1", "c_1", "c_2", "c_2"]),
        (
            ["sub-1/ses-1/sub-1_ses-1_T1w", "sub-1/ses-2/sub-1_ses-2_T1w", "sub-2/ses-1/sub-2_ses-1_T1w"],
            ["sub-1", "sub-1", "sub-2"],
        ),
    ],
)
def test_where_folders_seem_to_be_patients_a_note_says_the_regex_that_keeps_their_scans_together(names, patients):
    scans, notes = with_patients(scans_of(*names), None)
    assert [scan.patient for scan in scans] == names
    (note,) = notes
    pattern = re.search(r"--patient '(\^.*)' keeps those together", note)[1]
    joined, notes = with_patients(scans, pattern)
    assert [scan.patient for scan in joined] == patients
    assert notes == []


@pytest.mark.parametrize(
    "names",
    [
        ["siteA/p1", "siteA/p2", "siteB/p1", "siteB/p2"],
        ["utrecht/p1", "utrecht/p2", "singapore/p1", "singapore/p2"],
        ["train/case_1", "train/case_2", "test/case_1", "test/case_2"],
        ["case_1/imaging", "case_2/imaging", "case_3/imaging"],
        ["subset0/1.2.30", "subset0/1.2.31", "subset1/1.2.32"],
        ["ct/1", "ct/2", "mr/1", "mr/2"],
        ["T1/IXI1_scan", "T1/IXI2_scan", "T2/IXI1_scan", "T2/IXI2_scan"],
        ["x_0001", "x_0002", "x_0003"],
    ],
)
def test_scans_that_are_a_patient_each_get_no_note(names):
    assert with_patients(scans_of(*names), None) == (scans_of(*names), [])


def test_the_series_of_a_folder_are_one_patient_already(tmp_path):
    scans = scans_of("s1/series-1", "s1/series-2", "s2/series-1", patient=lambda name: name.partition("/")[0])
    assert with_patients(scans, None) == (scans, [])


def test_the_split_of_a_folder_per_patient_says_which_regex_keeps_them_together_and_takes_it(ssmtl, tmp_path):
    lines = ["image,label"]
    for patient in ("anna", "ben", "carl"):
        for contrast in ("T1", "T2"):
            write_scan(tmp_path / patient / f"{contrast}.nii.gz", seed=len(lines))
            lines.append(
                f"{patient}/{contrast}.nii.gz,anna/T1.nii.gz" if len(lines) > 1 else "anna/T1.nii.gz,ben/T1.nii.gz"
            )
    (tmp_path / "m.csv").write_text("\n".join(lines))
    done = ssmtl("data", "split", "m.csv", "--out", "apart.json")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "note: anna/T1 and anna/T2 look like one patient, but the scans are taken as 6 patients" in said
    assert "--patient '^([^/]+)' keeps those together (3 patients)" in said
    done = ssmtl("data", "split", "m.csv", "--out", "together.json", "--patient", "^([^/]+)")
    assert "note" not in done.stderr
    assert len(json.loads((tmp_path / "together.json").read_text())["train"]) == 2
    run = ["--data", "m.csv", "--size", 32, "--steps", 1, "--backbone", SMALL, "--task", "reconstruct_next:t=1"]
    done = ssmtl("run", *run, "--without", "apart.json", "--out", "r")
    assert done.returncode == 0, done.stderr
    assert "--patient '^([^/]+)'" in " ".join(done.stderr.split())


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
    assert "train 4 scans of 2 patients; validation 2 scans of 1 patient; test 4 scans of 2 patients" in done.stderr
    assert ssmtl("data", "split", labelled, "--out", "s.json").returncode == 2
    options = ["--backbone", "unet:encoder=plain,width=4", "--size", 32, "--steps", 1, "--task", "reconstruct_next:t=1"]
    done = ssmtl("run", "--data", labelled, "--without", "s.json", *options, "--out", "r", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scans"]["used"] == 4
    assert "6 scans of 3 validation and test patients skipped" in done.stderr


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

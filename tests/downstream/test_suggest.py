"""Which slices to label next: how they are chosen, and that the manifest means them."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small import ball, write_channels, write_pair
from ssmtl_toolkit import DataError, UsageError
from ssmtl_toolkit.data.classes import IGNORE, Classes
from ssmtl_toolkit.data.labels import file_order, read_labels
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.downstream.suggest import suggest
from ssmtl_toolkit.downstream.typical import k_means, typical_slices
from ssmtl_toolkit.sources import dataset_of

# --- how they are chosen -----------------------------------------------------------------------------------------


def islands(sizes, seed=0, d=5):
    """Points around as many distant places, and the place of each."""
    rng = np.random.default_rng(seed)
    centres = 100 * rng.permutation(np.eye(len(sizes), d) + np.arange(len(sizes))[:, None])
    place = np.repeat(np.arange(len(sizes)), sizes)
    return centres[place] + rng.normal(0, 1, (len(place), d)), place


def most_typical(features, patients, rows, standard):
    """By loops: of these rows the one with the least mean distance to its 20 nearest of other patients."""
    means = []
    for row in rows:
        others = [standard(features[row], features[other]) for other in rows if patients[other] != patients[row]]
        means.append(np.mean(sorted(others)[:20]))
    return rows[int(np.argmin(means))]


def test_of_each_group_the_slice_nearest_to_those_of_other_patients_is_chosen_the_largest_group_first():
    features, place = islands([60, 30, 45])
    patients = np.random.default_rng(1).integers(0, 6, len(place))
    spread = features.std(axis=0)
    expected = [
        most_typical(features, patients, np.flatnonzero(place == i), lambda a, b: np.linalg.norm((a - b) / spread))
        for i in (0, 2, 1)
    ]
    chosen = typical_slices(features, patients, np.zeros(len(place), bool), 3)
    assert [one.row for one in chosen] == expected
    assert [one.slices for one in chosen] == [60, 45, 30]
    assert [one.patients for one in chosen] == [len(set(patients[place == i])) for i in (0, 2, 1)]


def test_groups_with_a_labelled_slice_come_last():
    features, place = islands([60, 30, 45])
    labelled = np.zeros(len(place), bool)
    labelled[0] = True  # of the largest
    chosen = typical_slices(features, np.arange(len(place)), labelled, 2)
    assert [int(place[one.row]) for one in chosen] == [2, 1]


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_there_are_as_many_as_wanted_of_no_patient_too_many_and_none_that_is_labelled(sizes, number, most, seed):
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(len(sizes)), sizes)
    features = rng.integers(0, 3, (len(patients), 2)).astype(float)  # many are equal
    labelled = rng.random(len(patients)) < 0.2
    chosen = [one.row for one in typical_slices(features, patients, labelled, number, most, seed)]
    free = np.bincount(patients[~labelled], minlength=len(sizes))
    assert len(chosen) == len(set(chosen)) == min(number, int(np.minimum(free, most).sum()))
    assert not labelled[chosen].any()
    assert np.bincount(patients[chosen], minlength=1).max(initial=0) <= most
    assert chosen == [one.row for one in typical_slices(features, patients, labelled, number, most, seed)]


def test_k_means_finds_islands():
    features, place = islands([20, 20, 5, 9])
    group = k_means(features, 4, 0)
    assert len({(int(a), int(b)) for a, b in zip(group, place, strict=True)}) == 4


# --- what they are called ----------------------------------------------------------------------------------------

DIRECTIONS = st.permutations([0, 1, 2]).flatmap(
    lambda order: st.tuples(st.just(order), st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
)


@given(DIRECTIONS, st.sampled_from(["axial", "coronal", "sagittal"]), st.data())
def test_slices_are_numbered_as_annotated_slices_are(direction, axis, data):
    order, signs = direction
    affine = np.eye(4)
    affine[:3, :3] = np.diag(signs)[:, order]
    volume = Volume(np.ones((3, 4, 5)), affine, (1.0, 1.0, 1.0))
    label = Volume(np.ones((3, 4, 5), np.int16), affine, (1.0, 1.0, 1.0))
    rows = file_order(volume, axis)
    row = data.draw(st.integers(0, len(rows) - 1))
    read = read_labels(label, volume, Classes.parse("a=1"), "x", axis=axis, annotated=[int(rows[row])])
    annotated = (Stack.of(volume, axis).cut(read.index) != IGNORE).any(axis=(1, 2))
    assert np.flatnonzero(annotated).tolist() == [row]


# --- as a user meets it ------------------------------------------------------------------------------------------


@pytest.fixture
def to_label(labelled, tmp_path):
    """A copy of the scans without labels."""
    return shutil.copytree(labelled / "images", tmp_path / "new")


def rows_of(manifest):
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_manifest_is_read_by_split_and_finetune_once_labels_are_filled_in(
    to_label, labelled, pretrained, ssmtl, tmp_path
):
    done = ssmtl("data", "suggest", to_label, "--from", pretrained, "--slices", 8, "--per-patient", 2, "--out", "m.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "m.csv\n"
    assert "100 slices of 10 scans, without 0 blank ones; 0 are labelled" in done.stderr
    assert "the most typical of" in done.stderr
    rows = rows_of(tmp_path / "m.csv")
    by_patient = {}
    for row in rows:
        assert (tmp_path / row["image"]).is_file()
        assert row["label"] == ""
        by_patient[row["patient"]] = by_patient.get(row["patient"], 0) + len(row["slices"].split())
    assert sum(by_patient.values()) == 8
    assert max(by_patient.values()) == 2
    assert set(by_patient) <= set("abcde")
    for row in rows:
        name = row["image"].rpartition("/")[2]
        row["label"] = str(labelled / "labels" / name)
    with (tmp_path / "m.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    assert ssmtl("data", "split", "m.csv", "--out", "split.json").returncode == 3
    assert ssmtl("data", "split", "m.csv", "--out", "split.json", "--allow-outside").returncode == 0
    tune = ("finetune", "--data", "m.csv", "--from", pretrained, "--steps", 1, "--no-surface", "--split", "split.json")
    done = ssmtl("--allow-outside", *tune, "--slices", "any", "--out", "tuned")
    assert done.returncode == 0, done.stderr
    drawn = json.loads((tmp_path / "tuned" / "split.json").read_text())
    number = {row["patient"]: 0 for row in rows}
    for row in rows:
        number[row["patient"]] += len(row["slices"].split())
    trained = sum(len(slices) for slices in drawn["slices"][0].values())
    assert trained == sum(number[patient] for patient in drawn["train"])


def test_it_is_the_same_each_time_and_another_seed_may_group_otherwise(to_label, pretrained, tmp_path):
    dataset = dataset_of(str(to_label))
    first, again, other = (
        [(s.scan.name, s.slice) for s in suggest(pretrained, dataset, 6, cache=tmp_path / "cache", seed=seed)]
        for seed in (0, 0, 5)
    )
    assert first == again
    assert len(first) == len(set(first)) == len(other) == 6


def test_blank_and_labelled_slices_are_not_suggested(pretrained, tmp_path):
    image, label = ball(6, 0)
    image[:, :, [1, 4]] = 0
    affine = np.diag([-0.8, -0.8, -2.0, 1.0])  # the file goes from the head to the feet
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "a_label.nii.gz")
    (tmp_path / "m.csv").write_text("image,label,slices\na.nii.gz,a_label.nii.gz,0 5\n")
    dataset = dataset_of(str(tmp_path / "m.csv"))
    found = suggest(pretrained, dataset, 2, cache=tmp_path / "cache")
    assert sorted(one.slice for one in found) == [2, 3]
    assert all(one.row == 5 - one.slice for one in found)  # slices are cut upwards
    with pytest.raises(UsageError, match=r"--slices 3: .* has 2 slices of 1 patient to suggest \(neither blank"):
        suggest(pretrained, dataset, 3, cache=tmp_path / "cache")
    (tmp_path / "m.csv").write_text("image,label\na.nii.gz,a_label.nii.gz\n")
    with pytest.raises(UsageError, match=r"has 0 slices of 0 patients.*give scans without labels"):
        suggest(pretrained, dataset_of(str(tmp_path / "m.csv")), 1, cache=tmp_path / "cache")


def test_patients_of_validation_and_test_are_skipped(to_label, pretrained, ssmtl, tmp_path):
    split = {"patient": None, "train": ["a", "b"], "validation": ["c"], "test": ["d", "e"], "slices": []}
    (tmp_path / "split.json").write_text(json.dumps(split))
    command = ("data", "suggest", to_label, "--from", pretrained, "--without", "split.json", "--json")
    done = ssmtl(*command, "--slices", 9, "--out", "m.csv")
    assert done.returncode == 0, done.stderr
    assert "6 scans of validation and test patients skipped" in done.stderr
    told = json.loads(done.stdout)
    assert {one["patient"] for one in told["slices"]} == {"a", "b"}
    assert told["manifest"] == "m.csv"
    (tmp_path / "split.json").write_text(json.dumps({**split, "train": [], "test": ["a", "b", "d", "e"]}))
    done = ssmtl(*command, "--out", "none.csv")
    assert done.returncode == 3
    assert "all of its scans are of validation or test patients" in done.stderr
    assert not (tmp_path / "none.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--per-patient", 1, "--slices", 6, "--out", "m.csv"], "has 5 slices of 5 patients to suggest with --per-pat"),
        (["--out", "m.toml"], "m.toml: the manifest is a table; give a name that ends in .csv"),
        (["--out", "there.csv"], "there.csv: already exists; choose another --out"),
        (["--patient", "(", "--out", "m.csv"], "--patient"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(to_label, pretrained, ssmtl, tmp_path, arguments, words):
    (tmp_path / "there.csv").write_text("mine")
    done = ssmtl("data", "suggest", to_label, "--from", pretrained, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "m.csv").exists()
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_scans_with_other_channels_are_refused(pretrained, tmp_path):
    for i, name in enumerate("ab"):
        write_channels(tmp_path / "two", name, seed=i)
    dataset = dataset_of(f"folder:{tmp_path / 'two'},channel=all")
    with pytest.raises(UsageError, match="was trained on slices of 1 channel, and these scans have 2"):
        suggest(pretrained, dataset, 2, cache=tmp_path / "cache")


def test_a_scan_that_cannot_be_read_is_named_unless_it_is_skipped(to_label, pretrained, tmp_path):
    (to_label / "a_pre.nii.gz").write_bytes(b"no scan")
    dataset = dataset_of(str(to_label))
    with pytest.raises(DataError, match=r"a_pre\.nii\.gz"):
        suggest(pretrained, dataset, 2, cache=tmp_path / "cache")
    assert len(suggest(pretrained, dataset, 2, cache=tmp_path / "cache", skip_bad=True)) == 2


def test_names_of_files_with_commas_and_several_folders_survive(pretrained, ssmtl, tmp_path):
    for patient in ("one, two", "three"):
        write_pair(tmp_path / "all" / patient, "t1", seed=len(patient))
        shutil.rmtree(tmp_path / "all" / patient / "labels")
    done = ssmtl("data", "suggest", "all", "--from", pretrained, "--slices", 6, "--out", "lists/m.csv")
    assert done.returncode == 0, done.stderr
    assert "m.csv names scans outside of its folder: add --allow-outside" in done.stderr
    listed = dataset_of(f"manifest:{tmp_path}/lists/m.csv,outside=true").scans(tmp_path, None)
    assert {str(scan.path.resolve().relative_to(tmp_path)) for scan in listed} <= {
        "all/one, two/images/t1.nii.gz", "all/three/images/t1.nii.gz",
    }  # fmt: skip
    assert sum(len(scan.annotated) for scan in listed) == 6

"""What may be given as data: names, paths, patterns, several of them; nothing of one source hides another's."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ssmtl_toolkit
from helpers.small import SMALL, write_pair, write_scan
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import Pattern, Several, dataset_of
from ssmtl_toolkit.specs import DatasetSpec


@pytest.fixture
def two(tmp_path):
    """Folders `a` and `b`, each with scans p0 and p1, of other contents; b has a third, q."""
    for number, folder in enumerate("ab"):
        for i in range(2):
            write_scan(tmp_path / folder / f"p{i}.nii.gz", seed=10 * number + i)
    write_scan(tmp_path / "b" / "q.nii.gz", seed=99)
    return tmp_path


def listed(given, cache=Path("unused")):
    dataset = dataset_of(given)
    return [(scan.name, scan.patient) for scan in list_scans(dataset, cache) if not scan.unfit]


def test_sources_add_up_and_equal_names_stay_apart(two):
    names = listed([two / "a", str(two / "b")])
    assert names == [("p0", "p0"), ("p1", "p1"), ("b/p0", "p0"), ("b/p1", "p1"), ("q", "q")]


def test_sources_of_one_name_are_told_apart_by_the_folder_above(two):
    for folder in ("a", "b"):
        (two / folder).rename(two / "tmp")
        (two / folder).mkdir()
        (two / "tmp").rename(two / folder / "images")
    names = listed([two / "a" / "images", two / "b" / "images"])
    assert [name for name, _ in names] == ["p0", "p1", "b/images/p0", "b/images/p1", "q"]


def test_equal_names_of_patients_are_taken_as_one_patient_and_this_is_said(two):
    notes = []
    list_scans(dataset_of([two / "a", two / "b"]), two, notes.append)
    (note,) = notes
    assert note.startswith("2 names of patients, such as p0, occur in several sources (a, b)")
    assert "--patient '(.+)'" in note


def test_patients_known_by_their_names_are_known_in_several_sources_too(tmp_path):
    for i, name in enumerate(("1_ED", "1_ES", "2_ED", "2_ES", "3_ED", "3_ES")):
        write_scan(tmp_path / "heart" / f"{name}.nii.gz", seed=i)
    write_scan(tmp_path / "other" / "x.nii.gz", seed=9)
    patients = {patient for _, patient in listed([tmp_path / "heart", tmp_path / "other"])}
    assert patients == {"1", "2", "3", "x"}


def test_a_file_that_two_sources_list_is_used_once(two):
    scans = list_scans(dataset_of([two / "a", two / "a" / "p0.nii.gz"]), two)
    assert [scan.name for scan in scans if not scan.unfit] == ["p0", "p1"]
    assert [scan.unfit for scan in scans if scan.unfit] == [f"{two}/a/p0.nii.gz: is listed already, as p0"]


def test_a_source_given_twice_is_refused(two):
    with pytest.raises(UsageError, match=r"/a: is given twice as data"):
        dataset_of([two / "a", two / "b", two / "a"])


def test_a_pattern_is_the_files_that_match_named_by_their_paths(tmp_path):
    for patient in ("x", "y"):
        for name in ("t1", "t2"):
            write_scan(tmp_path / patient / f"{name}.nii.gz", seed=ord(patient) + int(name[1]))
    assert listed(tmp_path / "*" / "t1.nii.gz") == [("x/t1", "x/t1"), ("y/t1", "y/t1")]
    assert listed(str(tmp_path / "**" / "t?.nii.gz")) == [(name, name) for name in ("x/t1", "x/t2", "y/t1", "y/t2")]
    assert listed(str(tmp_path / "[x]")) == [("x/t1", "x"), ("x/t2", "x")]


def test_a_pattern_means_the_same_in_any_folder(two, monkeypatch):
    monkeypatch.chdir(two)
    resolved = RunConfig(data=["a/*.nii.gz", "b"]).resolve()
    monkeypatch.chdir("/")
    assert len(resolved.data.scans(two, installed_readers())) == 5
    again = RunConfig.of(resolved.to_json()).resolve()
    assert again.data == resolved.data


def test_label_maps_that_match_a_pattern_are_not_trained_on(tmp_path):
    for i in range(3):
        write_pair(tmp_path, f"p{i}", seed=i)
        (tmp_path / "labels" / f"p{i}.nii.gz").rename(tmp_path / "images" / f"p{i}_seg.nii.gz")
    options = {"backbone": SMALL, "size": 32, "steps": 1, "tasks": "reconstruct_prev:t=1", "out": tmp_path / "run"}
    run = ssmtl_toolkit.pretrain(data=tmp_path / "images" / "*.nii.gz", cache=tmp_path / "cache", **options)
    assert run.summary["scans"]["used"] == 3
    assert all("label map" in item["reason"] for item in run.summary["scans"]["skipped"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suny", "suny: no such file or folder; did you mean 'sunny'?; check its path"),
        ("sunny/imges", "sunny/imges: no such file or folder; did you mean 'sunny/images'?"),
        ("phantm", "did you mean 'phantom'?"),
        ("sunny/imges/*.nii.gz", "there is no folder sunny/imges; did you mean 'sunny/images'?"),
        ("sunny/images/*.dcm", "nothing matches this pattern; check it"),
    ],
)
def test_a_mistyped_path_is_answered_with_the_nearest_before_anything_else(ssmtl, tmp_path, text, message):
    write_scan(tmp_path / "sunny" / "images" / "p0.nii.gz")
    done = ssmtl("run", "--data", text)
    assert (done.returncode, done.stdout) == (3, "")
    assert message in done.stderr
    assert "backbone" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_dataset_with_a_misspelt_name_or_option_is_refused(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'phantom'"):
        dataset_of("phantm:patients=2")
    with pytest.raises(UsageError, match="did you mean 'patients'"):
        dataset_of(["phantom:patient=2", tmp_path])


@pytest.mark.parametrize("given", [np.zeros((4, 4, 4)), 7, {"image": 1}, [np.zeros((4, 4, 4))]])
def test_what_is_no_source_is_refused_and_arrays_are_pointed_to_the_adapter(given):
    with pytest.raises(UsageError, match="from_arrays"):
        RunConfig.of({"data": given}).resolve()
    with pytest.raises(UsageError, match="from_arrays"):
        dataset_of(given)


def test_no_sources_are_refused():
    with pytest.raises(UsageError, match="the list is empty"):
        dataset_of([])


NAMES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0*?["), min_size=1), min_size=2, unique=True)


@given(NAMES)
def test_several_sources_read_back_from_their_text(names):
    kind = registry().find(DatasetSpec, "folder")
    spec = Several(of=tuple(kind.model_validate({"root": f"/{name}"}) for name in names))
    assert dataset_of(str(spec)) == spec
    assert dataset_of(spec.full()) == spec
    assert dataset_of(str(Pattern(pattern=Path(f"/{names[0]}/*")))) == Pattern(pattern=Path(f"/{names[0]}/*"))


@pytest.mark.parametrize("place", ["//server/scans", "//me@server/scans", "//server/scans?x", "//0"])
def test_a_path_with_two_slashes_is_no_address(place):
    kind = registry().find(DatasetSpec, "folder")
    folder, pattern = kind.model_validate({"root": place}), Pattern(pattern=Path(f"{place}/*"))
    for spec in (folder, pattern, Several(of=(folder, kind.model_validate({"root": "/other"})))):
        assert dataset_of(str(spec)) == dataset_of(spec.full()) == spec


def test_classes_of_several_sources_must_not_contradict_each_other(tmp_path):
    for name, value in (("a", 1), ("b", 2)):
        write_pair(tmp_path / name, "p0", seed=value)
        row = '[[scan]]\nimage = "images/p0.nii.gz"\nlabel = "labels/p0.nii.gz"\n'
        (tmp_path / name / "m.toml").write_text(f"[classes]\nliver = {value}\n{row}")
    write_pair(tmp_path / "c", "p0", seed=5)
    both = dataset_of([tmp_path / "a" / "m.toml", tmp_path / "c"])
    assert both.classes() == {"liver": (1,)}
    assert any("c does not name its label classes" in remark for remark in both.remarks([]))
    with pytest.raises(DataError, match=r"b/m: its classes .liver=2. contradict those of the sources before it"):
        dataset_of([tmp_path / "a" / "m.toml", tmp_path / "b" / "m.toml"]).classes()


def test_what_all_sources_suggest_is_suggested(two):
    assert dataset_of(["phantom:patients=2", "phantom:patients=3"]).suggested() == {"size": 64, "epochs": 3}
    assert dataset_of(["phantom:patients=2", two / "a"]).suggested() == {}


def test_a_run_takes_repeated_data_and_repeats_from_its_file(ssmtl, two):
    short = ("--steps", 1, "--size", 32, "--backbone", SMALL, "--task", "reconstruct_prev:t=1")
    done = ssmtl("run", "--data", "a", "--data", "b", *short, "--out", "run")
    assert done.returncode == 0, done.stderr
    assert "5 scans" in done.stderr
    assert "note: 2 names of patients" in done.stderr
    again = ssmtl("run", "--config", "run/run.toml", "--out", "again")
    assert again.returncode == 0, again.stderr
    assert (two / "again" / "backbone.safetensors").read_bytes() == (two / "run" / "backbone.safetensors").read_bytes()


def test_paths_without_data_are_answered_with_what_was_meant(ssmtl, two):
    assert "did you mean --data a?" in ssmtl("run", "a").stderr
    shell = ssmtl("run", "--data", "a/p0.nii.gz", "a/p1.nii.gz", "b/p0.nii.gz")
    assert shell.returncode == 2
    assert "'a/p1.nii.gz', 'b/p0.nii.gz'" in shell.stderr
    assert "quote a pattern" in shell.stderr


@pytest.mark.parametrize("name", ["c.json", "c.toml", "c.yaml", "d.toml", "e.yml"])
def test_json_and_yaml_given_as_a_configuration_are_called_so(ssmtl, tmp_path, name):
    other = "JSON" if name.startswith("c.j") or name == "c.toml" else "YAML"
    text = '{"size": 32}' if other == "JSON" else "size: 32\ntasks:\n  - reconstruct_prev\n"
    (tmp_path / name).write_text(text)
    for arguments in (("run", "--config", name), ("experiment", name), ("finetune", "--config", name)):
        done = ssmtl(*arguments)
        assert done.returncode == 2
        assert f"{name}: is {other}; " in done.stderr


def test_a_single_task_may_be_a_bare_text():
    assert [str(task) for task in RunConfig(tasks="reconstruct_prev:t=2").resolve().tasks] == ["reconstruct_prev:t=2"]
    assert [spec.name for spec in RunConfig(augment="noise").resolve().augment] == ["noise"]


def test_a_fine_tuned_model_predicts_a_pattern(ssmtl, tuned, labelled):
    done = ssmtl("predict", "--from", tuned, labelled / "images" / "a_*.nii.gz", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert [Path(line).name for line in done.stdout.split()] == ["a_post.nii.gz", "a_pre.nii.gz"]
    assert nib.load(done.stdout.split()[0]).shape == nib.load(labelled / "images" / "a_post.nii.gz").shape

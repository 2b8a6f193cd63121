"""`ssmtl runs` and `ssmtl cache`: what is there, what is best, what differs, and what may be deleted."""

import json
import os
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from ssmtl_toolkit.data.users import use_cache
from ssmtl_toolkit.runtime.overview import best, differing, runs_below

TUNED = {"metrics": ["iou", "hd95"], "arms": {"scratch": {"iou": {"mean": 0.5}, "hd95": {"mean": 3.0}}}}


def write_run(folder, config="run.toml", options="steps = 3\n", summary=None, state=None):
    folder.mkdir(parents=True)
    (folder / config).write_text(options)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    if state is not None:
        starts = [{"started": f"2026-01-0{len(folder.name)}T00:00:00Z", "state": state}]
        (folder / "environment.json").write_text(json.dumps({"id": "0" * 16, "starts": starts}))
    return folder


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    task = {"task": {"loss": 0.5, "verdict": "learned"}}
    write_run(root / "a", summary={"tasks": task}, state="finished")
    write_run(root / "bb", options="steps = 4\n", state="running")
    write_run(root / "ccc", options="steps = 4\n", state="interrupted")
    write_run(root / "deep" / "er" / "dddd", "finetune.toml", summary=TUNED)
    better = {**TUNED, "arms": {"scratch": {"iou": {"mean": 0.6}}}}
    write_run(root / "deep" / "e", "finetune.toml", summary=better, state="finished")
    return root


def test_each_run_is_listed_with_how_far_it_is(runs):
    with FileLock(runs / "ccc" / ".lock"):
        found = {run.folder.name: (run.command, run.state) for run in runs_below(runs)}
    assert found == {
        "a": ("run", "finished"),
        "bb": ("run", "killed"),
        "ccc": ("run", "running"),
        "dddd": ("finetune", "finished"),
        "e": ("finetune", "finished"),
    }


def test_the_best_is_the_one_with_the_highest_score_and_there_is_none_of_one(runs):
    found = runs_below(runs)
    assert best(found).folder.name == "e"
    assert best([run for run in found if run.folder.name != "e"]) is None


def test_both_arms_are_listed_and_a_metric_that_is_not_installed_by_its_name(tmp_path, ssmtl):
    arms = {"scratch": {"iou": {"mean": 0.5}}, "pretrained": {"iou": {"mean": 0.6127}}}
    write_run(tmp_path / "both", "finetune.toml", summary={"metrics": ["iou"], "arms": arms})
    arms = {"scratch": {"strange": {"mean": 7}}}
    write_run(tmp_path / "other", "finetune.toml", summary={"metrics": ["strange:a=1"], "arms": arms})
    write_run(tmp_path / "young", "finetune.toml")
    shown = ssmtl("runs", tmp_path).stdout
    assert "mIoU 0.613 (from scratch 0.500)" in shown
    assert "strange:a=1 7.000 from scratch" in shown
    assert "fine-tuning" in shown


def test_of_a_metric_that_should_be_low_the_lowest_is_best(tmp_path):
    for name, value in (("far", 9.0), ("near", 2.0)):
        summary = {"metrics": ["hd95"], "arms": {"pretrained": {"hd95": {"mean": value}}}}
        write_run(tmp_path / name, "finetune.toml", summary=summary)
    assert best(runs_below(tmp_path)).folder.name == "near"


def test_options_that_differ_are_shown_with_the_value_of_each_run(runs, ssmtl):
    found = [run for run in runs_below(runs) if run.folder.name in {"a", "bb"}]
    assert differing(found) == {"steps": ["3", "4"]}
    shown = ssmtl("runs", runs / "a", runs / "bb", "--differences").stdout.split()
    assert shown == ["option", "a", "bb", "steps", "3", "4"]


def test_the_list_fits_a_terminal_and_its_json_is_alone_on_stdout(runs, ssmtl, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = ssmtl("runs", runs)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "1 of 1 task learned" in done.stdout
    assert done.stderr.startswith(f"best      {runs / 'deep' / 'e'}: mIoU 0.600 from scratch\n")
    told = json.loads(ssmtl("runs", runs, "--json").stdout)
    assert told["best"] == str(runs / "deep" / "e")
    assert len(told["runs"]) == 5


def test_what_is_no_run_is_skipped_and_a_folder_that_does_not_exist_is_refused(tmp_path, ssmtl):
    write_run(tmp_path / "broken", summary=["no", "summary"])
    (tmp_path / "broken" / "run.toml").write_text("not = toml = at all")
    assert ssmtl("runs", tmp_path).stderr == "no runs; ssmtl run makes one\n"
    assert ssmtl("runs", tmp_path / "nowhere").returncode == 2


def fill(cache, days):
    """A cache with a phantom, half a file, and a piece of an older version, last used so many days ago."""
    for name in ("phantoms/a.nii.gz", "slices/ab/.x.part", "slices/ab/abcd.safetensors"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"1234")
        then = time.time() - days * 86400
        os.utime(cache / name, (then, then))
    return cache


def test_info_says_how_large_the_cache_is_and_what_is_stale(tmp_path, ssmtl):
    cache = fill(tmp_path / "c", days=2)
    told = json.loads(ssmtl("cache", "info", "--cache", cache, "--json").stdout)
    assert (told["bytes"], told["stale"]) == (12, {"files": 2, "bytes": 8})
    assert told["users"] == []
    rows = [line.split() for line in ssmtl("cache", "info", "--cache", cache).stdout.splitlines()]
    assert ["phantoms", "and", "others", "1", "4", "B"] in rows


@pytest.mark.parametrize(
    ("options", "left"), [([], 1), (["--older-than", 3], 1), (["--older-than", 1], 0), (["--all"], 0)]
)
def test_clean_deletes_what_is_stale_and_what_is_old_if_asked(tmp_path, ssmtl, options, left):
    cache = fill(tmp_path / "c", days=2)
    done = ssmtl("cache", "clean", "--cache", cache, *options)
    assert f"{3 - left} files deleted" in done.stderr
    assert len([file for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"]) == left


def test_nothing_is_deleted_while_a_process_uses_the_cache(tmp_path, ssmtl):
    cache = fill(tmp_path / "c", days=2)
    code = (
        "from pathlib import Path; from ssmtl_toolkit.data.users import use_cache\n"
        f"use_cache(Path({str(cache)!r})); print('ready', flush=True); input()"
    )
    held = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert held.stdout.readline() == "ready\n"
        done = ssmtl("cache", "clean", "--cache", cache, "--all")
        assert done.returncode == 1
        assert f"is in use by process {held.pid}; nothing was deleted" in done.stderr
        assert (cache / "slices" / "ab" / ".x.part").is_file()
    finally:
        held.communicate("\n")
    assert ssmtl("cache", "clean", "--cache", cache, "--all").returncode == 0


def test_a_cache_that_cannot_be_written_is_used_without_a_mark(tmp_path):
    (tmp_path / "file").write_text("")
    use_cache(tmp_path / "file")
    assert (tmp_path / "file").read_text() == ""


def test_only_one_of_all_and_older_than_is_given(tmp_path, ssmtl):
    assert "give one of them" in ssmtl("cache", "clean", "--all", "--older-than", 1, "--cache", tmp_path).stderr

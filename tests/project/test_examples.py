"""The example programs run as they stand."""

import os
import subprocess
import sys

import pytest

from helpers.places import ROOT


def run(program, data, tmp_path):
    command = [sys.executable, ROOT / "examples" / program, data, tmp_path / "out"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", ["own_task.py", "pretrain_in_python.py"])
def test_the_example_pre_trains(program, scans, tmp_path):
    assert "loss" in run(program, scans, tmp_path)
    assert (tmp_path / "out" / "backbone.safetensors").is_file()


def test_the_whole_way_from_scans_to_scores(labelled, tmp_path):
    told = run("few_labels.py", labelled, tmp_path)
    assert "10 label maps" in told
    assert "difference" in told
    assert "Dice of all scans" in told


def test_every_example_is_tested():
    assert {p.name for p in (ROOT / "examples").glob("*.py")} == {
        "own_task.py",
        "pretrain_in_python.py",
        "few_labels.py",
    }

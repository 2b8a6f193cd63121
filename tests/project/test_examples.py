"""The example programs run as they stand."""

import json
import re
import runpy
import sys

import pytest

from helpers.places import ROOT


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run an example as a program, in this process for it has imported torch; give what it printed."""

    def call(program, data):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(sys, "argv", [program, str(data), str(tmp_path / "out")])
        runpy.run_path(str(ROOT / "examples" / program), run_name="__main__")
        return capfd.readouterr().out

    return call


@pytest.mark.slow
@pytest.mark.parametrize("program", ["own_task.py", "pretrain_in_python.py"])
def test_the_example_pre_trains(run, program, scans, tmp_path):
    assert "loss" in run(program, scans)
    assert (tmp_path / "out" / "backbone.safetensors").is_file()


@pytest.mark.slow
def test_the_whole_way_from_scans_to_scores(run, labelled):
    told = run("few_labels.py", labelled)
    assert "10 label maps" in told
    assert "difference" in told
    assert "Dice of all scans" in told


@pytest.mark.slow
def test_the_loop_of_ones_own_learns(run, scans):
    first, last = re.findall(r"loss ([\d.]+)", run("own_loop.py", scans))
    assert float(last) < 0.9 * float(first)


def test_every_example_is_tested():
    assert {p.name for p in (ROOT / "examples").glob("*.py")} == {
        "own_loop.py",
        "own_task.py",
        "pretrain_in_python.py",
        "few_labels.py",
        "into_nnunet.py",  # by hand: it needs nnU-Net's own environment
    }


@pytest.mark.slow
@pytest.mark.soak
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cells = json.loads((ROOT / "examples" / "five_minutes.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace("STEPS, SIZE = 200, 48", "STEPS, SIZE = 20, 32"), names)
    assert names["predicted"].failed == ()
    assert set(names["tuned"].summary["arms"]) == {"pretrained", "scratch"}

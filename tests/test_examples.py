"""The example programs run as they stand."""

import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.parametrize("program", sorted(p.name for p in (ROOT / "examples").glob("*.py")))
def test_the_example_runs(program, scans, tmp_path):
    command = [sys.executable, ROOT / "examples" / program, scans, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "loss" in done.stdout
    assert (tmp_path / "out" / "backbone.safetensors").is_file()


def environment(tmp_path):
    import os

    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

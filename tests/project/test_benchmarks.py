"""The programs about speed run, each on its smallest row; no times are asserted."""

import json
import math
import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def timing():
    sys.path.insert(0, str(FOLDER))
    import timing

    yield timing
    sys.path.remove(str(FOLDER))


def sleeping(seconds):
    import time

    return lambda: time.sleep(seconds)


def test_ways_take_turns_and_a_reference_is_measured_against_itself(timing):
    ways = {"slow": timing.Way(sleeping, (0.02,)), "fast": timing.Way(sleeping, (0.002,))}
    ratios = [timing.Ratio("slow", "fast", "≤ 2"), timing.Ratio("fast", "slow", faster=True)]
    slow, fast = timing.measure(timing.Group("sleep", ways, ratios), rounds=3)
    assert (slow.what, slow.reference, slow.target) == ("sleep: slow", "fast", "≤ 2")
    assert [len(numbers) for numbers in (slow.wall, slow.cpu, slow.itself)] == [3, 3, 3]
    assert min(slow.wall + fast.wall) > 1  # the second counts how many times faster


def test_a_way_that_cannot_be_measured_is_a_row_that_says_why(timing):
    def missing():
        raise timing.Skipped("lightly cannot be installed")

    group = timing.Group("views", {"a": timing.Way(missing), "b": timing.Way(missing)}, [timing.Ratio("a", "b")])
    (row,) = timing.measure(group, rounds=1)
    assert "skipped: lightly cannot be installed" in timing.markdown([row])
    assert json.loads(timing.as_json("a machine", [1.0], [row]))["rows"][0]["wall"] == []


def test_a_process_that_ends_before_it_answers_is_an_error_and_no_wait(timing):
    assert timing.answered(math.hypot, 3, 4) == 5
    message = "ended with code 7 before it answered; its error is above"
    with pytest.raises(SystemExit, match=message):
        timing.answered(os._exit, 7)
    group = timing.Group("g", {"a": timing.Way(os._exit, (7,), apart=True)}, [timing.Ratio("a", "a")])
    with pytest.raises(SystemExit, match=message):
        timing.measure(group, rounds=1)


def test_rows_measured_again_replace_theirs_and_new_ones_follow_those_of_their_program(timing):
    import all as table

    rows = [timing.Row(what, "a loop", "≤ 1", program, figure=what) for what, program in ("ax", "by", "cx")]
    text = timing.headed("a machine", [2.0, 3.0], [rows[0], rows[1]])
    again = timing.Row("b", "a loop", "≤ 1", "y", figure="again")
    found = table.among(text, "a machine", [9.0], [again, rows[2]])
    assert found == timing.headed("a machine", [2.0, 9.0], [rows[0], rows[2], again])


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", ["step", "finetune_step", "predict", "store", "scoring", "augmentation", "open_store"]
)
def test_a_program_runs_on_its_smallest_row(timing, program, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = timing.run(__import__(program).rows(True), rounds=1, apart=False)
    assert rows
    assert all(math.isfinite(ratio) and ratio > 0 for row in rows for ratio in row.wall)
    assert all(row.wall or row.figure for row in rows)

"""log.txt, environment.json and trackers of a run: what they hold, and that none of them ends it."""

import json
import re
import sys

import pytest

from helpers.small import SMALL
from ssmtl_toolkit import DataError, UsageError, pretrain
from ssmtl_toolkit.data.files import digest
from ssmtl_toolkit.engine.tracker import Tracker
from ssmtl_toolkit.runtime.environment import command
from ssmtl_toolkit.runtime.interrupt import InterruptedRunError, interrupts
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.tracking import numbers
from ssmtl_toolkit.specs import TrackerSpec

OPTIONS = {"backbone": SMALL, "size": 32, "steps": 3, "log_every": 1, "tasks": ["slice_siam:t=1"], "held_out": 0}


class Notes(Progress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


class Fails(Tracker):
    def __init__(self, at, calls):
        self.at, self.calls = at, calls

    def scalars(self, part, step, values):
        self.calls.append(step)
        if self.at == step:
            raise OSError("the disk is full")

    def end(self, state):
        self.calls.append(state)
        if self.at == "end":
            sys.exit(3)


CALLS: list[object] = []


class Failing(TrackerSpec):
    """Fails after a step, at the end, or when it is opened."""

    name = "failing"

    at: str = ""

    def open(self, run):
        if self.at == "open":
            import no_such_package  # noqa: F401
        if self.at == "nothing":
            return None
        CALLS.append(dict(run.config))
        return Fails(int(self.at) if self.at.isdecimal() else self.at, CALLS)


def run(scans, tmp_path, name="run", **options):
    notes = Notes()
    CALLS.clear()
    done = pretrain(data=scans, out=tmp_path / name, cache=tmp_path / "cache", progress=notes, **{**OPTIONS, **options})
    return done, notes.notes, list(CALLS)


@pytest.mark.parametrize(
    ("at", "reason", "after"),
    [
        ("open", "needs no_such_package, which is not installed (pip install no_such_package)", []),
        ("nothing", "fails: TypeError: its open() gives NoneType; give a Tracker", []),
        ("2", "fails: OSError: the disk is full", [1, 2]),
        ("end", "fails: SystemExit", [1, 2, 3, "finished"]),
    ],
)
def test_a_tracker_that_fails_is_left_out_with_one_warning_and_the_weights_are_the_same(
    scans, tmp_path, at, reason, after
):
    plain, _, _ = run(scans, tmp_path, "plain")
    tracked, notes, calls = run(scans, tmp_path, "tracked", track=[Failing(at=at)])
    warnings = [note for note in notes if "--track" in note]
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert warnings[0].endswith("; the run continues without it")
    assert calls[1:] == after
    assert digest(tracked.backbone) == digest(plain.backbone)


def test_trackers_get_the_options_but_no_paths(scans, tmp_path):
    _, _, calls = run(scans, tmp_path, track=Failing(at=""), without=None)
    assert calls[0]["backbone"].startswith("unet:")
    assert calls[0]["steps"] == 3
    assert str(tmp_path) not in json.dumps(calls[0])


def test_an_interrupted_run_ends_as_such_and_continues_in_the_same_tracked_run(scans, tmp_path):
    class Stops(Notes):
        def stepped(self, step):
            if step == 2:
                interrupts.number = 15

    with pytest.raises(InterruptedRunError):
        pretrain(data=scans, out=tmp_path / "run", cache=tmp_path / "cache", progress=Stops(), track="csv", **OPTIONS)
    folder = tmp_path / "run"
    assert "state,interrupted" in (folder / "csv" / "scores.csv").read_text()
    pretrain(data=scans, out=folder, cache=tmp_path / "cache", resume=True, track="csv", **OPTIONS)
    steps = [line.split(",")[1] for line in (folder / "csv" / "scalars.csv").read_text().splitlines()[1:]]
    assert list(dict.fromkeys(steps)) == ["1", "2", "3"]
    environment = json.loads((folder / "environment.json").read_text())
    assert [start["state"] for start in environment["starts"]] == ["interrupted", "finished"]
    assert re.fullmatch("[0-9a-f]{16}", environment["id"])
    log = (folder / "log.txt").read_text()
    assert "error: stopped by SIGTERM" in log
    assert "note: resumes after step 2" in log


def test_environment_json_has_versions_and_the_machine_and_no_path_or_user(scans, tmp_path):
    folder = run(scans, tmp_path)[0].folder
    text = (folder / "environment.json").read_text()
    (start,) = json.loads(text)["starts"]
    assert {"python", "torch", "ssmtl-toolkit", "numpy", "timm"} <= start["versions"].keys()
    assert start["machine"]["device"] == "cpu"
    assert start["machine"]["cores"] >= 1
    assert str(tmp_path) not in text
    assert "/" not in start["command"]


def test_the_command_is_recorded_without_the_folders_of_its_paths():
    words = ["ssmtl", "run", "--data", "folder:/home/me/scans,modality=MR", "--out=/data/x", "--task", "moco_v2:t=2"]
    assert command(words) == "ssmtl run --data folder:scans,modality=MR --out=x --task moco_v2:t=2"
    assert command(["/usr/lib/python3/ipykernel_launcher.py", "-f", "/home/me/x.json"]) == "Python"


def test_log_txt_is_what_a_terminal_was_told_without_control_characters(ssmtl, scans):
    options = ["--backbone", SMALL, "--size", 32, "--steps", 3, "--task", "slice_siam:t=1"]
    done = ssmtl("run", "--data", scans, *options, "--out", "run")
    assert done.returncode == 0
    log = (scans.parent / "run" / "log.txt").read_text()
    for line in done.stderr.splitlines():
        if line.startswith(("scans ", "pairs ", "step ", "slice_siam", "again ")):
            assert re.sub(r"  \d+ images/s.*", "", line).rstrip() in log  # the speed is measured twice
    assert all(re.match(r"\d\d:\d\d:\d\d  |\d{4}-", line) for line in log.splitlines())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", log)


@pytest.mark.parametrize("wrong", [{"data": "nowhere"}, {"tasks": ["slice_siam:t=500"]}, {"track": ["csvv"]}])
def test_a_start_that_fails_leaves_no_folder(scans, tmp_path, wrong):
    with pytest.raises((DataError, UsageError)):
        pretrain(out=tmp_path / "a" / "run", cache=tmp_path / "cache", **{"data": scans, **OPTIONS, **wrong})
    assert not (tmp_path / "a").exists()


def test_a_tracker_that_does_not_exist_or_is_given_twice_is_refused(scans, tmp_path):
    with pytest.raises(UsageError, match="no tracker named 'csvv'; did you mean 'csv'"):
        run(scans, tmp_path, track=["csvv"])
    with pytest.raises(UsageError, match="--track csv: is given twice"):
        run(scans, tmp_path, track=["csv", "csv"])


def test_numbers_of_a_summary_are_named_by_their_path_and_statistics_count_by_their_mean():
    tree = {"iou": {"mean": 0.5, "sd": 0.1}, "classes": {"LV": {"iou": {"mean": None}}}, "steps": 3, "best": True}
    assert numbers(tree) == {"iou": 0.5, "steps": 3}
    assert numbers({"loss": float("nan"), "list": [1.0]}) == {}

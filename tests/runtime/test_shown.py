"""What a notebook shows: results as tables, and progress in one line."""

import sys

import pytest

from helpers.small import SMALL
from ssmtl_toolkit import evaluate, finetune, predict, pretrain
from ssmtl_toolkit.downstream.predicted import Predicted
from ssmtl_toolkit.runtime.lines import Lines
from ssmtl_toolkit.runtime.notebook import default_progress
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.results import Result


class Named(Result):
    def rows(self):
        return [("<task>", "loss"), ("slice_siam", "-0.5")]


def test_a_result_is_a_table_as_text_and_as_html_that_cannot_be_markup(tmp_path):
    result = Named(tmp_path, {})
    assert repr(result) == f"Named in {tmp_path}\n<task>      loss\nslice_siam  -0.5"
    table = "<tr><th>&lt;task&gt;</th><th>loss</th></tr><tr><td>slice_siam</td><td>-0.5</td></tr>"
    assert table in result._repr_html_()


@pytest.mark.slow
def test_results_of_all_commands_show_what_counts(tmp_path):
    how = {"data": "phantom:patients=3", "size": 32, "cache": tmp_path / "cache"}
    run = pretrain(backbone=SMALL, steps=1, tasks="reconstruct_next", out=tmp_path / "run", **how)
    assert repr(run).splitlines()[1].split() == ["task", "loss", "best", "trivial", "answer", "verdict"]
    assert "reconstruct_next" in run._repr_html_()
    small = {"train_scans": 1, "slices_per_scan": 4, "test_scans": 1, "surface": False}
    tuned = finetune(run, steps=1, out=tmp_path / "tuned", **small, **how)
    assert repr(tuned).splitlines()[1].split() == ["IoU", "Dice"]
    predicted = predict(tuned, "phantom:patients=1", out=tmp_path / "out", cache=tmp_path / "cache")
    assert isinstance(predicted, Predicted)
    assert repr(predicted).startswith(f"Predicted in {tmp_path / 'out'}: 1 written, by ")
    scores = evaluate(predicted, predicted, surface=False)
    assert repr(scores).splitlines()[0].startswith("Evaluated: 1 scan of ")
    assert repr(scores).splitlines()[-1].split() == ["mean", "1.000", "1.000"]


def test_python_code_outside_of_a_notebook_is_not_told_anything():
    assert type(default_progress()) is Progress
    assert "IPython" not in sys.modules


def test_lines_tell_of_a_training_now_and_then_with_the_time_to_go():
    lines: list[str] = []
    progress = Lines(lines.append)
    progress.training(0, 100, 8)
    for step in range(1, 101):
        progress.stepped(step)
        progress.logged({"step": step, "a/loss": 1 / step})
    assert len(lines) == 11  # the first, and one at each tenth
    assert lines[-1].startswith("step 100/100  ")
    assert lines[-1].endswith("a 0.0100")
    assert not any("\r" in line or "\x1b" in line for line in lines)

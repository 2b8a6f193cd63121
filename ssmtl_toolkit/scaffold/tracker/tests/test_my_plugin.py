"""What the tracker should write down of a run; and the checks that every tracker passes."""

from pathlib import Path

import pytest
from ssmtl_toolkit import pretrain
from ssmtl_toolkit.engine.tracker import TrackedRun
from ssmtl_toolkit.testing import Case, cases

from my_plugin import MyPlugin


def test_its_page_tells_of_a_run_from_its_options_to_its_end(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path, "first", "0123456789abcdef", "run", {"lr": 0.001})
    tracker = MyPlugin(digits=2).open(run)
    tracker.training("", 0)
    tracker.scalars("", 10, {"side/loss": 0.6931, "side/pairs": 160.0})
    tracker.scores({"tasks/side/loss": 0.5})
    tracker.end("finished")
    lines = (tmp_path / "my_plugin.md").read_text("utf-8").splitlines()
    assert lines[0] == "# first"
    assert {"- lr: 0.001", "- step 10: side/loss 0.69", "- tasks/side/loss: 0.50", "The run finished."} <= set(lines)


def test_a_run_that_is_resumed_continues_its_page(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path, "first", "0123456789abcdef", "run", {})
    for _ in range(2):
        MyPlugin().open(run).end("interrupted")
    assert (tmp_path / "my_plugin.md").read_text("utf-8").count("# first") == 1


def test_a_run_is_recorded_by_its_name(tmp_path: Path) -> None:
    pretrain(
        data="phantom:patients=3",
        backbone="unet:encoder=plain,width=8",
        size=32,
        steps=2,
        track=["my_plugin"],
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    assert "The run finished." in (tmp_path / "run" / "my_plugin.md").read_text("utf-8")


@pytest.mark.parametrize("case", cases("my_plugin"), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()

"""A plugin that tries to end the process, at any moment and in any way: the command has failed, and says who it was."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from helpers import leaving_parts as parts
from ssmtl_toolkit.cli import cli, main
from ssmtl_toolkit.foreign import staying
from ssmtl_toolkit.registry import Entry, Plugin, Registry, registry

SMALL = ("--size", 32, "--batch-size", 4, "--steps", 3, "--log-every", 1, "--out", "r")
UNET = ("--backbone", "unet:encoder=plain,width=4")
PLUGIN = Plugin("leaving", "leaving-parts", "1.0")
SPECS = (parts.LeavingTask, parts.LeavingBackbone, parts.LeavingBalancer, parts.LeavingHead, parts.LeavingDataset)


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    for spec in SPECS:
        monkeypatch.setitem(registry().entries, (spec.kind, spec.name), Entry(spec, PLUGIN))


def failed(done, *said):
    """The command ended with exit code 1, one line that says `said`, no result, and no traceback."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    for part in said:
        assert part in line


@pytest.mark.parametrize("how", ["exit", "keyboard", "click", "eof", "odd", "generator", "key"])
def test_whatever_a_task_raises_in_forward_is_a_failed_run_that_names_it_and_the_step(ssmtl, scans, tmp_path, how):
    task = f"leaving_task:how={how}"
    done = ssmtl("run", *SMALL, *UNET, "--data", scans, "--task", task, "--json")
    shown = "leaving_task" if how == "exit" else task
    failed(done, f"task '{shown}' failed in step 2 on a batch of 4 slices", "--debug")
    assert "\x1b" not in done.stderr
    assert not (tmp_path / "r" / "summary.json").exists()


def test_a_working_directory_that_is_removed_meanwhile_is_laid_to_no_part(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    with staying("task 'a'"):
        (tmp_path / "gone").rmdir()


@pytest.mark.parametrize("at", ["forward", "build", "companions"])
def test_a_part_that_leaves_the_working_directory_is_named_and_leaves_nothing_elsewhere(ssmtl, scans, tmp_path, at):
    done = ssmtl("run", *SMALL, *UNET, "--data", scans, "--task", f"leaving_task:at={at},how=folder")
    failed(done, "changed the working directory to /", "leaving_task:")
    assert Path.cwd() == tmp_path
    assert not Path("/r").exists()


def test_a_task_that_makes_a_buffer_while_it_trains_is_refused_before_a_checkpoint_that_nothing_could_read(
    ssmtl, scans, tmp_path
):
    done = ssmtl("run", *SMALL, *UNET, "--data", scans, "--task", "leaving_task:at=late")
    failed(done, "'leaving_task:at=late'", "its 'tasks.0.late' was missing when", "is float32 (3,) after step 3")
    assert not list((tmp_path / "r" / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--task", "leaving_task:at=build"), "building task 'leaving_task:at=build' failed: SystemExit: 0, which"),
        (("--task", "leaving_task:at=companions"), "task 'leaving_task:at=companions', asked for its companions"),
        (("--task", "leaving_task:at=remarks"), "task 'leaving_task:at=remarks', asked for its remarks, failed"),
        (("--task", "leaving_task:at=backward"), "the backward pass of task 'leaving_task:at=backward' failed in"),
        (("--balancer", "leaving_balancer:at=build"), "building balancer 'leaving_balancer:at=build' failed"),
        (("--balancer", "leaving_balancer"), "balancer 'leaving_balancer' failed in step 1"),
        (("--balancer", "leaving_balancer:at=updated,how=click"), "updated after step 1, failed: Exit"),
        (("--backbone", "leaving_backbone:at=build"), "building backbone 'leaving_backbone:at=build' failed"),
        (("--backbone", "leaving_backbone:how=keyboard"), "leaving_backbone:how=keyboard' failed: KeyboardInterrupt"),
        (("--backbone", "leaving_backbone:at=later"), "backbone 'leaving_backbone:at=later' failed in step 2"),
        (("--backbone", "leaving_backbone:at=eval"), "the backbone, tried on an image in eval mode, failed"),
        (("--data", "leaving_dataset"), "dataset 'leaving_dataset', asked for its scans, failed: SystemExit"),
        (("--data", "leaving_dataset:at=suggested"), "the command was not finished: SystemExit: 0"),
    ],
)  # fmt: skip
def test_a_part_that_leaves_elsewhere_in_a_run_is_named(ssmtl, scans, options, said):
    usual = {"--task": "slice_siam:t=1", "--data": scans, **dict([UNET])}
    done = ssmtl("run", *SMALL, *[one for pair in {**usual, options[0]: options[1]}.items() for one in pair])
    failed(done, said)


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("mute", 1, "failed in step 2 on a batch of 4 slices with 4 pairs: MuteError; ssmtl --debug shows where"),
        ("ours", 1, ", step 2: MuteOfOursError"),
        ("usage", 2, ", step 2: odd options"),
        ("click usage", 1, "with 4 pairs: UsageError: odd options; ssmtl --debug shows where"),
    ],
)
def test_an_error_that_fails_to_say_what_it_is_or_names_nobody_is_named(ssmtl, scans, how, code, said):
    done = ssmtl("run", *SMALL, *UNET, "--data", scans, "--task", f"leaving_task:how={how}")
    assert done.returncode == code, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"error: task 'leaving_task:how={how}'")
    assert line.endswith(said)


@pytest.mark.parametrize("balancer", ["fixed", "pcgrad"])
def test_of_several_tasks_the_one_is_named_whose_backward_pass_fails(ssmtl, scans, balancer):
    tasks = ("--task", "reconstruct_next:t=1", "--task", "leaving_task:at=backward,how=key", "--task", "slice_siam:t=1")
    failed(
        ssmtl("run", *SMALL, *UNET, "--data", scans, *tasks, "--balancer", balancer),
        "error: the backward pass of task 'leaving_task:at=backward,how=key' failed in step 1: KeyError: 'missing'; ",
    )


@pytest.mark.parametrize("at", ["matches", "files", "read"])
def test_a_reader_that_leaves_is_named(ssmtl, scans, monkeypatch, at):
    (scans / "last.bye").write_bytes(b"x")
    monkeypatch.setattr(parts.LeavingReader, "at", at)
    monkeypatch.setitem(registry().entries, ("reader", "leaving_reader"), Entry(parts.LeavingReader, PLUGIN))
    done = ssmtl("run", *SMALL, *UNET, "--data", scans, "--task", "slice_siam:t=1")
    failed(done, "SystemExit", *([] if at == "matches" else ["last.bye", "leaving_reader"]))


@pytest.mark.parametrize("at", ["build", "degrade", "forward", "loss", "test"])
def test_a_head_that_leaves_is_named(ssmtl, labelled, at):
    options = ("--test-scans", 2, "--train-scans", 1, "--slices-per-scan", 1, "--no-surface")
    done = ssmtl("finetune", *SMALL, *UNET, *options, "--data", labelled, "--head", f"leaving_head:at={at}", "--json")
    failed(done, "leaving_head", "SystemExit")


def test_a_head_that_makes_a_buffer_while_it_is_tuned_is_refused_before_a_model_that_nothing_could_load(
    ssmtl, labelled, tmp_path
):
    options = ("--test-scans", 2, "--train-scans", 1, "--slices-per-scan", 1, "--no-surface")
    done = ssmtl("finetune", *SMALL, *UNET, *options, "--data", labelled, "--head", "leaving_head:at=late")
    failed(done, "head 'leaving_head:at=late'", "its 'head.late' was missing when", "is float32 (3,) after step")
    assert not list(tmp_path.rglob("model.safetensors"))


def test_what_a_plugin_raises_at_import_is_told_and_everything_else_works(tmp_path, monkeypatch):
    for name, line in (("leaves", "raise KeyboardInterrupt"), ("odd", "raise type('Odd', (BaseException,), {})('x')")):
        (tmp_path / f"plugin_{name}.py").write_text(line + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    broken = []

    def load():
        broken.extend(Registry([EntryPoint(n, f"plugin_{n}", "ssmtl") for n in ("leaves", "odd")]).broken)

    monkeypatch.setattr(cli, "invoke", lambda ctx: load())
    with pytest.raises(SystemExit) as end:
        main(["plugins", "list"])
    assert end.value.code == 0
    assert [plugin.error for plugin in broken] == ["KeyboardInterrupt", "Odd: x"]


@pytest.mark.parametrize("how", ["exit", "keyboard", "click", "eof", "odd", "generator"])
def test_no_way_to_leave_a_command_that_is_not_finished_gives_exit_code_0(ssmtl, monkeypatch, how):
    monkeypatch.setattr("ssmtl_toolkit.scaffolding.write_plugin", lambda *args: parts.leave(how))
    failed(ssmtl("plugins", "new", "mine", "--kind", "task"), "the command was not finished: ")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["plugins", "list"]])
def test_what_ends_early_by_design_still_gives_exit_code_0(ssmtl, arguments):
    assert ssmtl(*arguments).returncode == 0


def test_a_part_that_breaks_its_contract_still_gives_exit_code_1_and_all_rows(ssmtl):
    done = ssmtl("plugins", "check", "leaving_task:at=build", "--only", "loss", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["failed"] == len(found["checks"]) > 0
    assert "not finished" not in done.stderr

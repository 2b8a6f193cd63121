"""Streams that are closed, full or ASCII only, and what others wrote: one line each, never a traceback or an escape."""

import os
import subprocess
import sys

import pytest

FULL = "/dev/full"
SMALL = ("--backbone", "unet:encoder=plain,width=4", "--size", "32", "--batch-size", "4", "--steps", "4")


def ended(arguments, redirect="", **variables):
    """How a command ends whose streams the shell has prepared."""
    environment = {**os.environ, **variables}
    command = f'"$@" {redirect}'
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", "ssmtl_toolkit", *arguments],
        capture_output=True,
        env={name: value for name, value in environment.items() if value is not None},
        timeout=120,
    )


def test_results_that_cannot_be_written_are_an_error_of_one_line():
    done = ended(["plugins", "list"], f">{FULL}")
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "error: stdout: cannot be written to (No space left on device); send it somewhere else\n"
    )


def test_without_any_stream_a_command_works():
    assert ended(["plugins", "list"], ">&- 2>&- <&-").returncode == 0


def test_a_reader_who_leaves_ends_the_command_silently():
    done = ended(["plugins", "list"], "| true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) in ((141, b""), (0, b""))


@pytest.mark.slow
@pytest.mark.parametrize("redirect", [">&- 2>&-", "2> >(true)"])
def test_streams_that_nobody_reads_do_not_end_a_training(redirect, scans):
    done = ended(["run", "--data", str(scans), *SMALL, "--out", str(scans.parent / "run")], redirect)
    assert done.returncode == 0
    assert (scans.parent / "run" / "backbone.safetensors").is_file()
    assert {path.name for path in scans.parent.iterdir()} >= {"scans", "run"}


def test_an_ascii_terminal_without_a_home_is_shown_everything():
    settings = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "TERM": "dumb", "NO_COLOR": "1", "HOME": None}
    done = ended(["plugins", "list"], **settings)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2026" in done.stdout  # the sign for what is cut short
    done = ended(["run", "--data", "心臓/x"], **settings)
    assert done.returncode == 3
    assert b"\\u5fc3\\u81d3/x: no such file or folder" in done.stderr


ODD = "a\x1b[31m\x9b31m\u202eb\r"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--data", ODD],
        ["run", "--config", ODD],
        ["run", "--resume", ODD],
        ["run", "--task", f"slice_siam:{ODD}=1"],
        ["run", "--task", f"slice_siam:t={ODD}"],
        ["run", f"--{ODD}"],
        ["run", "--axis", ODD],
        ["finetune", "--from", ODD],
        ["finetune", "--from", ODD, "--config", ODD],
        ["predict", "--from", ODD, "--out", "x", ODD],
        ["evaluate", "--pred", ODD, "--label", ODD],
        ["report", ODD],
        ["export", ODD, "--to", ODD],
        ["experiment", ODD],
        ["data", "info", ODD],
        ["runs", ODD],
        ["cache", "--cache", ODD],
        ["plugins", "show", ODD],
        ["plugins", "new", ODD, "--kind", "task"],
        [ODD],
    ],
    ids=" ".join,
)
def test_nothing_given_reaches_the_terminal_unescaped(arguments, ssmtl):
    done = ssmtl(*arguments)
    assert done.returncode in (0, 2, 3)
    for text in (done.stdout, done.stderr):
        assert all(c.isprintable() or c == "\n" for c in text)
        assert "not expected" not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--out", "{}", "--data", "missing"],
        ["run", "--config", "{}"],
        ["run", "--resume", "{}"],
        ["run", "--data", "missing", "--cache", "{}"],
        ["run", "--data", "{}", "--data", "missing"],
        ["run", "--data", "missing", "--without", "{}"],
        ["finetune", "--from", "{}"],
        ["finetune", "--data", "missing", "--split", "{}"],
        ["finetune", "--data", "missing", "--recipe", "{}"],
        ["predict", "--from", "{}", "--out", "x", "x"],
        ["predict", "--from", "missing", "--out", "{}", "x"],
        ["evaluate", "--pred", "{}", "--label", "missing"],
        ["evaluate", "--pred", "missing", "--label", "{}"],
        ["export", "{}", "--to", "torch"],
        ["report", "{}"],
        ["experiment", "{}"],
        ["data", "info", "missing", "--split", "{}"],
        ["data", "suggest", "missing", "--from", "{}", "--out", "x"],
        ["plugins", "check", "nifti", "--example", "{}"],
        ["--plugin", "{}", "plugins", "list"],
    ],
    ids=" ".join,
)
def test_a_path_that_cannot_exist_is_refused_by_its_option(arguments, ssmtl):
    for path in ("~nosuchuser/x", "a" * 300, "a/" * 3000, "", "\0", "x\udcff"):
        done = ssmtl(*[path if word == "{}" else word for word in arguments])
        assert done.returncode in (1, 2, 3)
        assert "not expected" not in done.stderr
        assert max(map(len, done.stderr.splitlines())) <= 2000

"""Tables on narrow terminals, and progress that is removed however a command ends."""

import io

import pytest
from rich.console import Console

from ssmtl_toolkit.cli.console import print_table, reporting


def printed(width, columns, rows):
    stream = io.StringIO()
    print_table(Console(file=stream, width=width, markup=False, soft_wrap=True), "title", columns, rows)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_table_that_is_too_wide_is_printed_in_parts_each_with_the_names_of_rows():
    columns, rows = ["", "first", "second"], [["row", "0.500 ± 0.013", "0.600 ± 0.013"], ["other", "-", "0.700"]]
    assert printed(40, columns, rows) == [
        "title",
        "       first          second",
        "row    0.500 ± 0.013  0.600 ± 0.013",
        "other  -              0.700",
    ]
    assert printed(30, columns, rows) == [
        *("title", "       first", "row    0.500 ± 0.013", "other  -", ""),
        *("       second", "row    0.600 ± 0.013", "other  0.700"),
    ]


@pytest.mark.parametrize("width", [30, 40])
def test_a_long_name_is_folded_and_no_number_is(width):
    lines = printed(width, ["", "first"], [["a very long name of a row of this table", "0.500 ± 0.013"]])
    assert any(line.endswith("0.500 ± 0.013") for line in lines)
    assert max(map(len, lines)) <= width


HIDDEN, SHOWN = "\x1b[?25l", "\x1b[?25h"  # the cursor of a terminal


def test_a_command_that_fails_leaves_no_bars_and_a_visible_cursor(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    def fail():
        with reporting() as (_, progress):
            progress.preparing(3)
            raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        fail()
    shown = capfd.readouterr().err
    assert shown.count(HIDDEN) == 1
    assert shown.rindex(SHOWN) > shown.rindex(HIDDEN)


def test_only_the_first_of_several_processes_reports(capfd):
    with reporting(to_a_person=False) as (_, progress):
        progress.say("hello")
        progress.note("something")
    assert capfd.readouterr().err == ""
    with reporting() as (_, progress):
        progress.say("hello")
    assert capfd.readouterr().err == "hello\n"

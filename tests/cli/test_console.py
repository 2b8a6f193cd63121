"""Tables on narrow terminals."""

import io

import pytest
from rich.console import Console

from ssmtl_toolkit.cli.console import print_table


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

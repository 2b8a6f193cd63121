"""Long lists in messages: the first few, and how many more there are."""

import pytest

from ssmtl_toolkit.text import listed, shortened


@pytest.mark.parametrize("number", range(6))
def test_every_item_is_shown_or_counted(number):
    lines = shortened(map(str, range(number)), 3, " such notes")
    shown = [line for line in lines if line.isdigit()]
    assert shown == list("012")[:number]
    assert lines[len(shown) :] == ([f"… and {number - 3} more such notes"] if number > 3 else [])


def test_within_a_sentence_items_stand_between_commas():
    assert listed([], 2) == ""
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c", "d"], 2) == "a, b, … and 2 more"

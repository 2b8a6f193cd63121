"""Texts of messages: the first few of long lists, and what is wrong with a value, once."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from ssmtl_toolkit.text import listed, one_each, shortened


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


class Sizes(BaseModel):
    """Options that may be of several types, alone and in a list."""

    one: Annotated[int, Field(ge=2)] | Literal["all"] = "all"
    many: tuple[Annotated[int, Field(ge=2)] | Literal["all"], ...] = ()


@pytest.mark.parametrize(
    ("given", "places"),
    [
        ({"one": 1}, [("one",)]),
        ({"many": (1, 1)}, [("many", 0), ("many", 1)]),
        ({"many": (3, 1), "one": 1}, [("one",), ("many", 1)]),
    ],
)
def test_a_value_that_fits_none_of_several_types_is_said_once_and_each_of_a_list_by_itself(given, places):
    with pytest.raises(ValidationError) as caught:
        Sizes.model_validate(given)
    told = one_each(caught.value.errors())
    assert [error["loc"] for error in told] == places
    assert all("greater than or equal to 2, or 'all'" in error["msg"] for error in told)

"""What weights say of the slices that they learned from."""

import pytest

from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.runtime.usage import Answer, Usage


def usage(*distances, axis="axial"):
    return Usage.of(Slicing(axis=axis), 1, [(axis, distance) for distance in distances], Answer(kind="features"))


@pytest.mark.parametrize(("distance", "said"), [(4, False), (16, False), (3.9, True), (16.1, True), (0, False)])
def test_slices_more_than_twice_as_far_apart_or_as_near_as_any_of_the_training_are_told(distance, said):
    assert bool(usage(8.0, 8.0).unlike(distance)) == said


def test_the_note_names_both_distances_in_their_unit():
    assert (
        usage(5.0, 10.0)
        .unlike(1.25)
        .startswith(
            "its slices are 1.25 mm apart, those of the training 5 to 10 mm: if it shows another part of the body"
        )
    )
    assert "1000 ms apart, those of the training 40 ms" in usage(40.0, axis="time").unlike(1000.0)


def test_nothing_is_said_where_distances_are_not_known():
    assert usage(0.0, axis="time").spacing is None
    assert usage(0.0, axis="time").unlike(40.0) == ""

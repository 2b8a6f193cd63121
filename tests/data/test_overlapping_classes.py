"""Classes that overlap, such as whole tumour and core: their cells, indices, decisions, drawings and largest parts."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssmtl_toolkit.data.classes import IGNORE, Classes
from ssmtl_toolkit.data.overlay import overlay
from ssmtl_toolkit.data.postprocess import keep_largest, smooth_slices
from ssmtl_toolkit.downstream.meaning import Meaning

TUMOUR = "whole=1+2+4,core=1+4,enhancing=4"

texts = st.lists(st.sets(st.integers(1, 6), min_size=1), min_size=1, max_size=4, unique_by=frozenset).map(
    lambda sets: ",".join(f"c{i}={'+'.join(map(str, sorted(values)))}" for i, values in enumerate(sets))
)


def test_values_that_belong_to_the_same_classes_share_an_index():
    classes = Classes.parse("whole=1+2+3+4,core=2+3,top=3+4")
    assert classes.overlap
    assert classes.cells == ((1,), (2,), (3,), (4,))
    assert Classes.parse("whole=1+2+3+4,core=3+4").cells == ((1, 2), (3, 4))
    assert classes.members.tolist() == [
        [False, True, True, True, True],
        [False, False, True, True, False],
        [False, False, False, True, True],
    ]


def test_without_an_overlap_the_indices_are_those_of_the_classes():
    classes = Classes.parse("LV=500,LA=420+421")
    assert not classes.overlap
    assert classes.cells == ((500,), (420, 421))
    assert np.array_equal(classes.members, np.eye(3, dtype=bool)[1:])
    assert classes.parts is classes


def test_label_values_come_back_and_those_of_one_index_as_the_first_of_them():
    classes = Classes.parse("whole=5+2+9,core=9", ignore=7)
    index, unknown = classes.to_index(np.array([[[0, 5, 2, 9, 7]]]), "x")
    assert index.tolist() == [[[0, 1, 1, 2, IGNORE]]]
    assert unknown == ()
    assert classes.to_values(index).tolist() == [[[0, 5, 5, 9, 7]]]


def test_the_parts_of_overlapping_classes_are_called_by_their_owners():
    assert str(Classes.parse(TUMOUR).parts) == "whole&core=1,whole=2,whole&core&enhancing=4"
    assert not Classes.parse(TUMOUR).parts.overlap


@given(texts)
def test_overlapping_classes_survive_their_text_and_their_json(text):
    classes = Classes.parse(text)
    assert str(classes) == text
    assert Classes.from_json(classes.to_json()) == classes
    for value in range(1, 7):
        index, _ = classes.to_index(np.array([[[value]]]), "x", "background")
        owners = [str(value) in part.partition("=")[2].split("+") for part in text.split(",")]
        assert classes.members[:, index.item()].tolist() == owners


@given(texts, st.lists(st.floats(-6, 6), min_size=4, max_size=4))
def test_the_index_is_the_most_probable_of_the_combinations_that_exist(text, logits):
    classes = Classes.parse(text)
    logits = logits[: len(classes)]
    meaning = Meaning.of(classes)
    if not classes.overlap:
        assert meaning.maps == len(classes) + 1
        return
    maps = torch.tensor(logits).reshape(1, -1, 1, 1)
    chances = [1 / (1 + math.exp(-one)) for one in logits]

    def probability(owned):
        return math.prod(p if there else 1 - p for p, there in zip(chances, owned, strict=True))

    best = max(probability(owned) for owned in classes.members.T.tolist())
    for found in (meaning.index(maps), meaning.index(meaning.chances(maps), chances=True)):
        assert probability(classes.members[:, found.item()].tolist()) == pytest.approx(best, rel=1e-3)


def test_what_is_likely_for_every_class_by_itself_is_predicted_where_it_exists():
    meaning = Meaning.of(Classes.parse(TUMOUR))
    for likely, index in (((0, 0, 0), 0), ((1, 0, 0), 2), ((1, 1, 0), 1), ((1, 1, 1), 3)):
        maps = torch.tensor([3.0 if one else -3.0 for one in likely]).reshape(1, 3, 1, 1)
        assert meaning.index(maps).item() == index


def test_the_target_says_of_each_class_whether_a_pixel_belongs_to_it_or_is_not_annotated():
    meaning = Meaning.of(Classes.parse(TUMOUR))
    target = meaning.target(torch.tensor([[[0, 1], [2, IGNORE]]]))
    assert target.shape == (1, 3, 2, 2)
    assert target.dtype == torch.int64
    assert target[0].tolist() == [[[0, 1], [1, IGNORE]], [[0, 1], [0, IGNORE]], [[0, 0], [0, IGNORE]]]


def test_probabilities_that_are_smoothed_are_decided_in_the_same_way():
    meaning = Meaning.of(Classes.parse("whole=1+2,core=2"))
    chances = np.full((3, 1, 1, 2), 0.9, np.float32)
    chances[1] = 0.2  # a gap, which smoothing along the slices closes

    def decide(block):
        return meaning.index(torch.from_numpy(block).movedim(-1, 1), chances=True).numpy().astype(np.uint8)

    assert smooth_slices(chances.copy(), 0, decide).ravel().tolist() == [2, 0, 2]
    assert smooth_slices(chances.copy(), 2, decide).ravel().tolist() == [2, 2, 2]


def test_the_largest_part_of_a_class_is_that_of_all_its_values():
    index = np.zeros((12, 3, 3), np.uint8)
    index[0:3, 1, 1], index[3:5, 1, 1] = 1, 2  # one part of five voxels
    index[8:11, 1, 1] = 2
    whole = keep_largest(index, [[1, 2]])
    assert whole[:5].tolist() == index[:5].tolist()
    assert not whole[5:].any()
    core = keep_largest(index, [[2]])
    assert core[8:11, 1, 1].tolist() == [2, 2, 2]
    assert not core[3:5].any()


def test_a_lesser_part_of_one_class_stays_what_else_it_is():
    classes = Classes.parse("whole=1+2,core=2")
    index = np.zeros((12, 5, 5), np.uint8)
    index[1:11, 1:4, 1:4], index[2:6, 2, 2], index[9, 2, 2] = 1, 2, 2  # an island of the core, within the whole
    kept = keep_largest(index, [np.flatnonzero(owned).tolist() for owned in classes.members], list(classes.without))
    assert np.array_equal(kept > 0, index > 0)
    assert np.argwhere(kept == 2).tolist() == [[i, 2, 2] for i in range(2, 6)]


@given(texts)
def test_without_a_class_a_voxel_is_of_most_of_its_others_and_of_no_further_one(text):
    classes = Classes.parse(text)
    owners = [set(np.flatnonzero(column)) for column in classes.members.T]
    for number, row in enumerate(classes.without):
        for before, after in zip(owners, row, strict=True):
            rest = before - {number}
            assert owners[after] <= rest
            assert len(owners[after]) == max(len(one) for one in owners if one <= rest)
            assert number in before or owners[after] == before


def test_without_an_overlap_nothing_but_the_background_is_left_of_a_class():
    assert Classes.parse("LV=500,LA=420+421").without.tolist() == [[0, 0, 2], [0, 1, 0]]


def test_an_overlay_draws_the_smaller_of_overlapping_classes_over_the_larger(tmp_path):
    slices = np.random.default_rng(0).normal(size=(1, 40, 40)).astype(np.float32)
    index = np.zeros(slices.shape, np.uint8)
    index[0, 5:35, 5:35], index[0, 15:25, 15:25] = 1, 2
    pictures = []
    for number, text in enumerate(("whole=1+2,core=2", "core=2,whole=1+2")):
        classes = Classes.parse(text)
        values = np.where(index == 1, 1, np.where(index == 2, 2, 0))
        overlay(tmp_path / f"{number}.png", slices, classes.to_index(values, "x")[0], (1, 1, 1), classes)
        pictures.append(np.asarray(Image.open(tmp_path / f"{number}.png"))[:176])
    orange, blue = (230, 159, 0), (86, 180, 233)
    for picture, (outer, inner) in zip(pictures, ((orange, blue), (blue, orange)), strict=True):
        rows = {colour: np.flatnonzero((picture == colour).all(axis=2).any(axis=1)) for colour in (outer, inner)}
        assert rows[outer].min() < rows[inner].min() < rows[inner].max() < rows[outer].max()


@pytest.mark.parametrize("number", [9])
def test_more_combinations_than_indices_are_refused(number):
    sets = [[v for v in range(1, 2**number) if v >> i & 1] for i in range(number)]
    text = ",".join(f"c{i}={'+'.join(map(str, values))}" for i, values in enumerate(sets))
    with pytest.raises(Exception, match="511 parts of overlapping classes are more than the 254 possible"):
        Classes.parse(text)


def test_every_pair_of_classes_counts_as_if_it_were_alone():
    from ssmtl_toolkit.config import EvaluateConfig
    from ssmtl_toolkit.evaluation.scores import score_scan

    rng = np.random.default_rng(0)
    truth, predicted = (rng.choice([0, 1, 2, 4, 9], size=(7, 8, 9)) for _ in range(2))
    classes = Classes.parse(TUMOUR, ignore=9)
    metrics = EvaluateConfig(surface=True, tolerance=1.0).chosen_metrics("labels")
    predicted[predicted == 9] = 0
    together = score_scan("x", *(classes.to_index(m, "x")[0] for m in (predicted, truth)), classes, (1, 2, 3), metrics)
    for i, one in enumerate(classes.classes):
        alone = Classes.parse(str(one), ignore=9)
        maps = [alone.to_index(m, "x", "background")[0] for m in (predicted, truth)]
        found = score_scan("x", *maps, alone, (1, 2, 3), metrics)
        assert {name: values[i] for name, values in together.values.items()} == pytest.approx(
            {name: values[0] for name, values in found.values.items()}
        )
        seen, ours, theirs = truth != 9, np.isin(predicted, one.values), np.isin(truth, one.values)
        assert (together.tp[i], together.fp[i], together.fn[i]) == (
            (ours & theirs & seen).sum(),
            (ours & ~theirs & seen).sum(),
            (~ours & theirs & seen).sum(),
        )


def test_combinations_are_counted_once_each():
    pairs = list(itertools.combinations(range(1, 5), 2))
    classes = Classes.parse(",".join(f"c{i}={a}+{b}" for i, (a, b) in enumerate(pairs)))
    assert len(classes.cells) == 4
    assert classes.members[:, 1:].sum() == 12

"""Validation scans say of which classes the largest part alone is better, and prediction can follow them."""

import json

import nibabel as nib
import numpy as np
import pytest

import ssmtl_toolkit as toolkit
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.downstream.largest import judge
from ssmtl_toolkit.downstream.model import ModelSpec
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.about import Model
from ssmtl_toolkit.runtime.progress import Progress


def dice(ours, theirs):
    return 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())


def boxes(*places):
    """A map of 8 x 8 x 8 with a value in each box."""
    array = np.zeros((8, 8, 8), np.uint8)
    for value, start, stop in places:
        array[start:stop, start:stop, start:stop] = value
    return array


ISLAND = (boxes((1, 0, 4), (1, 6, 8)), boxes((1, 0, 4)))  # predicted beside the true part
TWO_PARTS = (boxes((1, 0, 4), (1, 6, 8)), boxes((1, 0, 4), (1, 6, 8)))
WRONG_PART = (boxes((1, 0, 4), (1, 6, 8)), boxes((1, 6, 8)))
"""The largest part alone has a Dice of 1, less than 1, and 0."""
SAME = (boxes((1, 0, 4)), boxes((1, 0, 4)))
VOXEL = (boxes((1, 0, 4), (1, 7, 8)), boxes((1, 0, 4)))


def judged(*pairs):
    (one,) = judge(pairs, Classes.parse("organ=1")).values()
    return one


def test_both_dice_are_the_means_over_the_scans_that_have_the_class():
    told = judged(ISLAND, TWO_PARTS, WRONG_PART, (boxes(), boxes()))
    plain = [dice(ours == 1, theirs == 1) for ours, theirs in (ISLAND, TWO_PARTS, WRONG_PART)]
    alone = [dice(boxes((1, 0, 4)) == 1, theirs == 1) for _, theirs in (ISLAND, TWO_PARTS, WRONG_PART)]
    assert (told.scans, told.higher, told.lower) == (3, 1, 2)
    assert (told.dice, told.largest) == pytest.approx((np.mean(plain), np.mean(alone)))
    assert not told.helps


@pytest.mark.parametrize(
    ("pairs", "helps"),
    [
        ([ISLAND] * 3, True),
        ([ISLAND] * 2, False),  # too few to say
        ([ISLAND, ISLAND, TWO_PARTS], True),
        ([TWO_PARTS] * 3, False),
        ([ISLAND, WRONG_PART, WRONG_PART], False),
        ([SAME] * 3, False),  # nothing to take away
        ([VOXEL] * 3, True),
        ([VOXEL, *[SAME] * 7], False),  # by less than 0.001
    ],
)
def test_it_helps_where_the_mean_rises_by_a_thousandth_and_more_of_at_least_three_scans_gain_than_lose(pairs, helps):
    assert judged(*pairs).helps is helps


def test_a_class_is_judged_without_the_others():
    ours, theirs = boxes((1, 0, 3), (1, 6, 8), (2, 3, 5)), boxes((1, 0, 3), (2, 3, 5))
    told = judge([(ours, theirs)] * 3, Classes.parse("organ=1,other=2"))
    assert (told["organ"].helps, told["other"].helps) == (True, False)
    assert told["other"].dice == told["other"].largest == 1


@pytest.fixture(scope="module")
def fine_tuned(labelled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("largest")
    options = {"classes": "big=10,small=20", "train_scans": 2, "validation_scans": 4, "test_scans": 2, "seeds": 2}
    options |= {"backbone": "unet:encoder=plain,width=4", "size": 32, "recipe": "paper", "lr": 5e-3, "steps": 40}
    run = toolkit.finetune(data=str(labelled), out=folder / "f", surface=False, patience=100, **options)
    return run.folder


def test_a_fine_tuning_says_what_predicting_and_evaluating_its_validation_scans_says(fine_tuned, labelled, tmp_path):
    validation = json.loads((fine_tuned / "split.json").read_text())["validation"]
    images = [labelled / "images" / f"{patient}_{time}.nii.gz" for patient in validation for time in ("pre", "post")]
    for seed in (0, 1):
        network = fine_tuned / f"scratch-{seed}"
        told = json.loads((network / "scores.json").read_text())["largest_component"]
        for key, largest in (("dice", "none"), ("largest", "all")):
            toolkit.predict(network, images, out=tmp_path / f"{seed}{key}", largest_component=largest)
            classes = toolkit.evaluate(tmp_path / f"{seed}{key}", labelled / "labels").summary["classes"]
            for name, one in told.items():
                assert one[key] == pytest.approx(classes[name]["dice"]["mean"])
                assert one["scans"] == 4 - classes[name]["dice"]["undefined"]
        said = weights.read(network / "model.safetensors", "").about(Model).largest_component
        assert list(said or ()) == [name for name, one in told.items() if one["helps"]]


class Lines(Progress):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.mark.parametrize(
    ("named", "meant", "words"),
    [
        ((["big"], ["big", "small"], []), "big", "largest   parts: big, as the validation scans say"),
        (([], [], ["small"]), "none", "largest   parts: none, as the validation scans say"),
        ((None, ["small"], None), "small", "largest   parts: small, as the validation scans say"),
        ((None, None, None), "none", "largest   parts: none, the models know nothing of validation scans (ssmtl finet"),
    ],
)
def test_auto_means_the_classes_that_more_than_half_of_the_models_name(tuned, labelled, tmp_path, named, meant, words):
    for i, names in enumerate(named):
        model_spec, model = ModelSpec.load(tuned / f"pretrained-{min(i, 1)}" / "model.safetensors")
        file = tmp_path / "f" / f"pretrained-{i}" / "model.safetensors"
        file.parent.mkdir(parents=True)
        next(model.parameters()).data += i / 1e3  # two copies of one model would be refused
        model_spec.save(file, model, {} if names is None else {"largest_component": names})
    scan, lines = labelled / "images" / "a_pre.nii.gz", Lines()
    toolkit.predict(tmp_path / "f", scan, out=tmp_path / "auto", largest_component="auto", progress=lines)
    toolkit.predict(tmp_path / "f", scan, out=tmp_path / "named", largest_component=meant)
    made, expected = (nib.load(tmp_path / name / "a_pre.nii.gz").get_fdata() for name in ("auto", "named"))
    np.testing.assert_array_equal(made, expected)
    assert lines.lines[1].startswith(words)

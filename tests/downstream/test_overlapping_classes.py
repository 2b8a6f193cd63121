"""Fine-tuning, prediction and scores of classes that overlap: `whole=10+20,small=20`."""

import json

import nibabel as nib
import numpy as np
import pytest

import ssmtl_toolkit as toolkit
from helpers.small import SMALL
from ssmtl_toolkit import UsageError
from ssmtl_toolkit.specs import HeadSpec

OPTIONS = {
    "classes": "whole=10+20,small=20",
    "train_scans": 2,
    "test_scans": 4,
    "seeds": 2,
    "batch_size": 8,
    "lr": 1e-2,
    "surface": False,
    "recipe": "paper",
    "head": "segmentation:loss=ce+dice",
    "steps": 60,
}


@pytest.fixture(scope="session")
def overlapping(labelled, pretrained, made_once):
    """A fine-tuning with classes that overlap; do not write there."""

    def fill(base):
        toolkit.finetune(pretrained, data=str(labelled), out=base / "run", cache=base / "cache", **OPTIONS)

    return made_once("overlapping", fill) / "run"


def test_both_classes_are_learned_and_the_larger_holds_the_smaller(overlapping, labelled, tmp_path):
    toolkit.predict(overlapping, labelled, out=tmp_path / "out", probabilities=True, overlay=True)
    scored = toolkit.evaluate(tmp_path / "out", labelled / "labels", surface=False)
    assert list(scored.classes) == ["whole", "small"]
    assert scored.classes["whole"]["iou"] > 0.6
    assert scored.classes["small"]["iou"] > 0.3
    assert any("overlap, each scored by itself" in note for note in scored.notes)
    ours = {file.name: np.asanyarray(nib.load(file).dataobj) for file in (tmp_path / "out").glob("?_*t.nii.gz")}
    ours |= {file.name: np.asanyarray(nib.load(file).dataobj) for file in (tmp_path / "out").glob("?_pre.nii.gz")}
    overlap = {"whole": np.zeros(2), "small": np.zeros(2)}
    for name, array in ours.items():
        truth = np.asanyarray(nib.load(labelled / "labels" / name).dataobj)
        assert set(np.unique(array)) <= {0, 10, 20}
        for key, mine, theirs in (("whole", array > 0, truth > 0), ("small", array == 20, truth == 20)):
            overlap[key] += (mine & theirs).sum(), (mine | theirs).sum()
        chances = np.asanyarray(nib.load(tmp_path / "out" / name.replace(".nii", "_probabilities.nii")).dataobj)
        assert chances.shape == (*array.shape, 2)  # a sigmoid each, and no background
        likely = chances > 0.5
        possible = likely[..., 0] | ~likely[..., 1]
        expected = np.where(likely[..., 1], 20, np.where(likely[..., 0], 10, 0))
        assert np.array_equal(array[possible], expected[possible])
    assert len(ours) == 10
    for key, (both, either) in overlap.items():
        assert scored.classes[key]["iou"] == pytest.approx(both / either)


def test_the_scores_of_the_fine_tuning_are_those_of_its_files(overlapping, labelled, ssmtl, tmp_path):
    scores = json.loads((overlapping / "pretrained-0" / "scores.json").read_text())
    tested = [labelled / "images" / f"{scan['name']}.nii.gz" for scan in scores["scans"]]
    assert ssmtl("predict", "--from", overlapping / "pretrained-0", *tested, "-o", "out").returncode == 0
    done = ssmtl("evaluate", "--pred", "out", "--label", labelled / "labels", "--no-surface", "--json")
    assert json.loads(done.stdout)["mean"] == pytest.approx(scores["mean"])


def test_smoothing_and_largest_components_work_on_overlapping_classes(overlapping, labelled, tmp_path):
    scan = labelled / "images" / "a_pre.nii.gz"
    toolkit.predict(overlapping, scan, out=tmp_path / "a", smooth=1.5, largest_component="whole")
    array = np.asanyarray(nib.load(tmp_path / "a" / "a_pre.nii.gz").dataobj)
    from scipy import ndimage

    assert {0, 10} <= set(np.unique(array)) <= {0, 10, 20}
    assert ndimage.label(array > 0, np.ones((3, 3, 3)))[1] == 1


def test_the_largest_part_of_an_inner_class_leaves_the_outer_one_whole(overlapping, labelled, tmp_path):
    arrays = {}
    for name in ("none", "small"):
        done = toolkit.predict(overlapping, labelled / "images", out=tmp_path / name, largest_component=name)
        arrays[name] = np.concatenate([np.asanyarray(nib.load(file).dataobj) for file in done.written], axis=2)
    assert np.array_equal(arrays["small"] > 0, arrays["none"] > 0)
    assert 0 < (arrays["small"] == 20).sum() < (arrays["none"] == 20).sum()


def test_pseudo_labels_and_heads_of_one_class_a_pixel_refuse_them(labelled, tmp_path):
    options = {**OPTIONS, "data": str(labelled), "backbone": SMALL, "out": tmp_path / "run", "cache": tmp_path / "c"}
    with pytest.raises(UsageError, match="makes pseudo labels of one class for each pixel, and whole=10"):
        toolkit.finetune(**{**options, "semi": "mean_teacher", "recipe": "strong"})

    class Exclusive(HeadSpec):
        """A head for one class a pixel."""

        name = "exclusive"

        def build(self, backbone, classes):
            raise AssertionError("is never built")

    with pytest.raises(UsageError, match=r"head 'exclusive' learns one class for each pixel, and whole=10\+20"):
        toolkit.finetune(**{**options, "head": Exclusive()})
    assert not (tmp_path / "run").exists()


def test_a_probe_takes_the_parts_of_overlapping_classes(labelled, tmp_path):
    manifest = tmp_path / "data.toml"
    lines = ["[classes]", "whole = [10, 20]", "small = [20]"]
    for image in sorted((labelled / "images").iterdir()):
        lines += ["[[scan]]", f'image = "{image}"', f'label = "{labelled / "labels" / image.name}"']
    manifest.write_text("\n".join(lines))
    run = toolkit.pretrain(
        data=str(labelled),
        probe=f"manifest:{manifest},outside=true",
        backbone=SMALL,
        size=32,
        steps=4,
        tasks=["reconstruct_next:t=1"],
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"probe/whole/iou", "probe/whole&small/iou"} <= set().union(*rows)

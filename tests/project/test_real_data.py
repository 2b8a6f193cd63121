"""Real scans, where they are: the whole way from the files to a trained backbone."""

import math

import pytest

import ssmtl_toolkit


def pretrain(data, tmp_path, **options):
    options = {"backbone": "unet:encoder=plain,width=4", "steps": 3, **options}
    return ssmtl_toolkit.pretrain(data=str(data), out=tmp_path / "r", cache=tmp_path / "cache", **options).summary


def test_two_hundred_hippocampus_volumes_train_along_the_coronal_axis(hippocampus, tmp_path):
    told = pretrain(
        hippocampus, tmp_path, axis="coronal", size=48, tasks=["reconstruct_prev:t=2", "slice_siam:t=2", "moco_v2"]
    )
    assert told["scans"] == {"used": 190, "skipped": [], "notes": []}  # the images, not the labels beside them
    assert len(told["held_out"]["scans"]) == 10
    assert told["slices"] + told["held_out"]["slices"] == 9984
    assert 0.2 < told["tasks"]["reconstruct_prev:t=2"]["copy"] < 0.6
    assert all(math.isfinite(task["loss"]) for task in told["tasks"].values())


@pytest.mark.slow
def test_short_cardiac_stacks_train_with_what_they_have(sunnybrook, tmp_path):
    told = pretrain(sunnybrook, tmp_path, size=64, held_out=0, tasks=["reconstruct_prev:t=5", "reconstruct_next:t=5"])
    assert told["slices"] == 526 - 5  # one stack of 5 gives no pair
    assert told["scans"]["used"] + len(told["scans"]["skipped"]) == 60
    assert all("another t may" in item["reason"] for item in told["scans"]["skipped"])
    assert told["anchors"] < 526

"""`ssmtl affinity`: mixes of tasks by real runs and by cheap scores; who is looked at, what is resumed, refused."""

import csv
import json

import pytest

import ssmtl_toolkit as toolkit
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.sources import dataset_of

OPTIONS = {
    "backbone": "unet:encoder=plain,width=4",
    "size": 24,
    "classes": "big=10,small=20",
    "surface": False,
    "budget": 1,
    "draws": 1,
    "pretrainings": 1,
    "slices": 3,
    "steps": 2,
    "pretrain": {"batch_size": 4},
    "finetune": {"steps": 2, "average": 0.5},
}
PAIR = ["reconstruct_next:t=1", "slice_siam:t=1"]


def small(data, tmp_path, **options):
    return toolkit.affinity(str(data), out=tmp_path / "out", cache=tmp_path / "cache", **{**OPTIONS, **options})


@pytest.mark.slow
def test_mixes_are_compared_on_validation_patients_and_scored_by_training_patients(labelled, tmp_path):
    found = small(labelled, tmp_path, tasks=PAIR)
    names = [*PAIR, " + ".join(PAIR)]
    assert [mix["mix"] for mix in found.summary["mixes"]] == names
    assert (found.summary["done"], found.summary["planned"]) == (4, 4)
    for mix in found.summary["mixes"]:
        assert mix["difference"]["mean"] is not None
        assert None not in mix["scores"].values()
        assert 0 <= mix["scores"]["probe"] <= 1
        assert abs(mix["scores"]["cosine_end"]) <= 1
    assert "cannot be said from 3 mixes, 6 are needed" in (found.folder / "affinity.md").read_text()
    with (found.folder / "affinity.csv").open() as file:
        assert [line["mix"] for line in csv.DictReader(file)] == names
    _check_patients(found, labelled, tmp_path)
    _check_matrices(found.summary["matrices"])
    written = {path: path.stat().st_mtime_ns for kind in ("safetensors", "json") for path in looked_at(found, kind)}
    again = small(labelled, tmp_path, tasks=PAIR)
    assert again.summary == found.summary
    assert {path: path.stat().st_mtime_ns for path in written} == written


def looked_at(found, kind):
    """What is not written again."""
    return [*found.folder.glob(f"*/*/*.{kind}"), *(found.folder / "looks").glob(f"*.{kind}")]


def _check_patients(found, labelled, tmp_path):
    """Those whom `fewshot` would test by this seed are in no file; those who are scored are not learned from."""
    later = toolkit.fewshot(str(labelled), out=tmp_path / "later", cache=tmp_path / "cache", minutes=0, **FEW)
    test = set(Split.read(next((later.folder / "splits").glob("*.json"))).test)
    splits = [Split.read(file) for file in (found.folder / "splits").glob("*.json")]
    (scored,) = {split.test for split in splits}
    manifests = list((found.folder / "splits").glob("*.toml"))
    assert len(manifests) == 2
    for file in manifests:
        patients = {scan.patient for scan in list_scans(dataset_of(f"manifest:{file},outside=true"), tmp_path)}
        assert patients == set("abcde") - test - set(scored)
    assert test
    assert not test & set(scored)


FEW = {name: OPTIONS[name] for name in ("backbone", "size", "classes", "surface", "draws", "pretrainings")}
FEW |= {"methods": ["scratch"], "budgets": [1]}


def _check_matrices(found):
    assert found["labels"] == [*PAIR, "segmentation"]
    for when in ("start", "end"):
        for i in range(3):
            assert found["cosines"][when][i][i] == pytest.approx(1)
            assert found["cosines"][when][i] == pytest.approx([row[i] for row in found["cosines"][when]])
            assert len(found["lookaheads"][when][i]) == 3


@pytest.mark.slow
def test_a_mix_that_the_balancer_refuses_is_reported_and_the_others_are_compared(labelled, ssmtl, tmp_path):
    """Two tasks that read other images have no gradients that meet at the features."""
    (tmp_path / "few.toml").write_text(
        "\n".join(f"{name} = {json.dumps(OPTIONS[name])}" for name in OPTIONS if name not in ("pretrain", "finetune"))
        + "\npretrain = {batch_size = 4, balancer = 'mgda'}\nfinetune = {steps = 2, average = 0.5}"
    )
    call = ("affinity", labelled, "--config", "few.toml", "--task", "reconstruct_next:t=1", "--task", "moco_v2:queue=8")
    ended = ssmtl(*call, "--out", "out", "--json")
    assert ended.returncode == 1
    assert "1 of 4 fine-tunings failed" in ended.stderr
    assert "do not meet there" in ended.stderr
    summary = json.loads(ended.stdout)
    assert [mix["done"] for mix in summary["mixes"]] == [1, 1, 0]
    assert "failed: reconstruct_next:t=1 + moco_v2" in (tmp_path / "out" / "affinity.md").read_text()


def test_wrong_options_are_refused_before_anything_is_trained(labelled, ssmtl, tmp_path):
    ended = ssmtl("affinity", labelled, "--task", "denoise", "--out", "out")
    assert ended.returncode == 2
    assert "asked of two or more: --task A --task B" in ended.stderr
    assert not (tmp_path / "out").exists()
    assert "DATA is missing" in ssmtl("affinity", "--task", "denoise", "--task", "inpaint").stderr
    with pytest.raises(toolkit.UsageError, match="cheap scores need a head with labels"):
        small(labelled, tmp_path, tasks=PAIR, classes=None, finetune={"head": "denoising"})
    with pytest.raises(toolkit.UsageError, match=r"pretrain\.tasks is set by this command"):
        small(labelled, tmp_path, tasks=PAIR, pretrain={"tasks": ["denoise"]})


def test_cheap_scores_need_two_training_patients(labelled, tmp_path):
    with pytest.raises(toolkit.DataError, match="there is one patient to train on, and cheap scores need two"):
        small(labelled, tmp_path, tasks=PAIR, validation_scans=6)

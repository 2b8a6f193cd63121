"""`ssmtl run --augment …`: it changes what is trained on, is resumed bit for bit, and refuses what makes no sense."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

FLAGS = ("--backbone", "unet:encoder=plain,width=4", "--size", 32, "--batch-size", 4, "--task", "reconstruct_next:t=1")
AUGMENT = ("--augment", "affine:p=0.8", "--augment", "elastic", "--augment", "noise:p=0.8")


def run(ssmtl, scans, out, *flags):
    done = ssmtl("run", *FLAGS, "--data", scans, "--out", out, *flags)
    assert done.returncode == 0, done.stderr
    return load_file(f"{out}/backbone.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_augmented_runs_differ_from_plain_ones_and_repeat_to_the_bit(ssmtl, scans, tmp_path):
    steps = ("--steps", 3)
    plain, none = run(ssmtl, scans, "plain", *steps), run(ssmtl, scans, "none", *steps, "--augment", "none")
    first, again = run(ssmtl, scans, "first", *steps, *AUGMENT), run(ssmtl, scans, "again", *steps, *AUGMENT)
    assert equal(plain, none)
    assert equal(first, again)
    assert not equal(plain, first)
    assert 'augment = [\n    "affine:p=0.8,' in (tmp_path / "first" / "run.toml").read_text()


@pytest.mark.slow
def test_an_augmented_run_killed_in_mid_training_ends_with_the_same_bits_when_resumed(ssmtl, scans, tmp_path):
    whole = run(ssmtl, scans, "whole", "--steps", 9, "--log-every", 5, *AUGMENT)
    code = (
        "import os, signal\n"
        "import ssmtl_toolkit as toolkit\n"
        "from ssmtl_toolkit.runtime.progress import Progress\n"
        "class Kill(Progress):\n"
        "    def stepped(self, step):\n"
        "        if step == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "toolkit.pretrain(backbone='unet:encoder=plain,width=4', size=32, batch_size=4, steps=9,\n"
        "    checkpoint_every=5, log_every=5,\n"
        "    tasks=['reconstruct_next:t=1'], augment=['affine:p=0.8', 'elastic', 'noise:p=0.8'], progress=Kill(),\n"
        f"    data={str(scans)!r}, out={str(tmp_path / 'cut')!r}, cache={str(tmp_path / 'cache')!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    done = ssmtl("run", "--resume", "cut")
    assert done.returncode == 0, done.stderr
    assert "resumes after step 5" in done.stderr
    assert equal(load_file("cut/backbone.safetensors"), whole)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    losses = [[v for k, v in json.loads(line[-1]).items() if k.endswith("/loss")] for line in lines]
    assert losses[0] == losses[1] != []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--augment", "afine"], "did you mean 'affine'?"),
        (["--augment", "affine:rotat=3"], "did you mean 'rotate'?"),
        (["--augment", "affine:rotate=200"], "rotate"),
        (["--augment", "noise", "--augment", "noise:sigma=1"], "augmentation 'noise' is given twice; give it once"),
        (["--augment", "cutmix"], "augmentation 'cutmix' mixes slices, which then have no companions; it is for"),
        (["--augment", "none", "--augment", "noise"], "none"),
    ],
)
def test_augmentations_that_cannot_be_used_are_refused_before_training(ssmtl, scans, tmp_path, flags, message):
    done = ssmtl("run", *FLAGS, "--data", scans, "--out", "r", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "r").exists()


def test_a_run_is_not_resumed_with_other_augmentations(ssmtl, scans):
    run(ssmtl, scans, "r", "--steps", 2, *AUGMENT)
    done = ssmtl("run", "--resume", "r", "--steps", 4, "--augment", "noise")
    assert done.returncode == 2, done.stderr
    assert "augment" in done.stderr


def test_a_run_with_a_schedule_keeps_its_length_when_it_is_resumed(ssmtl, tmp_path):
    words = (
        "--data",
        "phantom:patients=4",
        "--size",
        32,
        "--batch-size",
        4,
        "--backbone",
        "unet:encoder=plain,width=8",
    )
    for schedule, code in (("cosine", 2), ("constant", 0)):
        assert ssmtl("run", *words, "--steps", 2, "--schedule", schedule, "--out", schedule).returncode == 0
        again = ssmtl("run", "--resume", tmp_path / schedule, "--steps", 3)
        assert again.returncode == code, again.stderr
        assert ("was made for 2 steps, not for 3" in again.stderr) == (code == 2)

"""`ssmtl finetune --augment …` with averaged weights and a schedule: resumed bit for bit; nonsense is refused."""

import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

QUICK = (
    *("--slices-per-scan", 2, "--train-scans", 2, "--test-scans", 2, "--batch-size", 4, "--log-every", 3),
    *("--no-surface", "--steps", 12),
)
AUGMENT = ("--augment", "affine", "--augment", "gamma:p=0.5", "--augment", "cutmix:p=0.5")


def finetune(ssmtl, pretrained, labelled, out, *flags):
    done = ssmtl("finetune", "--from", pretrained, "--data", labelled, *QUICK, "--out", out, *flags)
    assert done.returncode == 0, done.stderr
    return ended(out)


def ended(out):
    return load_file(f"{out}/pretrained-0/model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_fine_tuning_is_augmented_by_default_and_not_with_none(ssmtl, pretrained, labelled):
    default = finetune(ssmtl, pretrained, labelled, "default")
    none = finetune(ssmtl, pretrained, labelled, "none", "--augment", "none")
    chosen = finetune(ssmtl, pretrained, labelled, "chosen", *AUGMENT)
    assert not equal(default, none)
    assert not equal(chosen, none)
    assert not equal(chosen, default)
    assert equal(chosen, finetune(ssmtl, pretrained, labelled, "again", *AUGMENT))


@pytest.mark.slow
@pytest.mark.parametrize("signal_sent", ["SIGTERM", "SIGKILL"])
def test_an_augmented_fine_tuning_with_average_and_schedule_ends_with_the_same_bits(
    ssmtl, pretrained, labelled, tmp_path, signal_sent
):
    recipe = ("--average", 0.9, "--schedule", "cosine:warmup=0.2", "--optimizer", "adamw", *AUGMENT)
    whole = finetune(ssmtl, pretrained, labelled, "whole", *recipe)
    code = (
        "import os, signal\n"
        "import ssmtl_toolkit as toolkit\n"
        "from ssmtl_toolkit.downstream import keeping\n"
        "from ssmtl_toolkit.runtime.progress import Progress\n"
        "keeping.SECONDS, keeping._SHARE = 0.0, 1e9\n"
        "class Stop(Progress):\n"
        "    def stepped(self, step):\n"
        f"        if step == 8: os.kill(os.getpid(), signal.{signal_sent})\n"
        f"toolkit.finetune({str(pretrained)!r}, data={str(labelled)!r}, out={str(tmp_path / 'cut')!r},\n"
        "    slices_per_scan=2, train_scans=2, test_scans=2, batch_size=4, log_every=3, surface=False, steps=12,\n"
        "    average=0.9, schedule='cosine:warmup=0.2', optimizer='adamw',\n"
        "    augment=['affine', 'gamma:p=0.5', 'cutmix:p=0.5'], progress=Stop())\n"
    )
    stopped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert stopped.returncode == (-signal.SIGKILL if signal_sent == "SIGKILL" else 1), stopped.stderr
    done = ssmtl("finetune", "--resume", "cut")
    assert done.returncode == 0, done.stderr
    assert f"resumed after step {7 if signal_sent == 'SIGKILL' else 8}" in done.stderr
    assert equal(whole, ended("cut"))
    metrics = [(tmp_path / out / "pretrained-0" / "metrics.jsonl").read_text() for out in ("whole", "cut")]
    assert metrics[0] == metrics[1] != ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--augment", "cutmx"], "did you mean 'cutmix'?"),
        (["--augment", "flip", "--augment", "flip:axes=ud"], "augmentation 'flip' is given twice; give it once"),
        (["--augment", "flip:axes=down"], "axes"),
        (["--augment", "noise", "--augment", "none"], "none"),
    ],
)
def test_augmentations_that_cannot_be_used_are_refused_before_scans_are_read(ssmtl, tmp_path, flags, message):
    done = ssmtl("finetune", "--data", tmp_path, "--out", "f", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "f").exists()

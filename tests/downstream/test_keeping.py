"""A fine-tuning that is stopped inside a repetition: it resumes from there, bit for bit."""

import signal
import subprocess
import sys

import pytest

import ssmtl_toolkit as toolkit
from helpers.stopping import StopAt, assert_equal, ended
from ssmtl_toolkit import DataError
from ssmtl_toolkit.runtime.interrupt import InterruptedRunError

QUICK = {"surface": False, "slices_per_scan": 2, "train_scans": 2, "test_scans": 2, "batch_size": 4, "log_every": 3}
PLAIN = {**QUICK, "steps": 12}
EARLY = {**QUICK, "steps": 60, "check_every": 4, "patience": 2, "validation_scans": 2, "lr": 0.01}


def finetune(pretrained, labelled, out, options, **more):
    return toolkit.finetune(pretrained, data=str(labelled), out=out, cache=out.parent / "cache", **options, **more)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "steps"), [(PLAIN, (5, 9)), (EARLY, (2, 4, 7))])
def test_a_fine_tuning_stopped_by_signals_ends_with_the_same_bits(labelled, pretrained, tmp_path, options, steps):
    whole = finetune(pretrained, labelled, tmp_path / "whole", options)
    assert not (whole.folder / "pretrained-0" / "checkpoints").exists()
    for step in steps:
        with pytest.raises(InterruptedRunError, match=rf"SIGTERM; step {step} of \d+ of pretrained-0 is saved") as told:
            finetune(pretrained, labelled, tmp_path / "cut", options, resume=step != steps[0], progress=StopAt(step))
        assert told.value.exit_code == 143
    hearing = StopAt()
    finetune(pretrained, labelled, tmp_path / "cut", options, resume=True, progress=hearing)
    assert f"pretrained-0: resumed after step {steps[-1]}" in hearing.notes
    assert_equal(*(ended(tmp_path / name / "pretrained-0") for name in ("whole", "cut")))
    assert not (tmp_path / "cut" / "pretrained-0" / "checkpoints").exists()


def test_a_signal_after_the_last_step_keeps_the_training_for_the_test(labelled, pretrained, tmp_path):
    whole = finetune(pretrained, labelled, tmp_path / "whole", PLAIN)
    with pytest.raises(InterruptedRunError, match="step 12 of 12"):
        finetune(pretrained, labelled, tmp_path / "cut", PLAIN, progress=StopAt(12))
    finetune(pretrained, labelled, tmp_path / "cut", PLAIN, resume=True)
    assert_equal(ended(whole.folder / "pretrained-0"), ended(tmp_path / "cut" / "pretrained-0"))


@pytest.mark.slow
def test_a_fine_tuning_killed_in_mid_repetition_ends_with_the_same_bits(labelled, pretrained, tmp_path):
    options = {**EARLY, "patience": 5}
    whole = finetune(pretrained, labelled, tmp_path / "whole", options)
    code = (
        "import os, signal, sys\n"
        "import ssmtl_toolkit as toolkit\n"
        "from ssmtl_toolkit.downstream import keeping\n"
        "from ssmtl_toolkit.runtime.progress import Progress\n"
        "keeping.SECONDS, keeping._SHARE = 0.0, 1e9\n"
        "class Kill(Progress):\n"
        "    def stepped(self, step):\n"
        "        if step == 11: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"toolkit.finetune({str(pretrained)!r}, data={str(labelled)!r}, out={str(tmp_path / 'cut')!r}, "
        f"progress=Kill(), cache={str(tmp_path / 'cache')!r}, **{options!r})\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    hearing = StopAt()
    finetune(pretrained, labelled, tmp_path / "cut", options, resume=True, progress=hearing)
    assert "pretrained-0: resumed after step 10" in hearing.notes
    assert_equal(ended(whole.folder / "pretrained-0"), ended(tmp_path / "cut" / "pretrained-0"))


@pytest.mark.slow
def test_the_checkpoint_of_another_repetition_is_refused(labelled, pretrained, tmp_path):
    options = {**PLAIN, "baseline": "scratch"}
    for name, seed in (("a", 0), ("b", 1)):
        with pytest.raises(InterruptedRunError):
            finetune(pretrained, labelled, tmp_path / name, {**options, "seed": seed}, progress=StopAt(5))
    theirs = tmp_path / "b" / "pretrained-1" / "checkpoints"
    ours = tmp_path / "a" / "pretrained-0" / "checkpoints"
    (ours / "step-00000005").rename(tmp_path / "kept")
    (theirs / "step-00000005").rename(ours / "step-00000005")
    with pytest.raises(
        DataError, match=r"step-00000005: is a checkpoint of another run \(seed is 0, was 1; other seed"
    ):
        finetune(pretrained, labelled, tmp_path / "a", options, resume=True)
    damaged = ours / "step-00000005" / "state.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    hearing = StopAt()
    finetune(pretrained, labelled, tmp_path / "a", options, resume=True, progress=hearing)
    assert any("starts from its first step" in note for note in hearing.notes)

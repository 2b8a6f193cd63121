"""Scans that are held out from a pre-training: which they are, that looking at them leaves no trace, what they tell."""

import contextlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors import safe_open
from torch import nn

import ssmtl_toolkit
from helpers.small import write_scan
from ssmtl_toolkit import SsmtlError, UsageError
from ssmtl_toolkit.cli.console import RichProgress
from ssmtl_toolkit.data.held_out import choose_held_out, likely_patients
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.pretraining.verdict import History, Watched, judge
from ssmtl_toolkit.pretraining.watch import leaving_no_trace
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.progress import Pace, Progress
from ssmtl_toolkit.specs import Scan, TaskSpec
from ssmtl_toolkit.text import duration

SMALL = {"backbone": "unet:encoder=plain,width=4", "size": 32, "batch_size": 4}
FLAGS = ("--backbone", "unet:encoder=plain,width=4", "--size", 32, "--batch-size", 4)
PLUS = ["reconstruct_prev:t=1", "reconstruct_next:t=1", "slice_siam:t=1", "moco_v2:queue=10"]
WATCHED = re.compile(r".*/(held_out|seen)(_\w+)?")


@pytest.fixture
def nine(tmp_path):
    """A folder with nine scans of 12 slices."""
    for i in range(9):
        write_scan(tmp_path / "scans" / f"p{i}.nii.gz", seed=i)
    return tmp_path / "scans"


def pretrain(scans, out, **options):
    options = {**SMALL, "tasks": PLUS, "steps": 6, "data": str(scans), "cache": out.parent / "cache", **options}
    return ssmtl_toolkit.pretrain(out=out, **options)


def state(folder):
    newest = checkpoint.newest(folder / "checkpoints", warn=pytest.fail)
    return {k: v.clone() for k, v in newest.tensors.items()}


def equal(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without(scans, names, folder):
    """A copy of a folder of scans without some of them."""
    shutil.copytree(scans, folder, ignore=lambda *_: [f"{name}.nii.gz" for name in names])
    return folder


# --- which scans they are ----------------------------------------------------------------------------------------


def of_patients(sizes):
    """So many scans of each patient, in an order that mixes patients."""
    owners = [patient for i in range(max(sizes)) for patient, size in enumerate(sizes) if i < size]
    return [Scan(Path(f"s{i}"), f"s{i}", f"patient {owner}") for i, owner in enumerate(owners)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(0, 5))
def test_about_a_twentieth_is_held_out_by_patient_and_the_same_each_time(sizes, seed):
    scans = of_patients(sizes)
    chosen = choose_held_out(scans, "auto", seed)
    assert chosen == choose_held_out(scans, "auto", seed)
    apart = {scans[i].patient for i in chosen}
    assert chosen == [i for i, scan in enumerate(scans) if scan.patient in apart]  # whole patients
    assert apart < {scan.patient for scan in scans}  # never all of them
    wanted = max(1, round(len(scans) / 20))
    if len(scans) < 8 or len(sizes) == 1 or min(sizes) > max(wanted, len(scans) / 4):
        assert not chosen
    else:
        assert len(chosen) == wanted or all(len(chosen) + size > wanted for size in rest(sizes, scans, apart))
        assert 1 <= len(chosen) <= max(wanted, min(sizes))


def rest(sizes, scans, apart):
    counted = Counter(scan.patient for scan in scans)
    return [number for patient, number in counted.items() if patient not in apart]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=20), st.integers(0, 30), st.integers(0, 5))
def test_a_number_is_what_is_held_out_as_far_as_patients_allow(sizes, number, seed):
    scans = of_patients(sizes)
    if number >= len(scans):
        with pytest.raises(UsageError, match=f"--held-out {number}: there are {len(scans)} scans"):
            choose_held_out(scans, number, seed)
        return
    chosen = choose_held_out(scans, number, seed)
    apart = {scans[i].patient for i in chosen}
    assert chosen == [i for i, scan in enumerate(scans) if scan.patient in apart]
    assert len(apart) < len(sizes)
    assert len(chosen) <= max(number, min(sizes))
    assert bool(chosen) == bool(number)
    if max(sizes) == 1:
        assert len(chosen) == number


def test_other_seeds_hold_out_other_scans():
    scans = of_patients([1] * 100)
    assert len({tuple(choose_held_out(scans, "auto", seed)) for seed in range(5)}) == 5


def test_scans_that_look_like_one_patients_by_their_names_are_not_parted():
    times = [Scan(Path(n), n, n) for i in range(9) for n in (f"case{i}_ED", f"case{i}_ES")]
    folders = [Scan(Path(n), n, n) for i in range(9) for n in (f"sub{i}/t1", f"sub{i}/t2")]
    for scans in (times, folders):
        assert len(set(likely_patients(scans))) == 9
        chosen = choose_held_out(scans, "auto", 0)
        assert len(chosen) == 2
        assert chosen[1] == chosen[0] + 1


@pytest.mark.parametrize("value", ["-1", "some", "1.5"])
def test_what_is_no_number_of_scans_is_refused(ssmtl, nine, value):
    done = ssmtl("run", *FLAGS, "--data", nine, f"--held-out={value}", "--steps", 1, "--out", "r")
    assert done.returncode == 2
    assert f"held_out: expected auto or a whole number, 0 or more, got '{value}'" in done.stderr


def test_as_many_as_there_are_cannot_be_held_out(ssmtl, scans):
    done = ssmtl("run", *FLAGS, "--data", scans, "--held-out", 4, "--task", PLUS[0], "--steps", 1, "--out", "r")
    assert done.returncode == 2
    assert "--held-out 4: there are 4 scans of 4 patients, which would leave none to train on" in done.stderr


def test_a_copy_of_a_scan_or_a_label_map_is_never_held_out(nine, tmp_path):
    for i in range(9):
        shutil.copy(nine / f"p{i}.nii.gz", nine / f"again{i}.nii.gz")
    summary = pretrain(nine, tmp_path / "r", held_out=3, steps=1).summary
    assert summary["scans"]["used"] == 6
    assert len(summary["scans"]["skipped"]) == 9
    assert len(summary["held_out"]["scans"]) == 3


# --- they change nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 2, "balancer": "famo"}, {"channels_last": "on", "store": "disk", "gradient_norms": True}],
)
def test_a_run_ends_with_the_bits_of_one_that_never_had_these_scans(nine, tmp_path, options):
    options = {"steps": 12, "log_every": 1, **options}
    watched = pretrain(nine, tmp_path / "with", held_out=2, **options)
    names = watched.summary["held_out"]["scans"]
    assert len(names) == 2
    alone = pretrain(without(nine, names, tmp_path / "rest"), tmp_path / "alone", held_out=0, **options)
    assert equal(state(watched.folder), state(alone.folder))
    ours, theirs = records(watched.folder), records(alone.folder)
    assert any(WATCHED.fullmatch(key) for record in ours for key in record)
    assert [{k: v for k, v in record.items() if not WATCHED.fullmatch(k)} for record in ours] == theirs
    texts = []
    for run in (watched, alone):
        with safe_open(run.backbone, "pt") as file:
            texts.append(file.metadata())
    assert texts[0] == texts[1]  # fingerprint and digests of the scans that were trained on, and no word of others


def test_views_of_held_out_slices_are_changed_as_in_training(nine, tmp_path):
    alike = "vicreg:weight=1,invariance=1,variance=0,covariance=0"  # costs nothing if the views are the same
    (watched,) = pretrain(nine, tmp_path / "r", tasks=[alike], held_out=2, steps=12).summary["tasks"].values()
    assert watched["held_out"]["loss"] > 0
    assert watched["seen"]["loss"] > 0


def test_by_default_one_of_nine_scans_is_held_out_and_none_of_seven(nine, tmp_path, ssmtl):
    flags = (*FLAGS, "--task", "reconstruct_prev:t=1", "--steps", 40)
    done = ssmtl("run", *flags, "--data", nine, "--out", "r")
    assert done.returncode == 0, done.stderr
    assert "held out  1 of 9 scans, 12 slices: not trained on, their loss is watched" in done.stderr
    assert done.stderr.index("held out  1") < done.stderr.index("step 1/40")
    assert "scans     8 scans, 96 slices" in done.stderr
    assert re.search(r"^task +loss +held out +without learning", done.stderr, re.MULTILINE)
    assert "96 slices of 8 scans" in done.stderr
    told = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert told["held_out"]["slices"] == 12
    assert told["held_out"]["anchors"] == 11
    task = told["tasks"]["reconstruct_prev:t=1"]
    assert {"loss", "baseline", "copy", "blank", "scaled_copy", "lowest", "lowest_after"} == set(task["held_out"])
    assert {"loss", "copy", "blank", "scaled_copy"} == set(task["seen"])
    last = records(tmp_path / "r")[-1]
    assert last["reconstruct_prev:t=1/held_out"] == task["held_out"]["loss"]
    assert last["reconstruct_prev:t=1/held_out_copy"] == task["held_out"]["copy"]
    for name in ("p0", "p1"):
        (nine / f"{name}.nii.gz").unlink()
    few = ssmtl("run", *flags, "--data", nine, "--out", "few")
    assert "held out  none of 7 scans" in few.stderr
    assert json.loads((tmp_path / "few" / "summary.json").read_text())["held_out"] is None


LONGER = [pytest.param(*values, marks=pytest.mark.slow) for values in [(200, 2), (600, 8)]]


@pytest.mark.parametrize(("steps", "looks"), [(4, 1), (80, 1), *LONGER])
def test_looks_are_evenly_spaced_few_in_short_runs_and_one_is_the_last(nine, tmp_path, steps, looks):
    class Stop(Progress):
        def logged(self, record):
            if steps > 200 and record["step"] > 0.4 * steps:
                raise KeyboardInterrupt

    options = {"backbone": "unet:encoder=plain,width=4", "size": 32, "batch_size": 1, "log_every": 5000}
    with contextlib.suppress(KeyboardInterrupt):
        pretrain(nine, tmp_path / "r", tasks=["reconstruct_prev:t=1"], steps=steps, progress=Stop(), **options)
    watched = [r["step"] for r in records(tmp_path / "r") if any(WATCHED.fullmatch(key) for key in r)]
    assert watched == [steps * i // looks for i in range(1, len(watched) + 1)]
    assert len(watched) == (looks if steps <= 200 else 4)  # it was stopped at the fourth


KILLED = """
import json, os, signal, sys
import ssmtl_toolkit
from ssmtl_toolkit.runtime.progress import Progress
class Kill(Progress):
    def stepped(self, step):
        if step == 44: os.kill(os.getpid(), signal.SIGKILL)
ssmtl_toolkit.pretrain(progress=Kill(), **json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_run_that_is_resumed_looks_at_the_same_slices_and_ends_with_the_same_bits(nine, tmp_path):
    options = {**SMALL, "tasks": PLUS, "steps": 60, "accumulate": 2, "checkpoint_every": 7, "log_every": 4}
    options |= {"data": str(nine), "held_out": 2, "cache": str(tmp_path / "cache")}
    whole = ssmtl_toolkit.pretrain(out=tmp_path / "whole", **options)
    given_options = json.dumps({**options, "out": str(tmp_path / "cut")})
    killed = subprocess.run([sys.executable, "-c", KILLED, given_options], stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    resumed = ssmtl_toolkit.pretrain(out=tmp_path / "cut", resume=True, **options)
    assert equal(state(whole.folder), state(resumed.folder))
    assert records(whole.folder) == records(resumed.folder)
    assert resumed.summary["tasks"] == whole.summary["tasks"]


def test_a_run_is_not_resumed_with_other_scans_held_out(nine, tmp_path):
    pretrain(nine, tmp_path / "r", held_out=2)
    with pytest.raises(UsageError, match="held_out is 1, was 2"):
        pretrain(nine, tmp_path / "r", held_out=1, resume=True)


@pytest.mark.slow
def test_two_processes_end_as_they_would_without_these_scans(nine, tmp_path, ssmtl_process):
    flags = [x for task in PLUS for x in ("--task", task)]
    options = (*FLAGS, *flags, "--steps", 8, "--devices", 2, "--accelerator", "cpu", "--log-every", 1, "--json")
    done = ssmtl_process("run", *options, "--data", nine, "--held-out", 2, "--out", "with")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert all(task["held_out"] and task["seen"] for task in told["tasks"].values())
    rest = without(nine, told["held_out"]["scans"], tmp_path / "rest")
    done = ssmtl_process("run", *options, "--data", rest, "--held-out", 0, "--out", "alone")
    assert done.returncode == 0, done.stderr
    assert equal(state(tmp_path / "with"), state(tmp_path / "alone"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own doings
def test_a_compiled_run_is_watched_without_compiling_again(nine, tmp_path, monkeypatch):
    import torch._dynamo
    from torch._dynamo.utils import counters

    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: real(self, backend="eager"))

    def compiled(scans, name, held_out):
        torch._dynamo.reset()
        counters.clear()
        options = {"tasks": ["reconstruct_prev:t=1"], "compile": True, "batch_size": 11}
        run = pretrain(scans, tmp_path / name, held_out=held_out, **options)
        return run, counters["stats"]["unique_graphs"]

    watched, graphs = compiled(nine, "with", 2)
    rest = without(nine, watched.summary["held_out"]["scans"], tmp_path / "rest")
    alone, graphs_alone = compiled(rest, "alone", 0)
    assert graphs == graphs_alone > 0
    assert equal(state(watched.folder), state(alone.folder))


class Restless(nn.Module):
    """Breaks the contract: in eval mode too it moves a buffer and frozen weights, and draws."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3).eval()  # in eval mode by its author's will
        self.moved = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self):
        self.seen += 1
        with torch.no_grad():
            self.moved += torch.rand(2)


def test_a_look_is_undone_even_for_modules_that_change_in_eval_mode():
    module = Restless()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with leaving_no_trace(module):
        module.train()
        module()
    assert (module.training, module.norm.training) == (True, False)
    assert module.seen == 0
    assert torch.equal(module.moved, torch.zeros(2))
    assert torch.equal(torch.rand(4), expected)


# --- what they tell ----------------------------------------------------------------------------------------------


def noise(folder, number, slices=8, size=16):
    """Scans whose slices have nothing in common with each other: they can only be learned by heart."""
    folder.mkdir()
    for i in range(number):
        array = np.random.default_rng(i).normal(0, 99, (size, size, slices)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.diag([0.8, 0.8, 2.0, 1.0])), folder / f"p{i}.nii.gz")
    return folder


@pytest.mark.slow
def test_noise_that_is_learned_by_heart_is_called_memorised(tmp_path):
    options = {"backbone": "unet:encoder=plain,width=8", "tasks": ["reconstruct_next:t=1"], "lr": 3e-3}
    run = pretrain(noise(tmp_path / "noise", 3), tmp_path / "r", held_out=1, steps=500, batch_size=14, **options)
    task = run.summary["tasks"]["reconstruct_next:t=1"]
    assert task["loss"] < 0.5
    assert task["held_out"]["loss"] > 0.9
    assert task["verdict"] == "memorised", task
    assert "use more scans" in task["because"]


@pytest.mark.slow
def test_what_all_scans_have_in_common_is_called_learned(nine, tmp_path):
    run = pretrain(nine, tmp_path / "r", tasks=["reconstruct_next:t=4"], steps=300, lr=3e-3)
    task = run.summary["tasks"]["reconstruct_next:t=4"]
    assert task["verdict"] == "learned", task
    percent = 100 * (1 - task["held_out"]["loss"] / task["held_out"]["scaled_copy"])
    assert f"its loss on held-out slices {task['held_out']['loss']:.4g} ends {percent:.0f} % below" in task["because"]


def test_without_held_out_scans_learned_says_that_it_may_be_memorised(scans, tmp_path):
    run = pretrain(scans, tmp_path / "r", tasks=["reconstruct_next:t=4"], steps=60, lr=1e-2)
    task = run.summary["tasks"]["reconstruct_next:t=4"]
    assert task["held_out"] is None
    assert task["verdict"] != "learned" or "or memorised: no held-out slices could tell" in task["because"]


def test_a_task_for_which_held_out_scans_have_no_pair_is_judged_by_its_training_loss(nine, tmp_path, ssmtl):
    (held,) = pretrain(nine, tmp_path / "first", steps=1).summary["held_out"]["scans"]
    write_scan(nine / f"{held}.nii.gz", slices=3)
    tasks = ("--task", "reconstruct_prev:t=1", "--task", "reconstruct_next:t=6")
    done = ssmtl("run", *FLAGS, "--data", nine, *tasks, "--steps", 25, "--out", "r", "--json")
    assert done.returncode == 0, done.stderr
    assert "note: reconstruct_next:t=6: the held-out scans have no pair for it" in done.stderr
    told = json.loads(done.stdout)["tasks"]
    assert told["reconstruct_next:t=6"]["held_out"] is None
    assert told["reconstruct_prev:t=1"]["held_out"] is not None
    none = ssmtl("run", *FLAGS, "--data", nine, *tasks[2:], "--steps", 25, "--out", "s")
    assert none.returncode == 0, none.stderr
    assert "held-out scans have no pair" in none.stderr


class Trainable(TaskSpec):
    """Needs gradients, so that it cannot be looked at."""

    name: ClassVar[str] = "trainable"
    needs = frozenset({"pooled"})

    def build(self, backbone):
        class Module(nn.Module):
            def forward(self, step):
                pooled = step.features().pooled
                loss = pooled.square().mean()
                if not self.training:
                    loss.backward()
                return TaskOutput(loss, pairs=len(pooled))

        return Module()


def test_a_task_that_cannot_be_looked_at_is_named_with_a_way_out(nine, tmp_path):
    with pytest.raises(SsmtlError, match=r"task 'trainable' failed on held-out slices.*; --held-out 0 trains without"):
        pretrain(nine, tmp_path / "r", tasks=[Trainable()])
    assert pretrain(nine, tmp_path / "s", tasks=[Trainable()], held_out=0).summary["steps"] == 6


class Plain(TaskSpec):
    """Compared with `guess`."""

    name: ClassVar[str] = "plain"
    metrics = ("guess",)
    baselines = ("guess",)

    def build(self, backbone):
        raise NotImplementedError


class Cosine(Plain):
    """Bounded by -1 and 1."""

    name: ClassVar[str] = "cosine"
    floor = -1.0


class Easy(Plain):
    """An untrained network beats its trivial answer too."""

    name: ClassVar[str] = "easy"
    beaten_untrained = True


@pytest.mark.parametrize(
    ("task", "training", "seen", "held_out", "word", "because"),
    [
        (Plain(), 0.3, 0.3, 0.35, "learned", "its loss on held-out slices 0.35 ends 65 % below the best trivial"),
        (Plain(), 0.1, 0.1, 0.6, "memorised", "slices trained on 0.1, held-out slices 0.6 ends 40 % below"),
        (Plain(), 0.1, 0.1, 1.4, "memorised", "held-out slices 1.4 ends 40 % above the best trivial answer"),
        (Plain(), 0.96, 0.96, 0.97, "learned", "ends 3 % below"),
        (Plain(), 0.99, 0.99, 0.99, "did not learn", "ends hardly below the best trivial answer, guess (1)"),
        (Plain(), 1.2, 1.2, 1.3, "worse than trivial", "ends 30 % above the best trivial answer, guess (1)"),
        (Plain(), 0.9, 5.0, 7.0, "worse than trivial", "0.9 in training mode: batch norm's averages are off"),
        (Cosine(), -0.98, -0.98, -0.97, "learned", "-0.97 ends 0.07 below the best trivial answer, guess (-0.9)"),
        (Cosine(), -0.99, -0.99, -0.92, "memorised", "slices trained on -0.99"),
        (Cosine(), -0.5, -0.5, -0.4, "worse than trivial", "-0.4 ends above the best trivial answer"),
        (Easy(), 0.3, 0.4, 0.3, "no comparison", "fine-tuning will tell"),
        (Easy(), 0.3, 0.3, 0.9, "memorised", "use more scans"),
        (Easy(), 0.3, 1.1, 1.2, "worse than trivial", "try another --lr"),
    ],
)
def test_the_verdict_is_that_of_the_held_out_loss(task, training, seen, held_out, word, because):
    guess = -0.9 if task.floor else 1.0
    means = {"loss": training, "guess": guess}
    watched = Watched({"loss": held_out, "guess": guess}, {"loss": seen, "guess": guess}, {40: held_out})
    verdict = judge(task, History([training] * 40, 1.0, means, 40, 999, watched))
    assert verdict.word == word, verdict
    assert because in verdict.because


@pytest.mark.parametrize(("losses", "todo"), [([2.0, 1.6, 1.3], "it still falls"), ([1.3] * 3, "another --lr")])
def test_a_run_too_short_for_held_out_losses_that_fall_is_told_by_its_training_losses(losses, todo):
    watched = Watched({"loss": 1.3, "guess": 1.0}, {"loss": 1.2, "guess": 1.0}, {40: 1.3})
    verdict = judge(Plain(), History(losses, 2.0, {"loss": 1.3, "guess": 1.0}, 40, 999, watched))
    assert todo in verdict.because


@pytest.mark.parametrize(("guess_seen", "word"), [(-0.909, "learned"), (-0.957, "memorised")])
def test_held_out_slices_that_are_more_alike_to_each_other_are_no_sign_of_memorising(guess_seen, word):
    """As measured on heart scans: the trivial answer differs between the samples, the loss hardly does."""
    seen = {"loss": -0.9672 if word == "learned" else -0.99, "guess": guess_seen}
    watched = Watched({"loss": -0.9631, "guess": -0.957}, seen, {600: -0.9631})
    means = {"loss": -0.9672, "guess": -0.909}
    assert judge(Cosine(), History([-0.5, -0.96], 0.0, means, 600, 999, watched)).word == word


def test_who_has_memorised_is_told_when_the_held_out_loss_was_lowest():
    losses = {100: 0.5, 200: 0.4, 300: 0.6}
    watched = Watched({"loss": 0.6, "guess": 1.0}, {"loss": 0.1, "guess": 1.0}, losses)
    verdict = judge(Plain(), History([1.0, 0.1], 1.0, {"loss": 0.1, "guess": 1.0}, 300, 999, watched))
    assert "the loss on held-out slices was lowest after step 200 of 300 (0.4)" in verdict.because


# --- how long it will take ---------------------------------------------------------------------------------------


def test_lines_come_early_and_at_each_tenth_and_say_how_long_it_will_take():
    stream = io.StringIO()
    progress = RichProgress(Console(file=stream, width=200, markup=False, soft_wrap=True))
    progress.training(0, 1000, 4)
    for step in range(1, 1001):
        progress.stepped(step)
        if step == 1 or step % 10 == 0:
            held_out = {"a/held_out": 0.75} if step >= 100 else {}
            progress.logged({"step": step, "a/loss": 0.5, "a/pairs": 4.0, **held_out})
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/1000" for step in (1, 10, *range(100, 1001, 100))]
    assert "to go" not in lines[0]  # the first step warms up
    assert all(re.search(r"  about 1 s to go  \d+ images/s  a 0\.5000", line) for line in lines[1:-1])
    assert lines[5].endswith("a 0.5000 (held out 0.7500)")
    assert "to go" not in lines[-1]


class Clock:
    """Tells the time that it is set to."""

    now = 0.0

    def __call__(self):
        return self.now


def test_the_time_to_go_is_that_of_the_steps_after_the_first():
    clock = Clock()
    pace = Pace(total=100, done=20, clock=clock)
    for step, now in ((21, 60.0), (22, 62.0), (26, 70.0)):
        clock.now = now
        pace.update(step)
        assert pace.to_go() == (None if step == 21 else 2.0 * (100 - step))


def test_a_training_that_takes_long_on_a_cpu_says_so_after_a_few_steps(scans, tmp_path):
    class ToldError(Exception):
        """The note was given."""

    class Listening(Progress):
        step = 0

        def stepped(self, step):
            self.step = step

        def note(self, text):
            if "more on this CPU" in text:
                raise ToldError(self.step, text)

    with pytest.raises(ToldError) as told:
        pretrain(scans, tmp_path / "r", steps=10**8, size=64, accelerator="cpu", progress=Listening())
    step, text = told.value.args
    assert step < 6
    assert re.match(r"about \d+ d( \d+ h)? more on this CPU, with 64 x 64 pixels; --size 32 takes about a qu", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.2, "1 s"), (42, "42 s"), (119, "2 min"), (3000, "50 min"), (3599, "1 h"), (5400, "1 h 30 min")),
        *((22980, "6 h 20 min"), (172000, "47 h 50 min"), (300000, "3 d 11 h")),
    ],
)
def test_times_are_written_as_people_say_them(seconds, text):
    assert duration(seconds) == text

"""`ssmtl run` as a user sees it: it trains, tells, saves, resumes bit for bit, and refuses what is wrong."""

import json
import re
import signal
import subprocess
import sys
import tomllib
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import ssmtl_toolkit
from helpers.processes import read_until
from helpers.small import blobs, write_scan
from ssmtl_toolkit import DataError, SsmtlError, UsageError
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.registry import Plugin, registry
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import TaskSpec

SMALL = {"backbone": "unet:encoder=plain,width=4", "size": 32, "batch_size": 4}
FLAGS = ("--backbone", "unet:encoder=plain,width=4", "--size", 32, "--batch-size", 4)
PLUS = ["reconstruct_prev:t=1", "reconstruct_next:t=1", "slice_siam:t=1", "moco_v2:queue=10"]


def pretrain(scans, out, **options):
    options = {**SMALL, "tasks": PLUS, "steps": 6, "data": str(scans), "cache": out.parent / "cache", **options}
    return ssmtl_toolkit.pretrain(out=out, **options)


def state(run):
    newest = checkpoint.newest(run.folder / "checkpoints", warn=lambda text: pytest.fail(text))
    return {k: v.clone() for k, v in newest.tensors.items()}  # the file stays mapped otherwise


def equal(a, b):
    return set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_first_command_of_the_readme_trains_on_the_phantom(ssmtl, tmp_path):
    done = ssmtl(
        "run", *FLAGS, "--task", "reconstruct_prev", "--task", "reconstruct_next", "--task", "slice_siam",
        "--data", "phantom:patients=2", "--steps", 4, "--out", "first", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["run"] == "first"
    assert told["steps"] == 4
    assert told["scans"] == {"used": 2, "skipped": [], "notes": []}
    assert set(told["tasks"]) == {"reconstruct_prev", "reconstruct_next", "slice_siam"}
    assert told["tasks"]["reconstruct_prev"]["copy"] > 0
    assert told["images_per_second"] > 0
    assert {p.name for p in (tmp_path / "first").iterdir()} == {
        *(".lock", "backbone.safetensors", "checkpoints", "heads.safetensors", "metrics.jsonl", "run.toml"),
        *("summary.json", "log.txt", "environment.json"),
    }  # fmt: skip


def test_without_json_the_run_folder_is_all_that_stdout_holds(ssmtl, scans):
    done = ssmtl("run", *FLAGS, "--data", scans, "--steps", 2, "--out", "r", "--task", "reconstruct_prev:t=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "r\n"
    for part in ("reconstruct_prev:t=1", "(scaled_copy)", "48 slices of 4 scans", "ssmtl run --config r/run.toml"):
        assert part in done.stderr


def test_run_toml_repeats_the_run_to_the_bit(ssmtl, scans, tmp_path):
    first = pretrain(scans, tmp_path / "first")
    done = ssmtl("run", "--config", "first/run.toml", "--out", "again", "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert equal(load_file(first.backbone), load_file(tmp_path / "again" / "backbone.safetensors"))
    assert records(first.folder) == records(tmp_path / "again")


def test_label_maps_are_no_scans(scans, tmp_path):
    for name in ("p0_label", "p1-seg", "mask", "p9_seg"):  # the first two belong to scans
        write_scan(scans / f"{name}.nii.gz", seed=50)
    write_scan(scans / "labels" / "p2.nii.gz", seed=51)
    write_scan(scans / "segment_of_patient_7.nii.gz", seed=52)
    told = pretrain(scans, tmp_path / "r", steps=1).summary["scans"]
    assert told["used"] == 5
    assert {item["scan"] for item in told["skipped"]} == {"mask", "p9_seg"}
    assert all("a label map by its name" in item["reason"] for item in told["skipped"])


def test_what_a_run_writes_can_be_read_by_others(scans, tmp_path):
    run = pretrain(scans, tmp_path / "r", steps=1)
    (tmp_path / "plain").write_text("")
    usual = (tmp_path / "plain").stat().st_mode
    written = [p for p in run.folder.rglob("*") if p.is_file() and p.name != ".lock"]
    assert {p.stat().st_mode for p in written} == {usual}


def test_flags_win_over_the_file(ssmtl, scans, tmp_path):
    (tmp_path / "mine.toml").write_text(f'data = "{scans}"\ntasks = ["reconstruct_prev:t=1"]\nepochs = 50\nlr = 1e-4\n')
    done = ssmtl("run", "--config", "mine.toml", *FLAGS, "--steps", 3, "--out", "r", "--json")
    assert json.loads(done.stdout)["steps"] == 3, done.stderr
    written = tomllib.loads((tmp_path / "r" / "run.toml").read_text())
    assert (written["lr"], written["steps"]) == (1e-4, 3)
    assert written["tasks"] == ["reconstruct_prev:weight=1.0,t=1,mask=0.0,patch=0.125,fill=zero"]
    assert "epochs" not in written


@pytest.mark.slow
def test_training_learns_to_beat_copying(scans, tmp_path):
    run = pretrain(scans, tmp_path / "r", tasks=["reconstruct_prev:t=4", "reconstruct_next:t=4"], steps=250, lr=3e-3)
    for task in run.summary["tasks"].values():
        assert task["loss"] < 0.9 * task["copy"]


def test_equal_seeds_give_equal_weights_and_others_do_not(scans, tmp_path):
    first, again = (pretrain(scans, tmp_path / name, steps=3) for name in ("a", "b"))
    assert equal(load_file(first.backbone), load_file(again.backbone))
    other = pretrain(scans, tmp_path / "c", steps=3, seed=1)
    assert not equal(load_file(first.backbone), load_file(other.backbone))


KILLED = """
import json, os, signal, sys
import ssmtl_toolkit
from ssmtl_toolkit.runtime.progress import Progress
class Kill(Progress):
    def stepped(self, step):
        if step == 14: os.kill(os.getpid(), signal.SIGKILL)
ssmtl_toolkit.pretrain(progress=Kill(), **json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_run_killed_in_mid_training_ends_with_the_same_bits_when_resumed(ssmtl, scans, tmp_path):
    """SSMTL+ with MoCo V2 beside it: weights, queue, optimizer and metrics."""
    steps = {"steps": 40, "checkpoint_every": 5, "log_every": 2}
    whole = pretrain(scans, tmp_path / "whole", **steps)
    places = {"data": str(scans), "cache": str(tmp_path / "cache"), "out": str(tmp_path / "cut")}
    options = {**SMALL, **places, **steps, "tasks": PLUS}
    killed = subprocess.run([sys.executable, "-c", KILLED, json.dumps(options)], stderr=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint.newest(tmp_path / "cut" / "checkpoints", warn=print).step == 10
    assert len(records(tmp_path / "cut")) == 8  # up to step 14
    resumed = ssmtl("run", "--resume", "cut", "--cache", tmp_path / "cache")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes after step 10" in resumed.stderr
    ours, theirs = (checkpoint.newest(tmp_path / n / "checkpoints", warn=print).tensors for n in ("whole", "cut"))
    assert any(name.endswith("queue") for name in ours)
    assert any(name.startswith("optimizer.") for name in ours)
    assert equal(ours, theirs)
    assert equal(load_file(whole.backbone), load_file(tmp_path / "cut" / "backbone.safetensors"))
    assert records(tmp_path / "whole") == records(tmp_path / "cut")


@pytest.mark.slow
def test_ctrl_c_saves_and_the_run_goes_on_where_it_was(scans, tmp_path):
    command = [sys.executable, "-m", "ssmtl_toolkit", "run", "--data", str(scans), *map(str, FLAGS), "--log-every", "1"]
    command += ["--task", "reconstruct_prev:t=1", "--steps", "4000", "--cache", str(tmp_path / "cache")]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "cut")], stderr=subprocess.PIPE, text=True)
    read_until(process.stderr, "step ")
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert "--resume" in told
    assert "Traceback" not in told
    step = checkpoint.newest(tmp_path / "cut" / "checkpoints", warn=print).step
    assert 0 < step < 4000
    assert records(tmp_path / "cut")[-1]["step"] == step


@pytest.mark.slow
def test_resuming_a_run_that_is_done_adds_steps_when_told_to(scans, tmp_path):
    short = pretrain(scans, tmp_path / "r", steps=4)
    longer = pretrain(scans, tmp_path / "r", steps=8, resume=True)
    whole = pretrain(scans, tmp_path / "whole", steps=8)
    assert longer.summary["steps"] == 8
    assert short.folder == longer.folder
    assert equal(state(longer), state(whole))


def test_a_run_killed_before_it_wrote_its_backbone_gets_it_when_resumed(scans, tmp_path):
    run = pretrain(scans, tmp_path / "r", steps=4)
    wanted = load_file(run.backbone)
    wanted = {k: v.clone() for k, v in wanted.items()}
    run.backbone.unlink()
    assert equal(load_file(pretrain(scans, tmp_path / "r", steps=4, resume=True).backbone), wanted)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_is_taken(scans, tmp_path):
    run = pretrain(scans, tmp_path / "r", steps=6, checkpoint_every=3)
    before = state(run)
    newest = sorted((run.folder / "checkpoints").iterdir())[-1] / "state.safetensors"
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    told = []
    found = checkpoint.newest(run.folder / "checkpoints", warn=told.append)
    assert found.step == 3
    assert "damaged" in told[0]
    again = pretrain(scans, tmp_path / "r", steps=6, checkpoint_every=3, resume=True)
    assert equal(state(again), before)


def test_resume_refuses_other_options_and_other_scans(scans, tmp_path):
    pretrain(scans, tmp_path / "r")
    with pytest.raises(UsageError, match=r"lr is 0\.1, was 0\.001"):
        pretrain(scans, tmp_path / "r", lr=0.1, resume=True)
    write_scan(scans / "p1.nii.gz", seed=77)
    with pytest.raises(DataError, match="scans are no longer those"):
        pretrain(scans, tmp_path / "r", steps=9, resume=True)


def test_accumulating_gradients_is_one_update_of_the_larger_batch(scans, tmp_path):
    options = {"tasks": ["reconstruct_prev:t=1"], "backbone": "unet:encoder=plain,width=4", "accumulate": 2, "steps": 5}
    run = pretrain(scans, tmp_path / "r", **options)
    assert run.summary["epochs"] == pytest.approx(5 * 8 / 44, abs=1e-3)
    cut = pretrain(scans, tmp_path / "cut", **{**options, "steps": 3})
    assert not equal(state(run), state(cut))
    assert equal(state(run), state(pretrain(scans, tmp_path / "cut", **options, resume=True)))


def test_clipping_bounds_the_update(scans, tmp_path):
    options = {"tasks": ["reconstruct_prev:t=1"], "steps": 1}
    free, held = pretrain(scans, tmp_path / "a", **options), pretrain(scans, tmp_path / "b", **options, clip=1e-6)

    def moment(run):  # Adam's first moment after one step is a tenth of the gradient
        return sum(v.square().sum() for k, v in state(run).items() if k.endswith("exp_avg")).sqrt().item() * 10

    assert moment(held) == pytest.approx(1e-6, rel=1e-3)
    assert moment(free) > 1e-3


def test_the_backbone_file_tells_what_it_is_and_holds_no_path_or_patient(scans, tmp_path):
    run = pretrain(scans, tmp_path / "r")
    with safe_open(run.backbone, "pt") as file:
        text = file.metadata()["ssmtl"]
        names = set(file.keys())
    about = json.loads(text)
    assert about["backbone"] == {
        "spec": "unet:encoder=plain,width=4,weights=none",
        "distribution": "ssmtl-toolkit",
        "version": about["version"],
    }
    full = "reconstruct_prev:weight=1.0,t=1,mask=0.0,patch=0.125,fill=zero"  # with the defaults of today
    assert about["tasks"][0]["spec"] == full
    assert about["trained"] == ["encoder", "decoder"]
    assert about["prepare"]["size"] == 32
    assert about["step"] == 6
    assert all(name.startswith(("encoder.", "decoder.")) for name in names)
    assert str(tmp_path) not in text
    assert "p0" not in text


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(scans, tmp_path):
    with pytest.raises(SsmtlError, match=r"'reconstruct_prev:t=1'.*loss is (nan|inf)[\s\S]*lower --lr"):
        pretrain(scans, tmp_path / "r", tasks=["reconstruct_prev:t=1"], lr=1e30, steps=20)
    assert not (tmp_path / "r" / "backbone.safetensors").exists()


def test_scans_that_are_too_short_are_reported_and_the_others_train(scans, tmp_path):
    write_scan(scans / "short.nii.gz", slices=3, seed=9)
    told = pretrain(scans, tmp_path / "r", tasks=["reconstruct_prev:t=5"]).summary
    assert told["scans"]["used"] == 4
    reason = "its slices along the axial axis (3) give no pair for any task; another t may"
    assert told["scans"]["skipped"] == [{"scan": "short", "reason": reason}]
    assert told["slices"] == 4 * 12  # of the scans that are used
    assert told["anchors"] == 4 * 7


def test_what_was_odd_about_a_scan_is_told(ssmtl, scans):
    image = nib.load(scans / "p0.nii.gz")
    array = image.get_fdata(dtype="float32")
    array[3, 3, 3] = float("nan")
    nib.save(nib.Nifti1Image(array, image.affine), scans / "p0.nii.gz")
    done = ssmtl("run", *FLAGS, "--data", scans, "--task", "reconstruct_next:t=1", "--steps", 1, "--out", "r", "--json")
    (note,) = json.loads(done.stdout)["scans"]["notes"]
    assert (note["scan"], "NaN or infinite voxels: 1" in note["note"]) == ("p0", True)
    assert "p0.nii.gz: NaN or infinite voxels: 1" in done.stderr


def test_scans_cut_along_different_axes_are_told(ssmtl, scans):
    thick = nib.Nifti1Image(blobs(12, seed=8), np.diag([4.0, 0.8, 0.8, 1.0]))
    nib.save(thick, scans / "sagittal.nii.gz")
    done = ssmtl("run", *FLAGS, "--data", scans, "--task", "reconstruct_next:t=1", "--steps", 1, "--out", "r")
    assert "different axes (4 axial, 1 sagittal); choose one with --axis" in done.stderr


def test_a_queue_too_long_for_the_data_is_remarked(ssmtl, scans):
    done = ssmtl("run", *FLAGS, "--data", scans, "--task", "moco_v2", "--steps", 1, "--out", "r")
    assert done.returncode == 0, done.stderr
    assert "moco_v2: its queue of 1024 keys is long for 48 slices" in done.stderr
    assert "queue=24 or less" in done.stderr


def test_a_task_that_no_scan_has_a_pair_for_is_an_error_before_training(scans, tmp_path):
    with pytest.raises(DataError, match=r"reconstruct_prev:t=12.*longest has 12 slices.*smaller t"):
        pretrain(scans, tmp_path / "r", tasks=["reconstruct_prev:t=12", "reconstruct_next:t=1"])


def test_resume_is_exact_in_channels_last_layout_too(scans, tmp_path):
    whole = pretrain(scans, tmp_path / "whole", channels_last="on")
    pretrain(scans, tmp_path / "cut", channels_last="on", steps=3)
    assert equal(state(whole), state(pretrain(scans, tmp_path / "cut", channels_last="on", resume=True)))


def test_a_run_cannot_be_resumed_to_fewer_steps(scans, tmp_path):
    pretrain(scans, tmp_path / "r")
    with pytest.raises(UsageError, match="already has 6 steps"):
        pretrain(scans, tmp_path / "r", steps=2, resume=True)


def test_scans_may_move_between_a_run_and_its_resume(scans, tmp_path):
    pretrain(scans, tmp_path / "r", steps=3)
    moved = scans.rename(tmp_path / "elsewhere")
    again = pretrain(moved, tmp_path / "r", resume=True)
    assert again.summary["steps"] == 6


def test_a_configuration_and_options_together_are_refused(tmp_path):
    with pytest.raises(UsageError, match="both a configuration and options"):
        ssmtl_toolkit.pretrain(RunConfig(), out=tmp_path / "r", lr=5.0)


def test_weights_that_are_not_finite_are_never_saved(scans, tmp_path):
    with pytest.raises(SsmtlError, match=r"not finite after step 1|loss is"):
        pretrain(scans, tmp_path / "r", lr=1e38, steps=1, clip=None, weight_decay=1e30, tasks=["reconstruct_prev:t=1"])
    assert not list((tmp_path / "r").rglob("*.safetensors"))


def test_a_batch_too_small_for_batch_norm_is_told_before_training(scans, tmp_path):
    options = {"tasks": ["moco_v2:queue=10"], "backbone": "unet:encoder=resnet18", "batch_size": 1}
    with pytest.raises(UsageError, match="larger --batch-size"):
        pretrain(scans, tmp_path / "r", **options)


def test_parts_that_no_feature_depends_on_are_not_trained(scans, tmp_path):
    run = pretrain(
        scans, tmp_path / "r", tasks=["reconstruct_prev:t=1"], backbone="unet:encoder=efficientnet-b0", steps=1
    )
    moments = [k for k in state(run) if k.endswith("exp_avg")]
    assert not [k for k, v in state(run).items() if k.endswith("exp_avg") and not v.any()]
    assert moments


def test_a_broken_plugin_is_reported_by_a_run(ssmtl, scans, monkeypatch):
    broken = Plugin("theirs", "their-package", "1.0", "ImportError: no such thing")
    monkeypatch.setattr(registry(), "plugins", [*registry().plugins, broken])
    done = ssmtl("run", *FLAGS, "--data", scans, "--task", "reconstruct_next:t=1", "--steps", 1, "--out", "r")
    assert done.returncode == 0
    assert "plugin 'theirs' of their-package 1.0 did not load: ImportError: no such thing" in done.stderr


def test_a_folder_with_a_run_in_it_is_not_overwritten(scans, tmp_path):
    pretrain(scans, tmp_path / "r")
    with pytest.raises(UsageError, match=r"not empty.*--resume"):
        pretrain(scans, tmp_path / "r")


def test_two_processes_cannot_train_in_one_folder(scans, tmp_path):
    from filelock import FileLock

    (tmp_path / "r").mkdir()
    with FileLock(tmp_path / "r" / ".lock"), pytest.raises(SsmtlError, match="another process"):
        pretrain(scans, tmp_path / "r")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of its own doings
def test_compiled_and_plain_runs_agree(scans, tmp_path, monkeypatch):
    import torch._dynamo

    monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)
    seen = []
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **k: seen.append(self) or real(self, backend="eager"))
    plain = pretrain(scans, tmp_path / "a", steps=3)
    compiled = pretrain(scans, tmp_path / "b", steps=3, compile=True)
    assert len(seen) == 2
    ours, theirs = load_file(plain.backbone), load_file(compiled.backbone)
    assert all(torch.allclose(ours[k].float(), theirs[k].float(), atol=1e-4) for k in ours)


@pytest.mark.slow
def test_two_processes_train_one_network_with_equal_queues(scans, tmp_path, ssmtl_process):
    tasks = [*PLUS, "slice_siam:t=5"]  # the last one has no pair in many batches
    flags = [x for task in tasks for x in ("--task", task)]
    options = ("--data", scans, *FLAGS, *flags, "--steps", 4, "--devices", 2, "--accelerator", "cpu", "--log-every", 1)
    done = ssmtl_process("run", *options, "--out", "two", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    anchors = told["anchors"]
    assert told["epochs"] == pytest.approx(4 * 8 / anchors, abs=1e-3)
    tensors = checkpoint.newest(tmp_path / "two" / "checkpoints", warn=print).tensors
    assert int(tensors["model.tasks.3.pointer"]) == 32 % 10  # both ranks' keys went in
    assert records(tmp_path / "two")[0]["moco_v2:queue=10/pairs"] == 8


def test_python_takes_specs_as_objects(scans, tmp_path):
    task = registry().find(TaskSpec, "reconstruct_next")(t=2)
    run = pretrain(scans, tmp_path / "r", tasks=["reconstruct_prev:t=2", task], steps=2)
    assert list(run.summary["tasks"]) == ["reconstruct_prev:t=2", "reconstruct_next:t=2"]
    assert RunConfig.of(RunConfig.read(run.folder / "run.toml")).resolve().tasks[1] == task


@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [
        (["--task", "reconstruct_prv"], 2, "did you mean 'reconstruct_prev'"),
        (["--backbone", "unett"], 2, "did you mean 'unet'"),
        (["--task", "reconstruct_prev:t=0"], 2, "greater than or equal to 1"),
        (["--task", "reconstruct_prev:weight=0"], 2, "every task has weight 0"),
        (["--task", "reconstruct_prev", "--task", "reconstruct_prev"], 2, "given twice"),
        (["--epochs", "2", "--steps", "3"], 2, "both epochs and steps"),
        (["--lr", "-1"], 2, "lr: Input should be greater than 0"),
        (["--lr", "nan"], 2, "finite"),
        (["--sise", "64"], 2, "--size"),
        (["--config", "missing.toml"], 2, "missing.toml"),
        (["--resume", "missing"], 2, "no run to resume"),
        (["--data", "no/such/folder"], 3, "no/such/folder: no such file or folder"),
        (["--data", "phantm:patients=3"], 2, "did you mean 'phantom'"),
        (["--backbone", "unet:encoder=resnet35", "--data", "phantom:patients=1"], 2, "did you mean 'resnet"),
        (["--cache", "/proc/nothing", "--data", "phantom:patients=1"], 1, "choose another --cache"),
        (["--data", "phantom:patient=3"], 2, "did you mean 'patients'"),
        (["--accelerator", "tpux"], 2, "tpux"),
        (["--store", "gpu", "--data", "phantom:patients=1"], 2, "--store gpu"),
        (["--backbone", "smp:fpn", "--size", "48", "--data", "phantom:patients=1"], 2, "multiple of 32"),
        (["--backbone", "fcn:weights=true", "--data", "phantom:patients=1"], 1, "could not be downloaded"),
    ],
)  # fmt: skip
def test_wrong_use_is_told_in_words(ssmtl, flags, code, told):
    done = ssmtl("run", *flags)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code
    assert done.stdout == ""


def test_an_unwritable_place_is_told_before_training(scans, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SsmtlError, match="cannot be written"):
        pretrain(scans, tmp_path / "file" / "r", cache=tmp_path / "cache")


@pytest.mark.slow
def test_names_with_brackets_and_control_characters_are_printed_harmlessly(ssmtl, ssmtl_process, scans):
    (scans / "[red]x[bold].nii.gz").write_bytes(b"")
    (scans / "p0.nii.gz").rename(scans / "new\nline\x1b[31m.nii.gz")
    done = ssmtl(
        "run", *FLAGS, "--data", scans, "--steps", 1, "--task", "reconstruct_prev:t=1", "--skip-bad", "--out", "r"
    )
    assert done.returncode == 0, done.stderr
    assert "[red]x[bold].nii.gz" in done.stderr
    assert "\x1b[31m" not in done.stderr
    refused = ssmtl_process("run", *FLAGS, "--data", scans, "--steps", 1, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert refused.returncode == 3
    assert "[red]x[bold].nii.gz" in refused.stderr


@pytest.mark.slow
def test_a_snapshot_is_the_backbone_of_a_run_of_so_many_epochs_and_changes_nothing(scans, tmp_path):
    options = {"tasks": ["reconstruct_prev:t=1"], "batch_size": 5, "steps": None}  # 44 anchors: 8.8 steps an epoch
    whole = pretrain(scans, tmp_path / "whole", epochs=3, snapshot_every=2, **options)
    assert [file.name for file in (whole.folder / "snapshots").iterdir()] == ["epoch-0002.safetensors"]
    short = pretrain(scans, tmp_path / "short", epochs=2, **options)
    assert equal(load_file(whole.folder / "snapshots" / "epoch-0002.safetensors"), load_file(short.backbone))
    plain = pretrain(scans, tmp_path / "plain", epochs=3, **options)
    assert equal(load_file(plain.backbone), load_file(whole.backbone))


class Normed(TaskSpec):
    """Tell apart slices that lie 11 apart, which one pair of each scan does, by a batch norm of its own."""

    name: ClassVar[str] = "normed"
    needs: ClassVar = frozenset({"pooled"})

    def companions(self, spacing):
        return {"far": (11,)}

    def build(self, backbone):
        return NormedModule(backbone.pooled_channels)


class NormedModule(torch.nn.Module):
    error = None

    def __init__(self, channels):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.BatchNorm1d(channels), torch.nn.Linear(channels, 1))

    def forward(self, step):
        if self.error:
            raise self.error
        pooled = step.companion("far").of(step.features().pooled)
        if not len(pooled):
            return TaskOutput.nothing(self.layers(torch.cat([pooled, step.features().pooled])))
        return TaskOutput(self.layers(pooled).square().mean(), pairs=len(pooled))


@pytest.mark.parametrize("balancer", ["fixed", "famo"])
def test_a_task_that_cannot_take_one_pair_is_named_with_step_pairs_and_remedy(scans, tmp_path, balancer):
    with pytest.raises(SsmtlError) as told:
        pretrain(scans, tmp_path / "a", tasks=["reconstruct_prev:t=1", Normed()], balancer=balancer)
    text = str(told.value)
    start = r"task 'normed' failed in step [1-6] on a batch of 4 slices with 1 pair: ValueError: Expected more than 1"
    assert re.match(start, text)
    assert "a larger --batch-size makes such batches rarer; the task must take 1 pair" in text
    assert "\n" not in text
    assert isinstance(told.value.__cause__, ValueError)


def test_an_error_inside_a_task_is_told_with_the_task_and_what_shows_where(scans, tmp_path, monkeypatch):
    tasks = ["reconstruct_prev:t=1", Normed()]
    monkeypatch.setattr(NormedModule, "error", RuntimeError("shapes differ\n and more"))
    with pytest.raises(SsmtlError, match=r"task 'normed' failed in step 1 .* RuntimeError: shapes differ; .*--debug"):
        pretrain(scans, tmp_path / "a", tasks=tasks, batch_size=48)
    monkeypatch.setattr(NormedModule, "error", torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(SsmtlError, match="not enough GPU memory for 4 slices"):
        pretrain(scans, tmp_path / "b", tasks=tasks)
    monkeypatch.setattr(NormedModule, "error", UsageError("told by the task itself"))
    with pytest.raises(UsageError, match=r"^task 'normed', step 1: told by the task itself$"):
        pretrain(scans, tmp_path / "c", tasks=tasks)


class NoRoom(Progress):
    """Puts a file where checkpoints would go, after the first step."""

    def __init__(self, folder):
        self.folder, self.notes = folder, []

    def stepped(self, step):
        if step == 1:
            (self.folder / "checkpoints").write_text("mine")

    def note(self, text):
        self.notes.append(text)


def test_checkpoints_that_cannot_be_written_are_noted_and_the_third_in_a_row_ends_the_training(scans, tmp_path):
    out, options = tmp_path / "r", {"tasks": ["reconstruct_next:t=1"], "steps": 9, "checkpoint_every": 2}
    progress = NoRoom(out)
    with pytest.raises(SsmtlError, match=r"step-00000006: the checkpoint cannot be written \(.+there is no checkpoint"):
        ssmtl_toolkit.pretrain(data=str(scans), out=out, cache=tmp_path / "c", progress=progress, **SMALL, **options)
    lost = [note for note in progress.notes if note.endswith("; the training continues")]
    assert [f"step-{step:08d}: the checkpoint" in note for step, note in zip((2, 4), lost, strict=True)] == [True, True]
    assert (out / "checkpoints").read_text() == "mine"

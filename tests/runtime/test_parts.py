"""Small parts against independent computations: augmentation, metric windows, checkpoints under faults, precision."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from helpers.small import write_scan
from ssmtl_toolkit import SsmtlError, UsageError
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.data import augment, files
from ssmtl_toolkit.data.prepare import prepare
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.volume import Stack, Volume
from ssmtl_toolkit.engine.step import TaskOutput
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime import checkpoint, device
from ssmtl_toolkit.runtime.log import RunningMeans
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.runtime.progress import Progress


def test_blur_is_a_gaussian_of_the_drawn_sigma_for_each_slice():
    torch.manual_seed(0)
    image = torch.zeros(8, 1, 33, 33)
    image[:, 0, 16, 16] = 1
    blurred = augment.gaussian_blur(image, sigma=(0.8, 1.6), probability=1.0)
    assert blurred.sum(dim=(1, 2, 3)).numpy() == pytest.approx(1.0, abs=1e-4)
    offsets = torch.arange(33.0) - 16
    found = (blurred.sum(dim=(1, 2)) * offsets**2).sum(dim=1).sqrt()
    torch.manual_seed(0)
    drawn = torch.empty(8).uniform_(0.8, 1.6)
    assert torch.allclose(found, drawn, rtol=0.02)
    assert len(set(drawn.tolist())) == 8


def test_blur_is_that_of_scipy_with_borders_that_reflect():
    torch.manual_seed(0)
    image = torch.randn(3, 2, 9, 14)
    torch.manual_seed(1)
    blurred = augment.gaussian_blur(image, sigma=(0.7, 1.9), probability=1.0)
    torch.manual_seed(1)
    for one, before, sigma in zip(blurred, image, torch.empty(3).uniform_(0.7, 1.9).tolist(), strict=True):
        wanted = gaussian_filter(before.double().numpy(), (0, sigma, sigma), mode="mirror", radius=(0, 6, 6))
        assert one.numpy() == pytest.approx(wanted, abs=1e-6)


def test_blur_and_flip_leave_about_half_of_the_slices_alone_and_keep_their_shape():
    torch.manual_seed(0)
    image = torch.randn(400, 1, 8, 12)
    for change in (augment.gaussian_blur, augment.flip):
        changed = change(image)
        assert changed.shape == image.shape
        same = (changed == image).all(dim=3).all(dim=2).all(dim=1)
        assert 160 < same.sum() < 240
    assert torch.equal(augment.flip(image, probability=1.0), image.flip(-1))


@pytest.mark.parametrize("change", [augment.gaussian_blur, augment.flip])
def test_all_channels_of_a_slice_are_changed_alike(change):
    torch.manual_seed(0)
    image = torch.randn(50, 1, 16, 16)
    changed = change(torch.cat([image, 3 * image, image], dim=1))
    assert not torch.equal(changed[:, :1], image)
    assert torch.equal(changed[:, 2], changed[:, 0])
    assert torch.allclose(changed[:, 1], 3 * changed[:, 0], atol=1e-5)


def test_a_window_weights_by_pairs_and_skips_steps_without_any():
    window = RunningMeans({"task": ["copy"]})
    for loss, pairs in ((1.0, 2), (4.0, 6), (0.0, 0)):
        window.add({"task": TaskOutput(torch.tensor(loss), {"copy": torch.tensor(2 * loss)}, pairs)})
    means = window.means()
    assert means == {"task/pairs": 8.0, "task/loss": pytest.approx(26 / 8), "task/copy": pytest.approx(52 / 8)}
    assert window.means() == {}


def test_a_window_without_any_pair_has_no_mean():
    window = RunningMeans({"task": []})
    window.add({"task": TaskOutput(torch.tensor(0.0), {}, 0)})
    assert window.means() == {"task/pairs": 0.0}


def test_all_ranks_reduce_the_same_metrics_in_the_same_order_whatever_each_has_seen():
    reduced = []
    for outputs in (
        {"b": TaskOutput(torch.tensor(2.0), {}, 0)},
        {"b": TaskOutput(torch.tensor(2.0), {"m": torch.tensor(3.0)}, 4)},
    ):
        window = RunningMeans({"a": ["x"], "b": ["m"]}, lambda sums: reduced.append(sums) or sums)
        window.add({**outputs, "a": TaskOutput(torch.tensor(1.0), {"x": torch.tensor(5.0)}, 2)})
        window.means()
    assert reduced[0].tolist() == [2, 10, 0, 0, 2, 0]
    assert reduced[1].tolist() == [2, 10, 8, 12, 2, 4]


def test_a_metric_that_the_spec_does_not_list_is_told():
    with pytest.raises(SsmtlError, match="'task' returns a metric 'new'"):
        RunningMeans({"task": []}).add({"task": TaskOutput(torch.tensor(1.0), {"new": torch.tensor(1.0)})})


def test_a_metric_called_as_what_every_task_logs_is_refused_and_never_added_to_it():
    with pytest.raises(SsmtlError, match=r"'task' returns a metric 'loss' .* list it there"):
        RunningMeans({"task": []}).add({"task": TaskOutput(torch.tensor(1.0), {"loss": torch.tensor(1.0)})})
    with pytest.raises(SsmtlError, match="'task' lists the metric 'pairs', which every task has; rename it"):
        RunningMeans({"task": ["pairs"]})


def test_a_pipe_in_place_of_the_log_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(DataError, match="is not a regular file"):
        MetricLog(tmp_path / "metrics.jsonl").records()


def test_the_final_figures_are_means_over_the_last_tenth(tmp_path):
    log = MetricLog(tmp_path / "metrics.jsonl")
    for step in range(10, 201, 10):
        log.append({"step": step, "a/pairs": step, "a/loss": float(step)})
    assert log.final("a", ("loss", "missing")) == {"loss": pytest.approx((190**2 + 200**2) / 390)}


def test_a_half_written_last_line_is_dropped(tmp_path):
    log = MetricLog(tmp_path / "metrics.jsonl")
    log.append({"step": 10})
    with log.file.open("a") as file:
        file.write('{"step": 2')
    log.cut(10)
    assert log.file.read_text() == '{"step": 10}\n'


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)


def saved(tmp_path, step, keep=2):
    torch.manual_seed(step)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    net.layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return checkpoint.save(tmp_path, net, optimizer, {"step": step}, keep), net, optimizer


def test_only_the_newest_checkpoints_are_kept_or_all_when_told(tmp_path):
    for step in (5, 10, 15, 100000000):
        saved(tmp_path / "few", step)
        saved(tmp_path / "one", step, keep=1)
        saved(tmp_path / "all", step, keep=0)
    assert [p.name for p in sorted((tmp_path / "few").iterdir())] == ["step-00000015", "step-100000000"]
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["step-100000000"]
    assert len(list((tmp_path / "all").iterdir())) == 4
    assert checkpoint.newest(tmp_path / "few", print).step == 100000000


def test_a_damaged_checkpoint_ahead_never_costs_a_good_one(tmp_path):
    saved(tmp_path, 3, keep=1)
    ahead = tmp_path / "step-00000006"
    ahead.mkdir()
    assert checkpoint.newest(tmp_path, lambda text: None).step == 3
    saved(tmp_path, 5, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000005"]


def test_a_copy_that_a_user_has_put_beside_the_checkpoints_is_neither_read_nor_removed(tmp_path):
    shutil.copytree(saved(tmp_path, 5)[0], tmp_path / "step-00000005-before-lr-0.1")
    assert checkpoint.newest(tmp_path, pytest.fail).step == 5
    for step in (4, 6, 7, 8):
        saved(tmp_path, step)
    assert (tmp_path / "step-00000005-before-lr-0.1" / "manifest.json").is_file()


@pytest.mark.parametrize("fail", ["rename", "fsync", "write_text"])
def test_a_failing_disk_leaves_the_older_checkpoint_and_says_so(tmp_path, monkeypatch, fail):
    saved(tmp_path, 1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = files.os if fail == "fsync" else type(tmp_path)
    monkeypatch.setattr(target, fail, full)
    with pytest.raises(SsmtlError, match=r"the checkpoint cannot be written \(No space left.* MiB free\); free"):
        saved(tmp_path, 2)
    monkeypatch.undo()
    assert checkpoint.newest(tmp_path, pytest.fail).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "no manifest", "other file", "step", "lr", "other name"])
def test_a_checkpoint_that_is_not_whole_is_never_loaded(tmp_path, damage):
    path, _, _ = saved(tmp_path, 1)
    state = path / "state.safetensors"
    data = bytearray(state.read_bytes())
    if damage == "cut":
        state.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[-3] ^= 4
        state.write_bytes(data)
    elif damage == "empty":
        state.write_bytes(b"")
    elif damage in ("step", "lr"):
        manifest = (path / "manifest.json").read_text()
        changed = (
            manifest.replace('"step": 1,', '"step": 2,') if damage == "step" else manifest.replace("0.001", "0.005")
        )
        assert changed != manifest
        (path / "manifest.json").write_text(changed)
    elif damage == "other name":
        path.rename(path.with_name("step-00000002"))
        path = path.with_name("step-00000002")
    elif damage == "no manifest":
        (path / "manifest.json").unlink()
    else:
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, "files": {"../../x": "0"}}))
    with pytest.raises(DataError):
        checkpoint.load(path)
    with pytest.raises(DataError, match="none of the 1 checkpoints is intact"):
        checkpoint.newest(tmp_path, lambda text: None)


def test_a_checkpoint_of_another_network_is_refused_with_names(tmp_path):
    path, _, _ = saved(tmp_path, 1)
    other = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(DataError, match=r"0\.weight is missing[\s\S]*layer\.weight is not known"):
        checkpoint.restore(checkpoint.load(path), other, torch.optim.Adam(other.parameters()))
    wider = Net()
    wider.layer = nn.Linear(4, 2)
    with pytest.raises(DataError, match=r"layer\.weight is \(2, 3\), not \(2, 4\)"):
        checkpoint.restore(checkpoint.load(path), wider, torch.optim.Adam(wider.parameters()))


def test_optimizer_state_comes_back_to_the_bit(tmp_path):
    path, _, optimizer = saved(tmp_path, 3)
    net = Net()
    again = torch.optim.Adam(net.parameters(), lr=1)
    checkpoint.restore(checkpoint.load(path), net, again)
    ours, theirs = optimizer.state_dict(), again.state_dict()
    assert json.dumps(ours["param_groups"]) == json.dumps(theirs["param_groups"])  # a tuple comes back as a list
    for index, state in ours["state"].items():
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(theirs["state"][index][k])) for k, v in state.items()
        )


def test_bf16_is_never_chosen_for_a_cpu_and_warned_of_where_it_is_emulated(monkeypatch):
    told = []
    progress = Progress()
    progress.note = told.append
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: False)
    assert device.choose_precision(RunConfig(), progress) == "32"
    monkeypatch.setattr(device, "computes_bf16", lambda: False)
    assert device.choose_precision(RunConfig(precision="bf16"), progress) == "bf16"
    assert "many times slower" in told[0]


def test_auto_takes_bf16_on_a_gpu_that_has_it(monkeypatch):
    monkeypatch.setattr(device.torch.cuda, "is_available", lambda: True)
    for has, chosen in ((True, "bf16"), (False, "32")):
        monkeypatch.setattr(device.torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert device.choose_precision(RunConfig(), Progress()) == chosen
    assert device.choose_precision(RunConfig(accelerator="cpu"), Progress()) == "32"


def test_a_configuration_reads_back_from_its_toml():
    config = RunConfig(tasks=("slice_siam:t=2", "moco_v2"), steps=7, window=(-100.0, 300.5), clip=1.0, data='a "b"')
    import tomllib

    again = RunConfig.of(tomllib.loads(config.write()))
    assert again.model_dump(mode="json") == config.model_dump(mode="json")


def test_all_wrong_options_of_a_file_are_told_at_once():
    with pytest.raises(UsageError) as error:
        RunConfig.of({"sise": 3, "lr": -1, "batch_size": 0}, "my.toml")
    for part in ("my.toml: no option 'sise'; did you mean 'size'", "lr: ", "batch_size: "):
        assert part in str(error.value)


def test_a_window_that_keeps_nothing_is_told():
    with pytest.raises(UsageError, match="LOW must be below HIGH"):
        RunConfig.of({"window": [300, -100]})
    volume = Volume(np.arange(512.0, dtype=np.float32).reshape(8, 8, 8), np.eye(4), (1, 1, 1))
    with pytest.raises(DataError, match=r"clipped to \(5000\.0, 6000\.0\); choose another --window"):
        prepare(volume, Slicing(size=8, window=(5000, 6000)))


def test_files_are_as_readable_as_others(tmp_path):
    files.write_json(tmp_path / "a.json", {})
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"backbone": {"encoder": "resnet18"}}, "my.toml: backbone: expected a spec or its text"),
        ({"tasks": [{"t": 1}]}, "my.toml: tasks: expected a spec or its text"),
        ({"tasks": 3}, "my.toml: tasks: expected"),
        ({"data": 3}, "my.toml: data: expected a path, a dataset or its text"),
    ],
)
def test_a_spec_of_the_wrong_type_is_told(options, told):
    with pytest.raises(UsageError) as error:
        RunConfig.of(options, "my.toml")
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_a_reader_that_returns_no_volume_is_found_out():
    good = np.ones((2, 3, 4), np.float32)
    with pytest.raises(DataError, match="shape"):
        Volume(good[0], np.eye(4), (1, 1, 1))
    with pytest.raises(DataError, match="affine"):
        Volume(good, np.zeros((4, 4)), (1, 1, 1))
    stack = Stack.of(Volume(good, np.eye(4), (1, 1, 1)), "axial")
    with pytest.raises(ValueError, match="expected slices of shape"):
        stack.back(np.zeros((2, 2, 2)))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a.json"
    files.write_json(target, {"x": 1})
    with (
        pytest.raises(SsmtlError, match=r"a\.json: cannot be written \(No such file"),
        files.atomic_write(target) as temporary,
    ):
        temporary.with_name("missing").rename(temporary)
    assert json.loads(target.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_digest_is_read_again_when_the_file_changes(tmp_path):
    file = write_scan(tmp_path / "a.nii.gz")
    memo = files.DigestMemo(tmp_path / "digests.json")
    before = memo(file)
    memo.save()
    write_scan(file, seed=5)
    assert files.DigestMemo(tmp_path / "digests.json")(file) != before
    (tmp_path / "digests.json").write_text("[not json")
    assert files.DigestMemo(tmp_path / "digests.json")(file) == files.digest(file)

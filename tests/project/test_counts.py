"""What a step costs, by counting: passes, gathers, transfers, waits for a device, bytes and files. Nothing is timed."""

from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from helpers.decodes import count_decodes
from helpers.elsewhere import META, Plain, Traffic, autocast_off_meta, meta_fabric
from helpers.small import SMALL, write_scan
from helpers.stores import OPTIONS, listed
from ssmtl_toolkit.config import FinetuneConfig, RunConfig
from ssmtl_toolkit.data import on_disk
from ssmtl_toolkit.data.sampling import Plan, Sampler
from ssmtl_toolkit.data.store import SliceStore, build_store
from ssmtl_toolkit.downstream import loop
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.downstream.loop import Loop
from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.pretraining.pretrain import make_plan
from ssmtl_toolkit.pretraining.update import Updater
from ssmtl_toolkit.runtime.log import RunningMeans
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.testing.sample import store_for

PAIR = ("reconstruct_prev", "reconstruct_next")
COMMON = {"data": "phantom:patients=2", "size": 32, "batch_size": 4, "precision": "32", "accelerator": "cpu"}


def updater(tasks, **options):
    """The updates of a training whose network and slices are on the meta device."""
    config = RunConfig.of({"tasks": tasks, "backbone": SMALL, **COMMON, **options}).resolve()
    fabric, store = meta_fabric(), store_for(config.tasks, 32)
    plan = make_plan(store, config.tasks, Progress())
    model = MultiTask.build(config.backbone, config.tasks, config.balancer, store.channels)
    wrapped, optimizer = fabric.setup(model, Plain(model.parameters(), {}))
    load = Loader(store, Sampler(plan, 4, 0), META, 1, Augmenter(config.augment))
    means = RunningMeans({str(task): task.metrics for task in config.tasks}, lambda values: values)
    weights = {str(task): task.given_weight for task in config.tasks}
    update = Updater(fabric, config, wrapped, optimizer, load, means, weights)
    update.health.waits = False  # as on a GPU
    return update


def fine_tuning(monkeypatch, **options):
    """The same of a fine-tuning."""
    given = {"from_scratch": True, "backbone": SMALL, "classes": "dark=1,bright=2", **COMMON, **options}
    config = FinetuneConfig.of({k: v for k, v in given.items() if k != "from_scratch"}).resolve()
    backbone = config.backbone.build(1)
    model = Downstream(backbone, config.head.build(backbone, 3))
    store = store_for([], 32)
    targets = (store.slices[:, 0] > 0.5).byte()
    monkeypatch.setattr(loop, "make_optimizer", lambda name, groups, *_: Plain(groups, {}))
    made = Loop(model, Examples(store, np.arange(20), targets), config, 0, meta_fabric(), (), None, ("dark", "bright"))
    made.health.waits = False
    return made._update


KINDS = {
    "±t": (PAIR, 2),  # images; and numbers: one transfer
    "±t and slice_siam": ((*PAIR, "slice_siam"), 2),
    "moco_v2": (("moco_v2",), 7),  # and of two views, which are mirrored and what blurs them; one order of the batch
    "dense_contrast": (("dense_contrast",), None),
    "vicreg": (("vicreg",), None),
    "restore": (("restore",), None),
    "augmented": (("inpaint",), None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_of_a_pre_training_waits_for_its_device(kind, monkeypatch):
    tasks, transfers = KINDS[kind]
    autocast_off_meta(monkeypatch)
    augment = ("affine", "elastic", "noise", "blur", "low_resolution", "gamma")
    more = {"augment": [f"{name}:p=1" for name in augment]} if kind == "augmented" else {}
    update = updater(tasks, **more)
    with Traffic():
        assert not update(0)
        assert not update(1)
    with Traffic() as traffic:
        assert not update(2)
    assert traffic.waits.total() == 0, traffic.waits
    assert traffic.sent >= 2
    assert transfers in (None, traffic.sent)


def test_no_step_of_a_fine_tuning_waits_for_its_device(monkeypatch):
    autocast_off_meta(monkeypatch)
    update = fine_tuning(monkeypatch)
    with Traffic():
        update(0)
        update(1)
    with Traffic() as traffic:
        update(2)
    assert traffic.waits.total() == 0, traffic.waits
    assert traffic.sent >= 2


def test_what_waits_is_counted():
    host, there = torch.ones(3), torch.ones(3, device=META)
    with Traffic() as traffic:
        host.to(META)
        there.copy_(host)
        there.cpu()
        there.sum().item()
        there[there > 0]
        host.to(META, non_blocking=True)
    assert traffic.sent == 3
    assert traffic.waits == Counter({"a transfer": 3, "_local_scalar_dense": 1, "index": 1})


PASSES = [(SliceStore, "gather"), (Backbone, "forward")]


@contextmanager
def counted(monkeypatch, owner, name, counts):
    real = getattr(owner, name)

    def counting(*args, **kwargs):
        counts[name] += 1
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, counting)
        yield


def test_a_step_of_two_tasks_is_one_gather_and_one_pass(monkeypatch):
    update, counts = updater(PAIR), Counter()
    counting = [counted(monkeypatch, owner, name, counts) for owner, name in PASSES]
    with Traffic(), counting[0], counting[1]:
        update(0)
    assert counts == {"gather": 1, "forward": 1}


def test_slices_on_disk_are_read_once_each_from_files_that_are_opened_once_a_batch(scans, tmp_path, monkeypatch):
    store = build_store(listed(scans), installed_readers(), OPTIONS, tmp_path / "cache", placement="disk")
    opened, read = Counter(), []

    class Watched(on_disk.FileIO):
        def __init__(self, file):
            opened[file] += 1
            super().__init__(file)

        def readinto(self, buffer):
            read.append(super().readinto(buffer))
            return read[-1]

    monkeypatch.setattr(on_disk, "FileIO", Watched)
    sampler = Sampler(Plan(store.extents, [{"a": {"next": (1,)}}] * 4), 8, 0)
    draw = sampler.draw(0)
    Loader(store, sampler, torch.device("cpu"))._draw(0)
    slices = len(draw.anchors) + len(draw.companions[0][0])
    assert read == [2 * 16 * 16] * slices
    assert set(opened.values()) == {1}
    assert len(opened) <= 4


@pytest.mark.parametrize("placement", ["ram", "disk"])
def test_a_second_start_opens_no_scan_and_one_changed_scan_costs_one(tmp_path, monkeypatch, placement):
    for i in range(3):
        write_scan(tmp_path / "scans" / f"p{i}.nii.gz", slices=4, seed=i)
    decodes = count_decodes(monkeypatch)

    def start():
        decodes.clear()
        scans = listed(tmp_path / "scans")
        build_store(scans, installed_readers(), OPTIONS, tmp_path / "cache", placement=placement)
        return decodes.total()

    assert [start(), start()] == [3, 0]
    write_scan(tmp_path / "scans" / "p1.nii.gz", slices=4, seed=9)
    assert [start(), start()] == [1, 0]

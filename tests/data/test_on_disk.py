"""Slices that stay on disk: the same as in memory, read ahead by a thread, with one line when they are gone."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import ssmtl_toolkit as toolkit
from helpers.small import SMALL
from helpers.stores import OPTIONS, listed
from ssmtl_toolkit.data.patches import Patches
from ssmtl_toolkit.data.sampling import BLOCK, Extent, Plan, Sampler
from ssmtl_toolkit.data.sending import sent_together
from ssmtl_toolkit.data.store import SliceStore, build_store
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.pretraining.ahead import Ahead
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.runtime.scans import installed_readers

CPU = torch.device("cpu")
WANTED = {"a": {"next": (1, 2)}, "b": {"before": (-1,)}}


@pytest.fixture
def stores(scans, tmp_path):
    """The same four scans in memory and on disk."""
    return {
        place: build_store(listed(scans), installed_readers(), OPTIONS, tmp_path / "cache", placement=place)
        for place in ("ram", "disk")
    }


def loader(store, patients=None):
    return Loader(store, Sampler(Plan(store.extents, [WANTED] * 4), 5, 3, patients=patients), CPU)


def tensors(batch):
    yield batch.anchor
    yield from vars(batch.position).values()
    for names in batch.companions.values():
        for companion in names.values():
            yield from (companion.image, companion.offsets)
            if companion.rows is not None:
                yield companion.rows


def assert_same(load, others, index):
    for one in (load, others):
        torch.manual_seed(index)  # as the training does, for patches are drawn
        one.batch = one(index)
    for one, other in zip(tensors(load.batch), tensors(others.batch), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def patched(store):
    return SliceStore(store.slices, store.scans, (), patches=Patches(8, torch.full((48, 2), 16)))


@pytest.mark.parametrize("change", [lambda store: store, patched], ids=["whole slices", "patches"])
@pytest.mark.parametrize("patients", [None, 2])
def test_batches_that_are_read_ahead_are_those_of_memory_wherever_one_begins(stores, change, patients):
    ram, disk = (loader(change(stores[place]), patients) for place in ("ram", "disk"))
    for index in (0, 1, 2, 2, 3, 1, 7, 8, 24, 25):  # in turn, again, back as a retry does, and over the end of an epoch
        assert_same(ram, disk, index)
    assert_same(ram, loader(change(stores["disk"]), patients), 25)  # as a resumed training begins


def test_rows_in_any_order_are_what_memory_holds(stores):
    rows = torch.tensor([47, 0, 13, 13, 12, 11, 46])
    assert torch.equal(stores["disk"].slices.index_select(0, rows), stores["ram"].slices[rows])
    assert torch.equal(stores["disk"].slices[10:30], stores["ram"].slices[10:30])
    assert torch.equal(stores["disk"].to(CPU).slices, stores["ram"].slices)
    assert stores["disk"].slices[:0].shape == (0, 1, 16, 16)


def test_no_file_stays_open_and_no_thread_is_left(stores):
    load = loader(stores["disk"])
    before = open_files()
    for index in range(6):
        load(index)
    for thread in [thread for thread in threading.enumerate() if thread.name == "ssmtl-ahead"]:
        thread.join(10)
        assert not thread.is_alive()
    assert open_files() == before


def long_plan(scans=300, slices=20):
    extents = [Extent(i * slices, slices, 1.0, i) for i in range(scans)]
    return Plan(extents, [{"a": {}}] * scans)


@pytest.mark.parametrize("world", [1, 2])
def test_in_blocks_each_anchor_comes_once_an_epoch_and_those_of_a_scan_soon_after_each_other(world):
    samplers = [Sampler(long_plan(), 16, 0, rank, world, blocks=True) for rank in range(world)]
    batches = 6000 // 16
    orders = []
    for epoch in range(2):
        numbers = range(epoch * batches // world, (epoch + 1) * batches // world + 1)
        drawn = np.concatenate([sampler.draw(i).anchors for i in numbers for sampler in samplers])
        first = epoch * 6000 - numbers[0] * world * 16
        orders.append(drawn[first : first + 6000])
        assert np.array_equal(np.sort(orders[-1]), np.arange(6000))
    assert not np.array_equal(*orders)
    places = np.argsort(orders[0]).reshape(300, 20)  # where the slices of each scan come
    gaps = np.diff(np.sort(places, axis=1), axis=1, append=np.sort(places, axis=1)[:, :1] + 6000)
    spans = 6000 - gaps.max(axis=1)  # of the shortest stretch, over the end too, that holds a scan
    assert spans.max() <= 1.1 * BLOCK * 20
    assert spans.mean() >= 0.85 * BLOCK * 20  # ... and they are spread over all of it
    different = [len(set(batch // 20)) for batch in orders[0].reshape(-1, 16)]
    assert min(different) >= 9
    assert np.mean(different) >= 13.5  # 64 scans: 14.3 expected; of 300 scans 15.6
    away = np.abs(np.arange(6000) - np.argsort(np.argsort(orders[0] // 20, kind="stable")))
    assert away.mean() >= 6000 / 4  # from the order of the folder; a full shuffle has a third


def test_with_few_scans_blocks_are_a_full_shuffle():
    sampler = Sampler(long_plan(scans=10), 200, 0, blocks=True)
    places = np.argsort(sampler.draw(0).anchors).reshape(10, 20)
    assert (places.max(axis=1) - places.min(axis=1)).min() > 100


def test_in_blocks_each_scan_is_read_in_one_go_when_it_comes(stores, monkeypatch):
    told = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, start, length, advice: told.append((start, length)))
    store = stores["disk"]
    sampler = Sampler(Plan(store.extents, [{"a": {}}] * 4), 24, 0, blocks=True)
    load = Loader(store, sampler, CPU)
    for index in range(3):
        load._draw(index)
    assert told.count((0, 0)) == 4  # to the end of each file, once


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_file_of_the_cache_that_is_lost_while_it_is_used_is_one_line(stores, tmp_path, damage):
    load = loader(stores["disk"])
    load(0)
    for file in tmp_path.glob("cache/slices/*/*.safetensors"):
        if damage == "gone":
            file.unlink()
        else:
            os.truncate(file, 2000)
    with pytest.raises(DataError, match=r"\.safetensors: the slices in the cache can no longer be read .*--resume"):
        [load(index) for index in range(1, 4)]  # the next one may have been read before


def test_what_a_thread_raises_is_raised_where_its_batch_is_asked_for():
    def make(number):
        if number == 2:
            raise KeyboardInterrupt
        return number

    ahead = Ahead(make)
    assert [ahead(0), ahead(1)] == [0, 1]
    with pytest.raises(KeyboardInterrupt):
        ahead(2)
    assert ahead(3) == 3


def test_numbers_of_all_types_arrive_by_one_transfer():
    columns = [np.arange(3), np.array([0.1, 0.2, 0.3], np.float32), np.arange(0), np.array([True, False]), np.arange(5)]
    arrived = sent_together(columns, CPU)
    assert [one.dtype for one in arrived] == [torch.int64, torch.float32, torch.int64, torch.bool, torch.int64]
    for one, column in zip(arrived, columns, strict=True):
        assert np.array_equal(one.numpy(), column)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["shuffled", "blocks"])
def test_a_training_from_disk_that_is_resumed_ends_with_the_bits_of_one_from_memory(scans, tmp_path, order):
    options = {"data": scans, "size": 16, "tasks": ["reconstruct_next:t=1"], "backbone": SMALL, "batch_size": 4}
    options |= {"cache": tmp_path / "cache", "accelerator": "cpu", "held_out": 0, "report": False}
    options |= {"read_order": order}
    whole = toolkit.pretrain(**options, steps=5, store="ram", out=tmp_path / "ram").backbone
    toolkit.pretrain(**options, steps=2, store="disk", out=tmp_path / "disk")
    again = toolkit.pretrain(**options, steps=5, store="disk", out=tmp_path / "disk", resume=True).backbone
    assert again.read_bytes() == whole.read_bytes()

"""The slice store: decoded once, found again, made anew only for what changed, whole or not there."""

import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from filelock import FileLock

from helpers.small import blobs, write_scan
from helpers.stores import OPTIONS, listed
from ssmtl_nifti import Nifti
from ssmtl_toolkit.data import memory
from ssmtl_toolkit.data import store as storing
from ssmtl_toolkit.data.in_memory import for_each
from ssmtl_toolkit.data.on_disk import OnDisk
from ssmtl_toolkit.data.prepare import prepare
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.source import FileError
from ssmtl_toolkit.data.store import build_store
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import stamp


def build(folder, cache, **options):
    return build_store(listed(folder), installed_readers(), OPTIONS, cache, **options)


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that are really read."""
    seen = []
    kind = Nifti
    real = kind.read
    monkeypatch.setattr(
        kind, "read", lambda self, path, volume=None: seen.append(path.name) or real(self, path, volume)
    )
    return seen


def test_the_store_holds_every_scans_slices_in_order(scans, tmp_path):
    store = build(scans, tmp_path / "cache")
    assert store.slices.shape == (48, 1, 16, 16)
    assert [s.scan.name for s in store.scans] == ["p0", "p1", "p2", "p3"]
    for scan in store.scans:
        expected = prepare(Nifti().read(scan.scan.path), OPTIONS).slices
        assert np.array_equal(store.slices[scan.start : scan.start + scan.count].numpy(), expected)
        assert scan.spacing == pytest.approx(2.0)


def test_the_second_time_nothing_is_read(scans, tmp_path, reads):
    first = build(scans, tmp_path / "cache")
    assert sorted(reads) == ["p0.nii.gz", "p1.nii.gz", "p2.nii.gz", "p3.nii.gz"]
    reads.clear()
    again = build(scans, tmp_path / "cache")
    assert reads == []
    assert torch.equal(first.slices, again.slices)
    assert first.fingerprint == again.fingerprint


def test_only_a_changed_file_is_read_again(scans, tmp_path, reads):
    first = build(scans, tmp_path / "cache")
    reads.clear()
    write_scan(scans / "p2.nii.gz", seed=99)
    changed = build(scans, tmp_path / "cache")
    assert reads == ["p2.nii.gz"]
    assert changed.fingerprint != first.fingerprint
    same = torch.cat([first.slices[:24] == changed.slices[:24], first.slices[36:] == changed.slices[36:]])
    assert same.all()


def test_a_moved_or_renamed_folder_costs_no_reading(scans, tmp_path, reads):
    first = build(scans, tmp_path / "cache")
    reads.clear()
    moved = build(scans.rename(tmp_path / "elsewhere"), tmp_path / "cache")
    assert reads == []
    assert moved.fingerprint == first.fingerprint


def test_other_options_make_other_slices(scans, tmp_path, reads):
    build(scans, tmp_path / "cache")
    reads.clear()
    build_store(listed(scans), installed_readers(), Slicing(size=16, axis="coronal"), tmp_path / "cache")
    assert len(reads) == 4


def test_disk_and_ram_hold_the_same(scans, tmp_path):
    ram = build(scans, tmp_path / "cache", placement="ram")
    disk = build(scans, tmp_path / "cache", placement="disk")
    assert torch.equal(ram.slices, disk.slices[:])
    rows = torch.tensor([3, 40, 3])
    got = disk.gather(rows, torch.device("cpu"))
    assert got.dtype == torch.float32
    assert torch.equal(got, ram.slices[rows].float())


def test_it_stays_on_disk_where_it_does_not_fit_into_memory(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "free_memory", lambda: 100)
    store = build(scans, tmp_path / "cache")
    assert isinstance(store.slices, OnDisk)
    assert store.slices.shape == (48, 1, 16, 16)


def test_a_half_written_or_damaged_cache_file_is_made_anew(scans, tmp_path, reads):
    first = build(scans, tmp_path / "cache")
    reads.clear()
    pieces = sorted((tmp_path / "cache" / "slices").glob("*/*.safetensors"))
    pieces[0].write_bytes(pieces[0].read_bytes()[:100])
    pieces[1].write_bytes(b"")
    again = build(scans, tmp_path / "cache")
    assert len(reads) == 2
    assert torch.equal(first.slices, again.slices)


def test_leftovers_of_a_killed_build_are_removed_at_once_except_where_another_process_writes(scans, tmp_path):
    build(scans, tmp_path / "cache")
    folder, busy, *_ = (tmp_path / "cache" / "slices").iterdir()
    names = (".x.safetensors.1-2.part", ".tmpAbc123")
    left, others = ([place / name for name in names] for place in (folder, busy))
    for file in (*left, *others):
        file.write_bytes(b"half")
    with FileLock(busy / ".lock"):
        build(scans, tmp_path / "cache")
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in others)
    build(scans, tmp_path / "cache")
    assert not any(file.exists() for file in others)


def test_scans_that_cannot_be_read_are_all_named_before_anything_starts(scans, tmp_path):
    (scans / "bad1.nii.gz").write_bytes(b"<html>404</html>")
    (scans / "bad2.nii").write_bytes(b"")
    with pytest.raises(DataError) as error:
        build(scans, tmp_path / "cache")
    for part in ("2 of 6", "bad1.nii.gz", "bad2.nii", "fix them, or continue without them: --skip-bad"):
        assert part in str(error.value)


def test_a_reader_that_fails_by_a_fault_of_its_own_names_the_scan(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(Nifti, "read", lambda self, path, volume=None: 1 / 0)
    with pytest.raises(DataError, match=r"p0\.nii\.gz: reader 'nifti' failed with ZeroDivisionError"):
        build(scans, tmp_path / "cache")


@pytest.mark.parametrize("method", ["read", "files"])
def test_an_error_without_a_number_is_told_in_its_own_words(scans, tmp_path, monkeypatch, method):
    def fail(*_):
        raise OSError("no codec\nof that name")

    monkeypatch.setattr(Nifti, method, fail)
    with pytest.raises(DataError, match=r"p0\.nii\.gz: cannot be read: no codec.+of that name; check it"):
        build(scans, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_told(scans, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SsmtlError, match="choose another --cache"):
        build(scans, tmp_path / "file" / "cache")


def test_skip_bad_goes_on_and_lists_them(scans, tmp_path):
    (scans / "bad1.nii.gz").write_bytes(b"<html>404</html>")
    store = build(scans, tmp_path / "cache", skip_bad=True)
    assert len(store.scans) == 4
    assert [item.name for item in store.skipped] == ["bad1"]
    assert "bad1.nii.gz" in store.skipped[0].reason


def test_nothing_but_bad_scans_is_an_error_even_with_skip_bad(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "bad.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"no scan can be used[\s\S]*bad\.nii\.gz"):
        build(tmp_path / "scans", tmp_path / "cache", skip_bad=True)


def test_a_pair_is_known_by_its_voxels_and_not_by_its_header_alone(tmp_path, reads):
    (tmp_path / "scans").mkdir()
    for name, seed in (("a", 1), ("b", 2)):
        nib.save(nib.Nifti1Pair(blobs(8, seed=seed), np.eye(4)), tmp_path / "scans" / f"{name}.hdr")
    first = build(tmp_path / "scans", tmp_path / "cache")
    assert len(first.scans) == 2
    reads.clear()
    nib.save(nib.Nifti1Pair(blobs(8, seed=3), np.eye(4)), tmp_path / "scans" / "b.hdr")
    second = build(tmp_path / "scans", tmp_path / "cache")
    assert reads == ["b.hdr"]
    assert second.fingerprint != first.fingerprint


def test_memory_is_what_the_container_leaves(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_memory() == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() > 600


def test_a_reader_may_take_a_whole_folder(scans, monkeypatch):
    (scans / "series").mkdir()
    (scans / "series" / "1.dcm").write_text("")

    class Series(Nifti):
        name = "series"

        def matches(self, path):
            return path.name == "series" or super().matches(path)

    found = dataset_of(str(scans)).scans(scans, Readers([Series()]))
    assert [scan.name for scan in found] == ["p0", "p1", "p2", "p3", "series"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda read: None, "TypeError: read() gives NoneType, not a Volume"),
        (lambda read: read.array, "TypeError: read() gives ndarray, not a Volume"),
        (lambda read: replace(read, array=read.array * np.nan), "ValueError: read() gives voxels that are not finite"),
    ],
)
def test_a_reader_that_gives_no_volume_or_no_finite_voxels_is_named_with_the_file(scans, monkeypatch, given, told):
    real = Nifti.read
    monkeypatch.setattr(Nifti, "read", lambda self, path, volume=None: given(real(self, path, volume)))
    with pytest.raises(DataError, match=re.escape(f"p0.nii.gz: reader 'nifti' failed with {told}")):
        installed_readers().read(scans / "p0.nii.gz")
    monkeypatch.setattr(Nifti, "header", lambda self, path: real(self, path))
    with pytest.raises(DataError, match=r"header\(\) gives Volume, not a Header"):
        installed_readers().header(scans / "p0.nii.gz")


def test_a_reader_that_fails_to_say_whether_it_is_for_a_file_is_named_with_the_file(scans):
    class Unsure(Nifti):
        name = "unsure"

        def matches(self, path):
            raise ValueError("cannot tell")

    stamp(Unsure, "unsure-parts 1.0")
    told = r"scans.*: reader 'unsure' of unsure-parts 1.0, asked whether it is for this, failed: ValueError"
    readers = Readers([Unsure()])
    for ask in (readers.of, readers.can_read, lambda _: dataset_of(str(scans)).scans(scans, readers)):
        with pytest.raises(SsmtlError, match=told):
            ask(scans / "p0.nii.gz")


def test_copies_and_links_of_a_scan_count_once(scans, tmp_path):
    shutil.copy(scans / "p0.nii.gz", scans / "zz_copy.nii.gz")
    (scans / "zz_link.nii.gz").symlink_to(scans / "p1.nii.gz")
    image = nib.load(scans / "p2.nii.gz")
    again = nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
    again.header["descrip"] = b"saved again"
    nib.save(again, scans / "zz_plain.nii")
    store = build(scans, tmp_path / "cache")
    assert len(store.scans) == 4
    assert sorted(item.name for item in store.skipped) == ["zz_copy", "zz_link", "zz_plain"]
    assert all("has the same voxels as" in item.reason for item in store.skipped)


def test_the_size_is_changed_without_reading_labels_or_hidden_files(scans, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(scans, root / "images")
    shutil.copytree(scans, root / "labels")
    (root / "images" / "._p0.nii.gz").write_bytes(b"\0\5\x16\7")
    found = listed(root)
    assert [scan.name for scan in found] == ["p0", "p1", "p2", "p3"]
    assert all(scan.label == root / "labels" / scan.path.name for scan in found)


def test_folders_that_link_to_themselves_are_visited_once(scans):
    (scans / "loop").symlink_to(scans)
    assert len(listed(scans)) == 4


def test_an_empty_or_missing_folder_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no scan found"):
        listed(tmp_path / "empty")
    with pytest.raises(DataError, match="no such file or folder"):
        listed(tmp_path / "missing")


def test_mmwhs_names_are_found_with_their_labels(tmp_path):
    for name in ("ct_train_1002", "ct_train_1001", "mr_train_1001", "ct_test_2001"):
        write_scan(tmp_path / "MM-WHS" / "deep" / f"{name}_image.nii.gz")
    write_scan(tmp_path / "MM-WHS" / "deep" / "ct_train_1001_label.nii.gz")
    spec = dataset_of(f"mmwhs:{tmp_path / 'MM-WHS'}")
    found = spec.scans(tmp_path, installed_readers())
    assert [scan.patient for scan in found] == ["ct_1001", "ct_1002"]
    assert [scan.label is not None for scan in found] == [True, False]
    every = dataset_of(f"mmwhs:{tmp_path / 'MM-WHS'},test=true").scans(tmp_path, installed_readers())
    assert [scan.patient for scan in every] == ["ct_1001", "ct_1002", "ct_2001"]
    assert spec.suggested()["epochs"] == 100


def test_a_4d_file_wants_to_know_which_volume(tmp_path):
    series = np.stack([blobs(8), blobs(8, seed=5)], axis=-1)
    (tmp_path / "scans").mkdir()
    nib.save(nib.Nifti1Image(series, np.eye(4)), tmp_path / "scans" / "fmri.nii.gz")
    with pytest.raises(DataError, match="--volume"):
        build(tmp_path / "scans", tmp_path / "cache")
    store = build_store(listed(tmp_path / "scans"), installed_readers(), Slicing(size=16, volume=1), tmp_path / "cache")
    nib.save(nib.Nifti1Image(series[..., 1], np.eye(4)), tmp_path / "one.nii.gz")
    alone = build(tmp_path / "one.nii.gz", tmp_path / "cache")
    assert torch.equal(store.slices, alone.slices)


def test_a_scan_that_the_container_has_no_room_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "whole_memory", memory.whole_memory.__wrapped__)  # which looks again each time
    memory.check_memory((100, 100, 100), np.dtype(np.int16))
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("0\n")
    with pytest.raises(FileError, match=r"needs 0\.0 GiB of memory, more than half .* \(100 x 100 x 100\)"):
        memory.check_memory((100, 100, 100), np.dtype(np.int16))


def test_threads_try_every_number_once_and_an_error_that_is_not_handled_ends_the_rest():
    tried, ended = [], {}

    def act(number):
        tried.append(number)
        if number % 100 == 7:
            raise ValueError(number)

    for_each(1000, act, ended.__setitem__)
    assert sorted(tried) == sorted(ended) == list(range(1000))
    assert {number for number, error in ended.items() if isinstance(error, ValueError)} == set(range(7, 1000, 100))
    tried.clear()
    with pytest.raises(ValueError, match=r"7$"):
        for_each(10**6, act)
    assert len(tried) < 10**6

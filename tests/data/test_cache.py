"""What is damaged in the cache is noticed when it is opened, told, and made anew: never other slices without a word."""

import errno
import json
import os
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors import safe_open
from safetensors.numpy import save_file

from helpers.small import write_scan
from helpers.stores import OPTIONS, listed
from ssmtl_toolkit.data import files
from ssmtl_toolkit.data.files import DigestMemo, Waiting
from ssmtl_toolkit.data.store import build_store
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.runtime.scans import installed_readers


@pytest.fixture
def build(scans, tmp_path):
    """Build the store of the four scans; its notes are in `build.notes`."""

    def build(placement="ram"):
        build.notes = []
        waiting = Waiting(note=build.notes.append)
        return build_store(
            listed(scans), installed_readers(), OPTIONS, tmp_path / "cache", placement=placement, waiting=waiting
        )

    return build


def pieces(tmp_path):
    return sorted((tmp_path / "cache" / "slices").glob("*/*.safetensors"))


def contents(file):
    with safe_open(file, "numpy") as opened:
        return opened.get_tensor("slices"), opened.metadata()


def flip(file, where):
    data = bytearray(file.read_bytes())
    data[where] ^= 0x10
    file.write_bytes(bytes(data))


def zero_second_half(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def exchange(file, other):
    kept = file.read_bytes()
    shutil.copy(other, file)
    other.write_bytes(kept)


def resealed(change_slices=lambda slices: slices, **changes):
    """Write the file as the library would, with other voxels or other metadata and the old seal."""

    def damage(file):
        slices, said = contents(file)
        about = json.dumps({**json.loads(said["about"]), **changes})
        save_file({"slices": change_slices(slices)}, file, {**said, "about": about})

    return damage


DAMAGES = {
    "a flipped bit in the last voxel": lambda file: flip(file, -1),
    "a flipped bit in the middle": lambda file: flip(file, file.stat().st_size // 2),
    "a flipped bit in the header": lambda file: flip(file, 40),
    "a zeroed half": zero_second_half,
    "other voxels": resealed(lambda slices: np.ascontiguousarray(slices[::-1])),
    "fewer slices": resealed(lambda slices: slices[:-1].copy()),
    "another shape": resealed(lambda slices: slices.reshape(-1, 8, 32)),
    "another type": resealed(lambda slices: slices.view(np.int16)),
    "another count": resealed(count=11),
    "another spacing": resealed(spacing=9.0),
    "no spacing": resealed(spacing=None),
    "NaN for spacing": resealed(spacing=float("nan")),
    "odd notes": resealed(notes={"a": 1}),
    "unknown fields": resealed(more=1),
    "nested metadata": lambda file: save_file({"slices": contents(file)[0]}, file, {"about": "[" * 5000, "seal": "x"}),
    "no metadata": lambda file: save_file({"slices": contents(file)[0]}, file),
    "another tensor": lambda file: save_file({"other": contents(file)[0]}, file, contents(file)[1]),
    "nothing": lambda file: file.write_bytes(b""),
    "a cut end": lambda file: file.write_bytes(file.read_bytes()[:-10]),
}


@pytest.mark.parametrize("placement", ["ram", "disk"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_piece_is_made_anew_and_told(damage, placement, build, tmp_path):
    first = build(placement)
    kept = first.slices[:].clone()
    damage(pieces(tmp_path)[1])
    again = build(placement)
    assert torch.equal(kept, again.slices[:])
    assert [(s.start, s.count, s.spacing, s.notes) for s in first.scans] == [
        (s.start, s.count, s.spacing, s.notes) for s in again.scans
    ]
    assert len(build.notes) == 1
    assert pieces(tmp_path)[1].name in build.notes[0]
    assert "damaged" in build.notes[0]
    build(placement)
    assert build.notes == []


def test_only_slices_that_stay_on_disk_are_waited_for_and_before_the_memo_says_that_they_are_whole(
    build, tmp_path, monkeypatch
):
    synced = []

    def noted(descriptor, sync=os.fsync):
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    build("ram")
    written = {file.stat().st_ino for file in pieces(tmp_path)}
    assert not written & set(synced)
    build("disk")
    memo = next(tmp_path.rglob("digests.json")).stat().st_ino
    assert written <= set(synced[: synced.index(memo)])


def test_slices_on_a_disk_that_is_only_read_and_knows_no_fsync_are_used(build, tmp_path, monkeypatch):
    first = build("ram")
    written = {file.stat().st_ino for file in pieces(tmp_path)}

    def refused(descriptor, sync=os.fsync):
        if os.fstat(descriptor).st_ino in written:
            raise OSError(errno.EINVAL, "as of squashfs")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    assert torch.equal(build("disk").slices[:], first.slices)


def test_exchanged_pieces_are_noticed_though_each_is_whole(build, tmp_path):
    first = build()
    exchange(*pieces(tmp_path)[:2])
    again = build()
    assert torch.equal(first.slices, again.slices)
    assert len(build.notes) == 2


def test_a_piece_of_other_options_in_its_place_is_noticed(build, scans, tmp_path):
    first = build()
    other = build_store(
        listed(scans), installed_readers(), OPTIONS.model_copy(update={"axis": "coronal"}), tmp_path / "other"
    )
    assert len(other.scans) == 4
    shutil.copy(next((tmp_path / "other" / "slices").glob("*/*.safetensors")), pieces(tmp_path)[0])
    assert torch.equal(first.slices, build().slices)
    assert len(build.notes) == 1


def test_a_folder_in_the_place_of_a_piece_is_one_clear_line(build, tmp_path):
    build()
    file = pieces(tmp_path)[0]
    file.unlink()
    (file / "inside").mkdir(parents=True)
    with pytest.raises(SsmtlError, match=r"the cache cannot be written .*; choose another --cache"):
        build()


def memo_of(tmp_path):
    return tmp_path / "cache" / "digests.json"


MEMOS = {
    "the digests of two scans exchanged": lambda known: dict(
        zip(
            known,
            [[*a[:4], b[4], a[5]] for a, b in zip(known.values(), [*known.values()][::-1], strict=True)],
            strict=True,
        )
    ),
    "entries exchanged": lambda known: dict(zip(known, [*known.values()][::-1], strict=True)),
    "one digit": lambda known: {
        k: [*v[:4], v[4][:-1] + ("0" if v[4][-1] != "0" else "1"), v[5]] for k, v in known.items()
    },
    "numbers for entries": lambda known: dict.fromkeys(known, 7),
    "short entries": lambda known: {k: v[:3] for k, v in known.items()},
    "a list": lambda known: [known],
    "a name that is no text": lambda known: {**known, "\ud800": [1, 2, 3, 4, "\ud800", "x"]},
}


@pytest.mark.parametrize("change", MEMOS.values(), ids=MEMOS)
def test_a_wrong_digest_in_the_memo_is_not_believed(change, build, tmp_path):
    first = build()
    known = json.loads(memo_of(tmp_path).read_text())
    memo_of(tmp_path).write_text(json.dumps(change(known)))
    again = build()
    assert torch.equal(first.slices, again.slices)
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\udcff"])
def test_a_memo_that_cannot_be_read_costs_time_only(text, build, tmp_path):
    first = build()
    memo_of(tmp_path).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert torch.equal(first.slices, build().slices)
    assert build.notes == []


@pytest.mark.parametrize("place", ["digests.json", "digests.json.lock"])
def test_a_memo_that_cannot_be_written_is_told_and_stops_nothing(place, build, tmp_path):
    (tmp_path / "cache" / place / "x").mkdir(parents=True)
    assert len(build().scans) == 4
    assert len(build.notes) == 1
    assert "digests.json: could not be written" in build.notes[0]


def test_digests_are_known_the_next_time(scans, tmp_path):
    memo = DigestMemo(tmp_path / "digests.json")
    before = memo(scans / "p0.nii.gz")
    assert memo.save() == ""
    entry = json.loads((tmp_path / "digests.json").read_text())
    assert [values[4] for values in entry.values()] == [before]
    assert DigestMemo(tmp_path / "digests.json")._known.keys() == entry.keys()


def test_who_waits_for_a_lock_of_the_cache_says_so_and_can_be_interrupted(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PATIENCE", 0.2)
    notes, asked = [], []

    class LeftError(Exception):
        pass

    def check():
        asked.append(1)
        if len(asked) > 4:
            raise LeftError

    for number in range(256):
        (tmp_path / "cache" / "slices" / f"{number:02x}").mkdir(parents=True)
    locks = [FileLock(folder / ".lock") for folder in (tmp_path / "cache" / "slices").iterdir()]
    for lock in locks:
        lock.acquire()
    with pytest.raises(LeftError):
        build_store(
            listed(scans),
            installed_readers(),
            OPTIONS,
            tmp_path / "cache",
            waiting=Waiting(check=check, note=notes.append),
        )
    assert any(".lock: this lock is held by another process" in note for note in notes)
    for lock in locks:
        lock.release()


def test_a_lock_that_is_released_is_taken(scans, tmp_path):
    lock = FileLock(tmp_path / "lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    started = time.monotonic()
    with files.holding(tmp_path / "lock", Waiting()):
        assert time.monotonic() - started > 0.2


def test_a_run_tells_of_a_damaged_cache_and_ends_with_the_same_weights(scans, ssmtl, tmp_path):
    options = ["--data", scans, "--size", 16, "--steps", 2, "--backbone", "unet:encoder=plain,width=8"]
    options += ["--task", "reconstruct_next:t=1"]
    assert ssmtl("run", *options, "--out", "a").returncode == 0
    (piece, *_) = sorted(tmp_path.rglob("slices/*/*.safetensors"))
    zero_second_half(piece)
    done = ssmtl("run", *options, "--out", "b")
    assert done.returncode == 0
    assert "is damaged; the slices of p" in done.stderr
    weights = []
    for out in ("a", "b"):
        with safe_open(tmp_path / out / "backbone.safetensors", "pt") as opened:
            weights.append({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_scan_written_anew_is_not_taken_for_damage(build, scans):
    build()
    write_scan(scans / "p2.nii.gz", seed=99)
    build()
    assert build.notes == []

"""Data given by URL are the data of a folder: fetched once, again when they change, and never half or elsewhere."""

import contextlib
import json
import os
import subprocess
import sys
import time

import fsspec
import nibabel as nib
import numpy as np
import pytest

from helpers.disks import small_disk
from helpers.places import ROOT
from helpers.small import write_pair, write_scan
from helpers.web import served
from ssmtl_toolkit.data.files import Waiting
from ssmtl_toolkit.disk import UnwritableError
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.remote.failures import RemoteError
from ssmtl_toolkit.remote.mirror import ROOM, Mirror
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.sources import Remote, dataset_of


@pytest.fixture
def web(tmp_path):
    """A server of two labelled scans, with a file that nobody reads."""
    for i in range(2):
        write_pair(tmp_path / "there" / "set", f"p{i}", seed=i)
    (tmp_path / "there" / "set" / "all.zip").write_bytes(b"PK")
    with served(tmp_path / "there") as server:
        yield server


def update(url, cache, **waiting):
    """The mirror of a URL, and what was said."""
    notes = []
    place = Mirror(url, cache, Waiting(note=notes.append, **waiting)).update(lambda name: False)
    return place, notes


def in_memory(folder, place):
    """Copy a folder into fsspec's memory file system; returns its address."""
    files = fsspec.filesystem("memory")
    for file in folder.rglob("*"):
        if file.is_file():
            files.pipe_file(f"/{place}/{file.relative_to(folder)}", file.read_bytes())
    return f"memory://{place}"


def names_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["http", "memory", "file"])
def test_what_is_at_a_url_is_the_data_of_the_folder(web, tmp_path, kind):
    folder = web.folder / "set"
    url = {"http": f"{web.url}/set", "file": f"file://{folder}"}.get(kind) or in_memory(folder, f"{tmp_path.name}/set")
    here, there = dataset_of(folder), dataset_of(url)
    scans, fetched = list_scans(here, tmp_path / "c"), list_scans(there, tmp_path / "c")
    assert [(s.name, s.patient, s.label.name) for s in fetched] == [(s.name, s.patient, s.label.name) for s in scans]
    assert there.layout() == here.layout()
    for one, other in zip(scans, fetched, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        assert one.label.read_bytes() == other.label.read_bytes()
        assert (tmp_path / "c" / ROOM) in other.path.parents
    assert not list((tmp_path / "c").rglob("*.zip"))


def test_the_second_start_fetches_what_has_changed_and_nothing_else(web, tmp_path):
    place, notes = update(f"{web.url}/set", tmp_path / "c")
    assert sum(web.files_fetched().values()) == 4
    assert "4 files fetched" in notes[-1]
    before = {name: (place / name).stat() for name in names_of(place)}
    assert update(f"{web.url}/set", tmp_path / "c") == (place, [])
    assert web.files_fetched() == {}
    assert {name: (place / name).stat().st_ino for name in names_of(place)} == {n: s.st_ino for n, s in before.items()}

    write_pair(web.folder / "set", "p1", seed=7)
    write_pair(web.folder / "set", "p2", seed=8)
    for part in ("images", "labels"):
        (web.folder / "set" / part / "p0.nii.gz").unlink()
        os.utime(web.folder / "set" / part / "p1.nii.gz", (1e9, 1e9))
    _, notes = update(f"{web.url}/set", tmp_path / "c")
    assert set(web.files_fetched()) == {f"/set/{part}/p{i}.nii.gz" for part in ("images", "labels") for i in (1, 2)}
    assert names_of(place) == [f"{part}/p{i}.nii.gz" for part in ("images", "labels") for i in (1, 2)]
    assert any("2 files removed here" in note for note in notes)
    for name in names_of(place):
        assert (place / name).read_bytes() == (web.folder / "set" / name).read_bytes()


def test_a_file_that_is_dated_anew_with_the_same_content_stays_as_it_is(web, tmp_path):
    place, _ = update(f"{web.url}/set", tmp_path / "c")
    before = (place / "images" / "p0.nii.gz").stat()
    os.utime(web.folder / "set" / "images" / "p0.nii.gz", (1e9, 1e9))
    update(f"{web.url}/set", tmp_path / "c")
    after = (place / "images" / "p0.nii.gz").stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    web.files_fetched()
    update(f"{web.url}/set", tmp_path / "c")
    assert web.files_fetched() == {}


def test_a_file_that_was_damaged_or_removed_here_is_fetched_again(web, tmp_path):
    place, _ = update(f"{web.url}/set", tmp_path / "c")
    (place / "images" / "p0.nii.gz").write_bytes(b"other")
    (place / "images" / "p1.nii.gz").unlink()
    (place / "labels" / "p0.nii.gz").unlink()
    (place / "labels" / "p0.nii.gz").symlink_to("/etc/hostname")
    (place / "more.nii.gz").write_bytes(b"not there")
    web.files_fetched()
    update(f"{web.url}/set", tmp_path / "c")
    assert len(web.files_fetched()) == 3
    for name in names_of(web.folder / "set"):
        assert name == "all.zip" or (place / name).read_bytes() == (web.folder / "set" / name).read_bytes()
    assert not any(path.is_symlink() for path in place.rglob("*"))
    assert not (place / "more.nii.gz").exists()


def test_a_server_that_says_no_dates_is_asked_for_all_files_again_and_equal_ones_stay(web, tmp_path):
    web.undated = True
    place, notes = update(f"{web.url}/set", tmp_path / "c")
    assert any("says neither date nor version" in note for note in notes)
    before = {name: (place / name).stat().st_ino for name in names_of(place)}
    web.files_fetched()
    update(f"{web.url}/set", tmp_path / "c")
    assert sum(web.files_fetched().values()) == 4
    assert {name: (place / name).stat().st_ino for name in names_of(place)} == before


def test_packed_files_come_as_they_are_even_if_the_server_takes_the_packing_for_its_own(web, tmp_path):
    web.packing = True
    place, _ = update(f"{web.url}/set", tmp_path / "c")
    for name in names_of(place):
        assert (place / name).read_bytes() == (web.folder / "set" / name).read_bytes()
    web.files_fetched()
    update(f"{web.url}/set", tmp_path / "c")
    assert web.asked["GET /set/"] == 1


def test_what_breaks_off_is_asked_for_again_and_after_three_times_it_is_said(web, tmp_path, monkeypatch):
    monkeypatch.setattr("ssmtl_toolkit.remote.failures._PAUSES", (0.01, 0.01))
    web.cut = {"/set/images/p0.nii.gz": 2}
    web.answers = {"/set/labels/p1.nii.gz": [503, 503, 429]}
    place, _ = update(f"{web.url}/set", tmp_path / "c")
    assert (place / "images" / "p0.nii.gz").read_bytes() == (web.folder / "set/images/p0.nii.gz").read_bytes()

    web.cut = {"/set/images/p0.nii.gz": 100}
    with pytest.raises(RemoteError, match=r"^http://127.0.0.1:\d+/set/images/p0.nii.gz: cannot be reached \(") as error:
        update(f"{web.url}/set", tmp_path / "d")
    assert "try again" in str(error.value)
    assert "\n" not in str(error.value)
    assert not [file for file in (tmp_path / "d").rglob("*p0.nii.gz*") if file.parent.name == "images"]
    web.cut = {}
    web.files_fetched()
    update(f"{web.url}/set", tmp_path / "d")
    assert 1 <= sum(web.files_fetched().values()) < 4


def code_of(url, cache):
    return (
        "import sys; from pathlib import Path; from ssmtl_toolkit.data.files import Waiting\n"
        "from ssmtl_toolkit.remote.mirror import Mirror\n"
        f"try: Mirror({url!r}, Path({str(cache)!r}), Waiting(note=print)).update(lambda name: False)\n"
        "except Exception as error: sys.exit(f'{type(error).__name__}: {error}')\n"
    )


def started(code, **options):
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE, **options)


def noted(folder):
    """How many files the journals say were fetched; a line is written after its file."""
    return sum(journal.read_text().count("\n") for journal in folder.rglob("files.jsonl"))


def test_a_kill_leaves_no_half_file_and_whole_ones_are_not_fetched_again(web, tmp_path):
    web.stalls = {"/set/images/p1.nii.gz"}
    process = started(code_of(f"{web.url}/set", tmp_path / "c"))
    files = tmp_path / "c" / ROOM
    until = time.monotonic() + 30
    while time.monotonic() < until and noted(files) < 3:
        time.sleep(0.02)
    while time.monotonic() < until and not any(file.stat().st_size for file in files.rglob("*.part")):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert len(list(files.rglob("p*.nii.gz"))) == 3
    web.stalls = set()
    web.go.set()
    web.files_fetched()
    place, _ = update(f"{web.url}/set", tmp_path / "c")
    assert web.files_fetched() == {"/set/images/p1.nii.gz": 1}
    for name in names_of(place):
        assert (place / name).read_bytes() == (web.folder / "set" / name).read_bytes()
    assert not list(files.rglob("*.part"))


def test_ctrl_c_ends_a_download_soon_and_leaves_no_half_file(web, tmp_path):
    web.stalls = {"/set/images/p1.nii.gz"}
    pressed = []

    def check():
        if any((tmp_path / "c").rglob("*.part")):
            pressed.append(time.monotonic())
            web.go.set()
            raise SsmtlError("stopped by Ctrl-C")

    with pytest.raises(SsmtlError, match="stopped by Ctrl-C"):
        update(f"{web.url}/set", tmp_path / "c", check=check)
    assert time.monotonic() - pressed[0] < 5
    assert not list((tmp_path / "c").rglob("*.part"))


def test_two_processes_with_one_url_fetch_each_file_once(web, tmp_path):
    code = code_of(f"{web.url}/set", tmp_path / "c")
    both = [started(code), started(code)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert set(web.files_fetched().values()) == {1}


def test_what_another_process_uses_is_not_changed_under_it_and_more_may_come(web, tmp_path):
    place, _ = update(f"{web.url}/set", tmp_path / "c")
    other = started(
        code_of(f"{web.url}/set", tmp_path / "c") + "print('ready', flush=True); input()", stdin=subprocess.PIPE
    )
    try:
        assert other.stdout.readline() == "ready\n"
        update(f"{web.url}/set", tmp_path / "c")
        write_pair(web.folder / "set", "p2", seed=2)
        update(f"{web.url}/set", tmp_path / "c")
        assert (place / "images" / "p2.nii.gz").is_file()
        write_pair(web.folder / "set", "p0", seed=5)
        os.utime(web.folder / "set" / "images" / "p0.nii.gz", (1e9, 1e9))
        before = (place / "images" / "p0.nii.gz").read_bytes()
        with pytest.raises(DataError, match=rf"has changed there, and process {other.pid} uses what was fetched"):
            update(f"{web.url}/set", tmp_path / "c")
        (web.folder / "set" / "images" / "p1.nii.gz").unlink()
        with pytest.raises(DataError, match=r"p1.nii.gz is no longer there, and process"):
            update(f"{web.url}/set", tmp_path / "c")
        assert (place / "images" / "p0.nii.gz").read_bytes() == before
        assert (place / "images" / "p1.nii.gz").is_file()
    finally:
        other.communicate("\n")
    update(f"{web.url}/set", tmp_path / "c")
    assert (place / "images" / "p0.nii.gz").read_bytes() != before


def test_without_a_network_old_files_are_named_and_not_used_by_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr("ssmtl_toolkit.remote.failures._PAUSES", (0.01, 0.01))
    write_scan(tmp_path / "there" / "set" / "a.nii.gz")
    with served(tmp_path / "there") as server:
        url = f"{server.url}/set"
        with pytest.raises(RemoteError, match="there is no such file, folder or bucket") as missing:
            update(f"{server.url}/sett", tmp_path / "c")
        assert "holds what was there" not in str(missing.value)
        place, _ = update(url, tmp_path / "c")
    with pytest.raises(RemoteError, match=r"cannot be reached .* try again, or give ") as error:
        update(url, tmp_path / "c")
    assert f"{place}, which holds what was there at 2" in str(error.value)
    assert [scan.name for scan in list_scans(dataset_of(place), tmp_path / "c")] == ["a"]
    with pytest.raises(RemoteError, match=r"try again$"):
        update(url, tmp_path / "d")


def test_half_a_mirror_is_not_offered(tmp_path, monkeypatch):
    monkeypatch.setattr("ssmtl_toolkit.remote.failures._PAUSES", (0.01, 0.01))
    for i in range(2):
        write_scan(tmp_path / "there" / f"{i}.nii.gz", seed=i)
    with served(tmp_path / "there") as server:
        update(server.url, tmp_path / "c")
        write_scan(tmp_path / "there" / "2.nii.gz")
        server.cut = {"/2.nii.gz": 100}
        with pytest.raises(RemoteError, match=r"/2.nii.gz: cannot be reached"):
            update(server.url, tmp_path / "c")
    with pytest.raises(RemoteError, match=r"try again$"):
        update(server.url, tmp_path / "c")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s4://bucket/x", "s4://bucket/x: 's4' is no kind of address that fsspec knows; did you mean 's3'"),
        ("dropbox://x", r"dropbox://x: a package is missing (.*): pip install dropboxdrivefs"),
        ("memory://nothing/here", "memory://nothing/here: there is no such file, folder or bucket; check the address"),
        ("http://127.0.0.1:9/x", r"http://127.0.0.1:9/x: cannot be reached \(.*\); check the address and the network"),
        ("zip://x.zip", r"zip://x.zip: cannot be read \(.*\); check the address"),
    ],
)
def test_what_cannot_be_had_is_one_line_with_what_to_do(tmp_path, monkeypatch, url, message):
    monkeypatch.setattr("ssmtl_toolkit.remote.failures._PAUSES", (0.01, 0.01))
    with pytest.raises(SsmtlError, match=message) as error:
        list_scans(dataset_of(url), tmp_path / "c")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "c").rglob("complete"))


def test_credentials_come_from_netrc_and_without_them_it_says_so(web, tmp_path, monkeypatch):
    web.password = "me:secret"
    with pytest.raises(RemoteError, match=r"may not be read or listed \(.*401.*\); .*~/.netrc"):
        update(f"{web.url}/set", tmp_path / "c")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    update(f"{web.url}/set", tmp_path / "c")
    assert not [file for file in (tmp_path / "c").rglob("*") if file.is_file() and b"secret" in file.read_bytes()]


def test_a_file_is_given_by_its_url_with_those_that_it_needs(web, tmp_path):
    def scans(url):
        return [(scan.name, scan.path.name) for scan in list_scans(dataset_of(url), tmp_path / "c")]

    assert scans(f"{web.url}/set/images/p0.nii.gz") == [("p0", "p0.nii.gz")]
    assert set(web.files_fetched()) == {"/set/images/p0.nii.gz"}
    (web.folder / "list.csv").write_text("image,label\nset/images/p1.nii.gz,set/labels/p1.nii.gz\n")
    assert (
        scans(f"{web.url}/list.csv") == [("set/images/p1", "p1.nii.gz")]
        or scans(f"{web.url}/list.csv")[0][1] == "p1.nii.gz"
    )
    nib.save(nib.Nifti1Pair(np.arange(2000, dtype=np.int16).reshape(20, 10, 10), np.eye(4)), web.folder / "pair.hdr")
    assert scans(f"{web.url}/pair.hdr") == [("pair", "pair.hdr")]
    assert {"/pair.hdr", "/pair.img"} <= set(web.files_fetched())


def test_what_does_not_fit_on_the_disk_is_said_before_anything_is_fetched(tmp_path):
    (tmp_path / "there").mkdir()
    with (tmp_path / "there" / "a.nii").open("wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(SsmtlError, match=r"8.8e\+03 GB are to be fetched into .*, and .* free there; free some space"):
        update(f"file://{tmp_path}/there", tmp_path / "c")


def test_a_disk_that_gets_full_is_one_line_and_whole_files_are_kept(web, tmp_path):
    (web.folder / "set" / "large.nii").write_bytes(os.urandom(1 << 19))
    web.stalls = {"/set/large.nii"}
    cache = tmp_path / "disk"

    def check():
        if noted(cache) == 4 and not web.go.is_set():
            with contextlib.suppress(OSError), (cache / "filler").open("wb", buffering=0) as filler:
                while filler.write(bytes(4096)):
                    pass
            web.go.set()

    with small_disk(cache):
        with pytest.raises(UnwritableError, match=r"large.nii: the cache cannot be written \(No space left on device,"):
            update(f"{web.url}/set", cache, check=check)
        assert not list(cache.rglob("*.part"))
        assert len(list(cache.rglob("p*.nii.gz"))) == 4
        (cache / "filler").unlink()
        web.files_fetched()
        update(f"{web.url}/set", cache)
        assert "/set/large.nii" in web.files_fetched()


def test_a_folder_that_may_not_be_read_there_is_not_taken_for_one_that_is_gone(web, tmp_path):
    place, _ = update(f"{web.url}/set", tmp_path / "c")
    web.answers = {"/set/labels/": [403, 403]}
    with pytest.raises(RemoteError, match="may not be read or listed"):
        update(f"{web.url}/set", tmp_path / "c")
    assert len(names_of(place)) == 4


def test_the_journal_may_be_damaged_anywhere(web, tmp_path):
    place, _ = update(f"{web.url}/set", tmp_path / "c")
    journal = place.parent.parent / "files.jsonl"
    whole = journal.read_bytes()
    for content in (whole[: len(whole) // 2], b"[1]\n{}\n\xff\n" + whole, b"[" * 100_000, b"", b'["a", 1, 2, 3, 4]\n'):
        journal.write_bytes(content)
        update(f"{web.url}/set", tmp_path / "c")
        assert sorted(map(json.loads, journal.read_text().splitlines())) == sorted(
            map(json.loads, whole.decode().splitlines())
        )


def test_a_url_reads_back_and_options_say_as_what_it_is_taken(tmp_path):
    for text in ("s3://bucket/scans", "bids:s3://openneuro/ds1,suffix=T2w", "mmwhs:root=gs://b/x,modality=mr"):
        spec = dataset_of(text)
        assert isinstance(spec, Remote)
        for written in (str(spec), spec.full()):
            assert dataset_of(written) == spec
    assert dataset_of("s3://bucket/scans/") == dataset_of("S3://bucket/scans")
    assert dataset_of(["s3://b/one/images", "s3://b/two/images"]).labels == ["one/images", "two/images"]
    assert dataset_of("mmwhs:gs://b/x,modality=mr").suggested()["axis"] == "sagittal"
    with pytest.raises(UsageError, match="is given twice"):
        dataset_of(["s3://b/x", "s3://b/x/"])
    with pytest.raises(UsageError, match="did you mean 'suffix'"):
        dataset_of("bids:s3://b/x,sufix=T2w")

"""Names that another machine gives lead to files below the mirror, or to none."""

import os
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssmtl_toolkit.data.files import Waiting
from ssmtl_toolkit.places import address, check_secrets, is_url, without_secrets
from ssmtl_toolkit.remote import names
from ssmtl_toolkit.remote.mirror import Mirror

ODD = ["..", ".", "", "a", "A", "b.nii.gz", "~", "-rf", "\\", "C:", "a\nb", "\x1b[31m", "\0", "x" * 300, "é"]
PARTS = st.one_of(st.sampled_from(ODD), st.text(min_size=1, max_size=8))
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)


@given(PATHS)
def test_a_name_that_is_taken_is_that_of_a_file_below_the_folder(name):
    if names.problem(name):
        return
    place = Path(os.path.normpath(f"/mirror/files/{name}"))
    assert place.is_relative_to("/mirror/files")
    assert place.relative_to("/mirror/files").as_posix() == name
    os.fsencode(name)


def fill(bucket, listed):
    """Put files of these names into fsspec's memory file system, whatever they are."""
    files = fsspec.filesystem("memory")
    files.pipe_file(f"/{bucket}", b"")
    for name in listed:
        files.store[f"/{bucket}/{name}"] = MemoryFile(files, name, content(name))
    del files.store[f"/{bucket}"]


def content(name):
    return name.encode(errors="surrogatepass") * 10


@settings(max_examples=25)
@example(["./a/..", "a"])  # a name that is refused makes no folder of another one
@given(st.lists(PATHS.filter(lambda name: name and not name.endswith("/")), min_size=1, max_size=6, unique=True))
def test_whatever_a_bucket_holds_files_are_written_below_the_mirror_alone(tmp_path_factory, listed):
    listed = [name for name in listed if not any(other.startswith(f"{name}/") for other in listed)]  # see below
    folder, notes = tmp_path_factory.mktemp("names"), []
    fill(folder.name, [*listed, "always.nii"])
    place = Mirror(f"memory://{folder.name}", folder / "c", Waiting(note=notes.append)).update(lambda name: False)
    fsspec.filesystem("memory").store.clear()
    written = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    got = {path.relative_to(place).as_posix() for path in written if place in path.parents}
    ours = {path.name for path in written if place not in path.parents and path.suffix != ".lock"}
    assert ours == {".lock", "complete", "files.jsonl"}
    assert not any(path.is_symlink() for path in written)
    for name in got:
        assert (place / name).read_bytes() == content(name)
    refused = {name for name in listed if names.problem(name)}
    wanted = {name for name in listed if not names.is_hidden(name) and not names.is_never_read(name)}
    assert got == {"always.nii"} | (wanted - refused)
    assert bool(refused) == any("not fetched" in note for note in notes)


def test_a_name_that_is_a_file_and_a_folder_in_a_bucket_is_found():
    assert names.folders_too(["a", "a/b", "a/b/c", "ab", "d/e"]) == {"a", "a/b"}


def test_names_that_a_disk_without_case_would_merge_are_found():
    assert names.alike(["a/x.nii", "A/y.nii", "b/z.nii", "b/Z.nii"]) == [["A", "a"], ["b/Z.nii", "b/z.nii"]]
    assert names.alike(["\u00e9.nii", "e\u0301.nii"]) == [["e\u0301.nii", "\u00e9.nii"]]
    assert names.alike(["a/x.nii", "a/y.nii"]) == []


SECRET = st.text(st.characters(categories=["L", "N"], include_characters=":!$&*+,;=%-_.~"), min_size=6, max_size=20)


@given(SECRET, SECRET, st.sampled_from(["s3", "https", "sftp", "gs", "webdav"]))
def test_secrets_of_urls_are_neither_shown_nor_taken(user, password, kind):
    for url in (f"{kind}://{user}x:Pass{password}word@host/a/b", f"{kind}://host/a?X-Sig=Pass{password}word"):
        for text in (url, f"bids:{url},suffix=T2w", f"error at '{url}' (401)"):
            assert f"Pass{password}word" not in without_secrets(text)
            with pytest.raises(Exception, match=r"put credentials into ~/.netrc") as error:
                check_secrets(text)
            assert f"Pass{password}word" not in str(error.value)
        with pytest.raises(Exception, match=r"put credentials into ~/.netrc"):
            address(url)


@given(st.text(max_size=30))
def test_what_is_no_url_stays_as_it_is(text):
    if "://" not in text:
        assert without_secrets(f"folder:/data/{text}") == f"folder:/data/{text}"
        assert not is_url(f"/data/{text}")
    assert without_secrets(without_secrets(text)) == without_secrets(text)

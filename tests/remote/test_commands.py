"""Every command takes data by URL, records it so that it reads back, and lets no secret out."""

import json
import os
import subprocess
import sys
import tomllib

import pytest

from helpers.places import ROOT
from helpers.small import SMALL, write_pair
from helpers.web import served
from ssmtl_toolkit.config.finetune import FinetuneConfig
from ssmtl_toolkit.remote.mirror import ROOM
from ssmtl_toolkit.sources import dataset_of


@pytest.fixture
def web(tmp_path):
    for i in range(4):
        write_pair(tmp_path / "there" / "set", f"p{i}", seed=i)
    with served(tmp_path / "there") as server:
        yield server


def slices(cache):
    return {file.name: file.stat().st_mtime_ns for file in (cache / "slices").rglob("*") if file.is_file()}


@pytest.mark.slow
def test_a_run_by_url_repeats_from_its_run_toml_and_prepares_no_slices_again(web, ssmtl, tmp_path):
    options = ["--backbone", SMALL, "--size", 32, "--steps", 2, "--batch-size", 4, "--task", "reconstruct_prev:t=1"]
    done = ssmtl("run", "--data", f"{web.url}/set", *options, "--out", "one")
    assert done.returncode == 0, done.stderr
    assert "8 files fetched" in done.stderr
    written = tomllib.loads((tmp_path / "one" / "run.toml").read_text())
    assert dataset_of(written["data"]) == dataset_of(f"{web.url}/set")
    cache = tmp_path / "cache" / "ssmtl"
    before, _ = slices(cache), web.files_fetched()
    done = ssmtl("run", "--config", "one/run.toml", "--out", "two")
    assert done.returncode == 0, done.stderr
    assert web.files_fetched() == {}
    assert slices(cache) == before != {}
    weights = [(tmp_path / run / "metrics.jsonl").read_text().splitlines()[-1] for run in ("one", "two")]
    assert json.loads(weights[0]) == json.loads(weights[1])
    assert ssmtl("run", "--resume", "two", "--steps", 3).returncode == 0

    done = ssmtl("run", "--data", str(web.folder / "set"), *options, "--out", "three")
    assert slices(cache) == before


def test_data_commands_take_urls(web, ssmtl, tmp_path):
    done = ssmtl("data", "info", f"{web.url}/set", "--json")
    assert done.returncode == 0, done.stderr
    about = json.loads(done.stdout)
    assert about["data"] == f"remote:{web.url}/set"
    assert "images/ with the label maps of labels/" in about["layout"]
    done = ssmtl("data", "split", f"folder:{web.url}/set", "--out", "split.json")
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "split.json").read_text())
    assert sorted(parts["train"] + parts["test"]) == [f"p{i}" for i in range(4)]
    done = ssmtl(
        "evaluate", "--pred", web.folder / "set" / "labels", "--label", f"{web.url}/set/labels", "--no-surface"
    )
    assert done.returncode in (0, 3)
    assert "Traceback" not in done.stderr


def test_what_was_fetched_is_counted_in_the_cache_and_can_be_removed(web, ssmtl, tmp_path):
    fetch = (
        "from pathlib import Path; from ssmtl_toolkit.data.files import Waiting\n"
        "from ssmtl_toolkit.remote.mirror import Mirror\n"
        f"Mirror({web.url + '/set'!r}, Path({str(tmp_path / 'c')!r}), Waiting()).update(lambda name: False)\n"
        "print('ready', flush=True); input()"
    )
    command = [sys.executable, "-c", fetch]
    used = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert used.stdout.readline() == "ready\n"
    held = json.loads(ssmtl("cache", "info", "--json", "--cache", tmp_path / "c").stdout)["contents"]["files of URLs"]
    assert held["files"] == 8 + 2  # and what is known of them
    assert held["bytes"] > sum(file.stat().st_size for file in (web.folder / "set").rglob("*.nii.gz"))
    assert f"in use by process {used.pid}" in ssmtl("cache", "clean", "--all", "--cache", tmp_path / "c").stderr
    used.communicate("\n")
    mirror = tmp_path / "c" / ROOM
    for file in mirror.rglob("*.nii.gz"):
        os.utime(file, (0, 0))
    ssmtl("cache", "clean", "--older-than", 1, "--cache", tmp_path / "c")  # it was used a moment ago, as a whole
    assert len(list(mirror.rglob("*.nii.gz"))) == 8
    ssmtl("cache", "clean", "--all", "--cache", tmp_path / "c")
    assert not list(mirror.rglob("*.nii.gz"))
    web.files_fetched()
    assert ssmtl("data", "info", f"{web.url}/set", "--cache", tmp_path / "c").returncode == 0
    assert len(web.files_fetched()) == 8


SECRET = "Pass5w0rd"
URLS = (f"https://me:{SECRET}@host/set", f"https://{SECRET}@host/set", f"s3://bucket/set?X-Amz-Signature={SECRET}")


@pytest.mark.parametrize(
    "command",
    [
        *(
            ["run", "--data"],
            ["run", "--probe"],
            ["finetune", "--data"],
            ["finetune", "--unlabelled"],
            ["data", "info"],
        ),
        *(["data", "split", "--out", "s.json"], ["data", "prepare", "--data"], ["fewshot"], ["affinity"]),
        *(["evaluate", "--pred", "x", "--label"], ["run", "--task", "inpaint"], ["runs", "--unknown"], ["nonsense"]),
    ],
)
def test_secrets_in_urls_are_refused_and_never_shown(command, ssmtl, tmp_path):
    for url in URLS:
        for text in (url, f"bids:{url},suffix=T2w,suffix=T2w", f"folder:{url},,[", f"--data={url}"):
            done = ssmtl(*command, text)
            assert done.returncode != 0
            assert SECRET not in done.stderr + done.stdout
    left = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not [file for file in left if SECRET in file.read_text(errors="replace")]


def test_other_options_are_checked_before_anything_is_fetched(web, ssmtl):
    done = ssmtl("run", "--data", f"{web.url}/set", "--task", "nothing")
    assert done.returncode == 2
    FinetuneConfig.of({"data": f"{web.url}/set", "unlabelled": [f"{web.url}/a", f"{web.url}/b"]}).resolve()
    assert not web.asked


def test_fsspec_is_only_imported_for_a_url(tmp_path):
    write_pair(tmp_path / "set", "p0")
    code = (
        "import sys; from ssmtl_toolkit.cli import main\n"
        "try: main(['data', 'info', sys.argv[1], '--cache', sys.argv[2]])\n"
        "finally: print('IMPORTED', {'fsspec', 'aiohttp'} & set(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "set"), str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "IMPORTED set()" in done.stderr


def test_without_fsspec_it_is_said_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['fsspec'] = None\n"
        "from ssmtl_toolkit.cli import main\nmain(['data', 'info', 's3://bucket/scans', '--cache', sys.argv[1]])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr == "error: s3://bucket/scans: data by URL need fsspec: pip install 'ssmtl-toolkit[remote]'\n"

"""What a dataset.json or a manifest may name: files below its own folder, unless --allow-outside is given."""

import json
import tomllib

import pytest

from helpers.small import SMALL, write_pair, write_scan
from ssmtl_toolkit import DataError, pretrain

LISTS = {
    "dataset.json": json.dumps({"training": [{"image": "../secret/images/a.nii.gz"}, {"image": "in.nii.gz"}]}),
    "m.csv": "image\n../secret/images/a.nii.gz\nin.nii.gz\n",
    "m.toml": '[[scan]]\nimage = ["../secret/images/a.nii.gz"]\n[[scan]]\nimage = "in.nii.gz"\n',
}


@pytest.fixture(params=LISTS)
def named(request, tmp_path):
    write_pair(tmp_path / "secret", "a")
    write_scan(tmp_path / "set" / "in.nii.gz")
    (tmp_path / "set" / request.param).write_text(LISTS[request.param])
    return "set" if request.param == "dataset.json" else f"set/{request.param}"


def test_what_is_elsewhere_is_refused_or_listed_and_taken_if_the_flag_is_given(named, ssmtl):
    refused = 0 if named == "set" else 3  # an entry of a dataset.json is skipped, and the rest used
    train = ["run", "--steps", 1, "--backbone", SMALL, "--size", 32, "--batch-size", 4]
    for i, command in enumerate((["data", "info", named], [*train, "--data", named, "--out", "no", "--skip-bad"])):
        done = ssmtl(*command)
        assert "add --allow-outside" in done.stderr + done.stdout
        assert done.returncode in (refused, 3 * (1 - i))
    for flagged in (["--allow-outside", "data", "info", named], ["data", "info", named, "--allow-outside"]):
        done = ssmtl(*flagged)
        assert "2 scans" in done.stdout
        assert "--allow-outside" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "command", [["finetune", "--test-scans", 1], ["data", "split", "--out", "s.json"], ["fewshot"]]
)
def test_every_command_that_takes_data_refuses_a_manifest_of_files_elsewhere(command, ssmtl, tmp_path):
    write_pair(tmp_path / "secret", "a")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "m.csv").write_text("image,label\n../secret/images/a.nii.gz,../secret/labels/a.nii.gz\n")
    given = ["set/m.csv"] if command[0] != "finetune" else ["--data", "set/m.csv", "--backbone", SMALL, "--out", "no"]
    done = ssmtl(*command, *given)
    assert done.returncode == 3
    assert "add --allow-outside" in done.stderr


def test_the_flag_is_remembered_by_the_run_and_not_by_the_next_command(ssmtl, tmp_path):
    write_scan(tmp_path / "elsewhere" / "a.nii.gz")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "m.csv").write_text("image\n../elsewhere/a.nii.gz\n")
    command = ["run", "--data", "set/m.csv", "--steps", 2, "--backbone", SMALL, "--size", 32, "--batch-size", 4]
    done = ssmtl(*command, "--out", "r", "--allow-outside")
    assert done.returncode == 0, done.stderr
    assert "outside=true" in tomllib.loads((tmp_path / "r" / "run.toml").read_text())["data"]
    assert ssmtl("run", "--resume", "r").returncode == 0
    assert ssmtl(*command, "--out", "s").returncode == 3


def test_links_that_lead_out_of_the_folder_are_outside_too(tmp_path):
    write_scan(tmp_path / "elsewhere" / "a.nii.gz")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.nii.gz").symlink_to(tmp_path / "elsewhere" / "a.nii.gz")
    (tmp_path / "set" / "m.csv").write_text("image\na.nii.gz\n")
    with pytest.raises(DataError, match="is outside of the manifest's folder"):
        pretrain(data=str(tmp_path / "set" / "m.csv"), backbone=SMALL, steps=1, size=32, out=tmp_path / "r")

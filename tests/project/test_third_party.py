"""Third-party packages, installed by pip into a clean place: they run beside the bundled parts, and without a fork."""

import json
import os
import subprocess
import sys

import pytest

from helpers.places import ROOT

pytestmark = pytest.mark.slow

EXAMPLES = ("ssmtl-depth", "ssmtl-rotation", "ssmtl-tinynet", "ssmtl-trim")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the example packages, as pip has put them there from copies of their sources."""
    import shutil

    base = tmp_path_factory.mktemp("third-party")
    sources = [shutil.copytree(ROOT / "examples" / name, base / "sources" / name) for name in EXAMPLES]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*command, "--target", base / "site", *sources], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return base / "site"


@pytest.fixture(scope="module")
def trained(installed, labelled, tmp_path_factory):
    """What the issue asks for: both packages in one run, fine-tuned with its twin."""
    base = tmp_path_factory.mktemp("trained")
    tasks = ["--task", "rotation", "--task", "reconstruct_next:t=1"]
    run = ssmtl(
        base, "run", "--data", labelled, *tasks, "--backbone", "tinynet:width=8,levels=3", *SHORT, site=installed
    )
    assert run.returncode == 0, run.stderr
    options = ["--data", labelled, "--classes", "big=10,small=20", "--steps", "60", "--lr", "1e-2", "--test-scans", "2"]
    tuned = ssmtl(
        base, "finetune", "--from", "run", *options, "--baseline", "scratch", "--no-surface", "--out", "ft", "--json",
        site=installed,
    )  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr
    return base, json.loads(run.stdout), json.loads(tuned.stdout)


SHORT = ["--size", "32", "--steps", "4", "--out", "run", "--json"]


def paths(site):
    """Where Python looks: in `site`, and where it looks for this toolkit."""
    return os.pathsep.join(filter(None, [str(site or ""), os.environ.get("PYTHONPATH", "")]))


def ssmtl(folder, *args, site=None):
    """Run the command line where the packages in `site` are installed too."""
    variables = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": paths(site)}
    command = [sys.executable, "-m", "ssmtl_toolkit", *map(str, args)]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


def test_they_are_listed_with_where_they_come_from(installed, tmp_path):
    told = json.loads(ssmtl(tmp_path, "plugins", "list", "--json", site=installed).stdout)
    rows = {row["name"]: (row["kind"], row["distribution"], row["version"]) for row in told["specs"]}
    assert rows["depth"] == ("task", "ssmtl-depth", "0.1.0")
    assert rows["rotation"] == ("task", "ssmtl-rotation", "0.1.0")
    assert rows["tinynet"] == ("backbone", "ssmtl-tinynet", "0.1.0")
    assert rows["trim"] == ("preparation", "ssmtl-trim", "0.1.0")
    assert told["broken"] == []


def test_both_train_together_with_a_bundled_task(trained):
    _, run, _ = trained
    assert list(run["tasks"]) == ["rotation", "reconstruct_next:t=1"]
    assert run["tasks"]["rotation"]["baseline"] == "chance"
    assert run["tasks"]["rotation"]["chance"] == pytest.approx(1.386, abs=1e-3)


def test_fine_tuning_takes_encoder_and_decoder_over(trained):
    base, _, tuned = trained
    report = json.loads((base / "ft" / "transfer.json").read_text())
    assert report["share"] == {"encoder": 1.0, "decoder": 1.0, "both": 1.0}
    assert report["fingerprint"] < 1e-3
    assert tuned["difference"]["iou"]["mean"] is not None


def test_the_model_predicts_onto_the_scan(trained, installed, labelled):
    base, _, _ = trained
    scan = labelled / "images" / "a_pre.nii.gz"
    done = ssmtl(base, "predict", "--from", "ft", scan, "-o", "out", "--json", site=installed)
    assert done.returncode == 0, done.stderr
    import nibabel as nib

    predicted, image = nib.load(base / "out" / "a_pre.nii.gz"), nib.load(scan)
    assert predicted.shape == image.shape
    assert (predicted.affine == image.affine).all()
    assert set(predicted.get_fdata().ravel()) <= {0, 10, 20}


@pytest.mark.parametrize(
    ("tasks", "backbone"),
    [
        (["rotation"], "unet:encoder=plain,width=8"),
        (["depth"], "unet:encoder=plain,width=8"),
        (["rotation:weight=0.5", "depth", "slice_siam:t=2", "moco_v2:queue=32", "reconstruct_next:t=5mm"], "tinynet"),
    ],
)
def test_each_runs_alone_and_beside_the_bundled_ones(installed, scans, tmp_path, tasks, backbone):
    options = [part for task in tasks for part in ("--task", task)]
    done = ssmtl(tmp_path, "run", "--data", scans, "--backbone", backbone, *options, *SHORT, site=installed)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["tasks"]) == set(tasks)
    assert all(result["loss"] is not None for result in told["tasks"].values())


def test_a_model_of_a_package_that_is_not_installed_says_which_one_is_needed(trained, labelled):
    base, _, _ = trained
    done = ssmtl(base, "predict", "--from", "ft", labelled / "images" / "a_pre.nii.gz", "-o", "other")
    assert done.returncode == 2
    assert "needs the backbone 'tinynet' of ssmtl-tinynet 0.1.0, not installed here" in done.stderr
    done = ssmtl(base, "finetune", "--from", "run", "--data", labelled, "--out", "ft2")
    assert done.returncode == 2
    assert "needs the backbone 'tinynet' of ssmtl-tinynet 0.1.0" in done.stderr
    needed = (
        "needs the backbone 'tinynet' of ssmtl-tinynet 0.1.0 and the task 'rotation' of ssmtl-rotation 0.1.0, "
        "not installed here; install it with pip"
    )
    for command in (["run", "--resume", "run"], ["run", "--config", "run/run.toml", "--out", "again"]):
        done = ssmtl(base, *command)
        assert done.returncode == 2
        assert needed in done.stderr
    assert "more with plugins" in ssmtl(base, "run", "--backbone", "tinynet").stderr


def test_weights_that_were_trained_on_prepared_slices_need_the_same_preparation(installed, labelled, tmp_path):
    options = ["--data", labelled, "--backbone", "unet:encoder=plain,width=8", *SHORT, "--prepare", "trim:share=0.2"]
    assert ssmtl(tmp_path, "run", *options, site=installed).returncode == 0
    tune = ["finetune", "--from", "run", "--data", labelled, "--steps", "4", "--test-scans", "2", "--no-surface"]
    done = ssmtl(tmp_path, *tune, "--out", "ft", site=installed)
    assert done.returncode == 0, done.stderr
    scan = labelled / "images" / "a_pre.nii.gz"
    done = ssmtl(tmp_path, "predict", "--from", "ft", scan, "-o", "out", site=installed)
    assert done.returncode == 0, done.stderr
    needed = "needs the preparation 'trim' of ssmtl-trim 0.1.0, not installed here; install it with pip"
    for command in ([*tune, "--out", "other"], ["predict", "--from", "ft", scan, "-o", "other"]):
        done = ssmtl(tmp_path, *command)
        assert (done.returncode, needed in done.stderr) == (2, True), done.stderr
    done = ssmtl(tmp_path, "run", "--config", "run/run.toml", "--out", "again")
    assert (done.returncode, needed.partition(",")[0] in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("name", ["depth", "rotation", "trim"])
def test_the_command_checks_them(installed, tmp_path, name):
    done = ssmtl(tmp_path, "plugins", "check", name, "--json", site=installed)
    told = json.loads(done.stdout)
    assert (done.returncode, told["failed"]) == (0, 0), told
    assert told["passed"] >= 12


def test_their_own_tests_pass(installed, tmp_path):
    """In a place where only what pip installed can be imported, not the sources."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    tests = [ROOT / "examples" / name / "tests" for name in EXAMPLES]
    variables = {**os.environ, "PYTHONPATH": paths(installed)}
    done = subprocess.run([*command, *tests], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

"""`ssmtl data info`: what it says of scans agrees with nibabel and numpy, and what would stop a run is named."""

import json
import shutil
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

import ssmtl_toolkit as ssmtl_package
from helpers.small import SMALL, write_pair, write_scan
from ssmtl_toolkit.engine.baselines import trivial_answers


def told(done):
    return json.loads(done.stdout)


def kinds(info):
    return {problem["kind"] for problem in info["problems"]}


def save(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine), path)
    return path


def noise(seed, shape=(20, 24, 9)):
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def test_it_says_what_nibabel_says_of_real_scans(ssmtl, hippocampus):
    done = ssmtl("data", "info", hippocampus, "--json")
    assert done.returncode == 0, done.stderr
    info, files = told(done), sorted((hippocampus / "images").glob("*.nii.gz"))
    images = [nib.load(file) for file in files]
    assert (info["scans"], info["labelled"], info["patients"]) == (len(files), len(files), len(files))
    assert info["slices"] == sum(image.shape[2] for image in images)
    for row, image in zip(info["each"], images, strict=True):
        assert tuple(row["shape"]) == image.shape
        assert row["spacing"] == pytest.approx(image.header.get_zooms()[:3])
        assert row["orientation"] == "".join(nib.aff2axcodes(image.affine))
        assert row["dtype"] == image.get_data_dtype().name
    counts = np.array([image.shape[2] for image in images])
    shares = {row["t"]: row["share"] for row in info["pairs"]}
    assert shares[5] == pytest.approx(np.maximum(counts - 5, 0).sum() / counts.sum())
    assert info["proposals"]["size"] == 64
    assert info["proposals"]["t"] in (3, 4, 5)


def test_thick_slices_get_a_small_t(ssmtl, sunnybrook):
    info = told(ssmtl("data", "info", sunnybrook, "--deep", "--json"))
    assert info["proposals"]["t"] in (1, 2)
    assert info["patients"] == 30
    assert info["pairs"][0]["mm"] == [8, 8]
    assert all(row["values"] == [0, 255] for row in info["each"][:5])


def test_voxels_are_described_as_numpy_describes_them(tmp_path):
    voxels = noise(0)
    voxels[..., 3] = 7
    voxels[..., 4] = voxels[..., 4].mean() + 1e-4 * noise(1)[..., 4]
    save(tmp_path / "a.nii.gz", voxels)
    (one,) = ssmtl_package.data_info(tmp_path, deep=True, timed=False).seen
    assert one.look.low == voxels.min()
    assert one.look.high == voxels.max()
    assert one.look.usual == pytest.approx(np.percentile(voxels, (1, 99)), rel=1e-6)
    assert (one.look.blank, one.look.nearly_blank) == (1, 1)


def test_errors_of_trivial_answers_are_those_that_a_run_compares_with(tmp_path):
    rng, smooth = np.random.default_rng(5), []
    for i in range(2):
        walk = np.cumsum(rng.normal(0, 1, (32, 32, 8)), axis=2)
        smooth.append(walk)
        save(tmp_path / f"p{i}.nii.gz", walk.astype(np.float32))
    info = ssmtl_package.data_info(tmp_path, deep=True, size=32, timed=False)
    for row in info.pairs[:3]:
        anchors, partners = [], []
        for walk in smooth:
            slices = np.moveaxis(walk, 2, 0)
            normal = (slices - slices.mean((1, 2), keepdims=True)) / slices.std((1, 2), keepdims=True)
            anchors.append(normal[: -row.t])
            partners.append(normal[row.t :])
        given, truth = (torch.from_numpy(np.concatenate(part))[:, None] for part in (anchors, partners))
        for name, value in trivial_answers(given, truth).items():
            assert getattr(row, name) == pytest.approx(float(value), abs=1e-4), (row.t, name)


def test_what_it_says_of_pairs_is_what_a_run_says(ssmtl, scans):
    info = told(ssmtl("data", "info", scans, "--deep", "--size", 32, "--json"))
    short = ("--steps", 1, "--size", 32, "--backbone", SMALL, "--task", "reconstruct_prev:t=2", "--held-out", 0)
    done = ssmtl("run", "--data", scans, *short, "--json", "--out", "run")
    pairs = told(done)["pairs"]["reconstruct_prev:t=2"]
    (row,) = [row for row in info["pairs"] if row["t"] == 2]
    assert pairs["share"] == pytest.approx(row["share"])
    assert pairs["mm"] == pytest.approx(row["mm"])


@pytest.fixture
def bad(tmp_path):
    """A folder with one fault of each kind that a header shows, and of each kind that only voxels show."""
    root = tmp_path / "bad"
    for i in range(4):
        write_pair(root, f"good{i}", seed=i)
    (root / "images" / "cut.nii.gz").write_bytes((root / "images" / "good0.nii.gz").read_bytes()[:200])
    (root / "images" / "fake.nii.gz").write_text("<html>")
    save(root / "images" / "film.nii.gz", noise(7, (8, 8, 4, 3)))
    save(root / "labels" / "good1.nii.gz", np.zeros((3, 3, 3), np.uint8))
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    image = nib.Nifti1Image(noise(8), affine)
    image.header["pixdim"][1:4] = (1, 1, 5)
    nib.save(image, root / "images" / "spacing.nii.gz")
    shutil.copy(root / "images" / "good2.nii.gz", root / "images" / "copy.nii.gz")
    save(root / "images" / "blank.nii.gz", np.full((8, 8, 5), 3, np.int16))
    save(root / "images" / "one.nii.gz", noise(9, (8, 8, 1)))
    return root


def test_every_problem_is_named_with_its_file(ssmtl, bad):
    done = ssmtl("data", "info", bad, "--deep", "--json")
    assert done.returncode == 3
    info = told(done)
    stops = {kind: [p for p in info["problems"] if p["kind"] == kind] for kind in kinds(info)}
    assert {name for p in stops["unreadable"] for name in p["scans"]} == {"cut", "fake", "film"}
    assert [p["stops"] for p in stops["unreadable"]] == ["run"] * 3
    assert any("4-D with 3 volumes; give --volume" in p["what"] for p in stops["unreadable"])
    assert [(p["scans"], p["stops"]) for p in stops["label"]] == [(["good1"], "finetune")]
    assert stops["spacing"][0]["scans"] == ["spacing"]
    assert "1 x 1 x 5 and 1 x 1 x 2 mm" in stops["spacing"][0]["what"]
    assert sorted(stops["copies"][0]["scans"]) == ["copy", "good2"]
    assert [(p["scans"], p["stops"]) for p in stops["blank"]] == [(["blank"], "run")]
    assert stops["single slices"][0]["scans"] == ["one"]
    assert info["slices"] == 4 * 10 + 9 + 1  # neither the copy nor the blank scan counts
    assert "label maps" not in stops


def test_a_run_stops_where_it_says_so_and_not_where_it_does_not(ssmtl, bad):
    short = ("--steps", 1, "--size", 32, "--backbone", SMALL, "--task", "reconstruct_prev:t=1")
    stopped = ssmtl("run", "--data", bad, *short)
    assert stopped.returncode == 3
    for name in ("cut", "fake", "film", "blank"):
        assert f"{name}.nii.gz" in stopped.stderr
        (bad / "images" / f"{name}.nii.gz").unlink()
    (bad / "labels" / "good1.nii.gz").unlink()
    assert ssmtl("data", "info", bad, "--deep").returncode == 0
    assert ssmtl("run", "--data", bad, *short).returncode == 0


def test_the_report_reads_well_and_ends_with_a_command(ssmtl, bad):
    done = ssmtl("data", "info", bad, "--deep")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("data      ")
    assert any(line.startswith("scans     11 scans of 11 patients, 4 with a label map") for line in lines)
    assert "would stop any command:" in lines
    assert "would stop ssmtl finetune:" in lines
    assert lines[-1].startswith("proposed  ssmtl run --data … --axis axial --size 32 ")
    assert all(len(line) < 400 for line in lines)


def test_headers_are_read_without_voxels_except_of_a_few_scans(tmp_path):
    for i in range(12):
        write_scan(tmp_path / f"p{i:02d}.nii.gz", seed=i)
    info = ssmtl_package.data_info(tmp_path, timed=False)
    assert [i for i, one in enumerate(info.seen) if one.look] == [0, 4, 7, 11]
    assert "--deep reads all" in str(info)
    whole = tmp_path / "p01.nii.gz"
    whole.write_bytes(whole.read_bytes()[:-40])  # damage that only reading it shows
    assert not ssmtl_package.data_info(tmp_path, timed=False).stops
    assert [p.kind for p in ssmtl_package.data_info(tmp_path, deep=True, timed=False).stops] == ["unreadable"]


def test_a_thousand_headers_take_far_less_than_a_minute(tmp_path):
    first = write_scan(tmp_path / "p0000.nii.gz", seed=0)
    for i in range(1, 1000):
        (tmp_path / f"p{i:04d}.nii.gz").hardlink_to(tmp_path / "p0000.nii.gz")
    started = time.monotonic()
    info = ssmtl_package.data_info(tmp_path, timed=False)
    assert time.monotonic() - started < 30, first  # 1 to 2 s on an idle core
    assert len(info.seen) == 1000


def test_a_file_a_pattern_and_several_sources_are_looked_at(ssmtl, tmp_path):
    for i, folder in enumerate("ab"):
        write_scan(tmp_path / folder / "p0.nii.gz", seed=i)
    assert told(ssmtl("data", "info", "a/p0.nii.gz", "--json"))["scans"] == 1
    assert told(ssmtl("data", "info", "*/p0.nii.gz", "--json"))["scans"] == 2
    info = told(ssmtl("data", "info", "a", "b", "phantom:patients=1", "--json"))
    assert [row["source"] for row in info["each"]] == ["a", "b", "phantom"]
    assert info["layout"].startswith("3 sources")
    assert "several:" not in info["data"]
    assert any("p0" in remark for remark in info["remarks"])
    assert ssmtl("data", "info", "c").returncode == 3
    assert ssmtl("data", "info").returncode == 2


def test_ct_gets_a_window_and_others_none(tmp_path):
    info = ssmtl_package.data_info("phantom:patients=2", cache=tmp_path, timed=False)
    assert info.proposals.window == (-1000, 1000)
    assert "--window -1000 1000" in info.proposals.arguments
    write_scan(tmp_path / "mr" / "p0.nii.gz", seed=1)
    assert ssmtl_package.data_info(tmp_path / "mr", timed=False).proposals.window is None


def test_the_proposed_options_are_options_of_a_run(ssmtl, tmp_path):
    from ssmtl_toolkit.cli.run import command

    for data in ("phantom:patients=2",):
        info = ssmtl_package.data_info(data, cache=tmp_path, timed=False)
        words = ["--data", data, *info.proposals.arguments.split()]
        assert command.make_context("run", words).params["size"] == info.proposals.size


def test_scans_that_all_look_like_label_maps_stop_a_run(ssmtl, tmp_path):
    for i in range(3):
        label = np.zeros((24, 24, 10), np.uint8)
        label[4:14, 5 : 12 + i, 2:8] = 1
        save(tmp_path / "set" / f"p{i}.nii.gz", label)
    for how in ((), ("--deep",)):
        done = ssmtl("data", "info", "set", *how)
        assert done.returncode == 3
        assert "look like label maps" in done.stdout
        assert "proposed" not in done.stdout


def test_scans_of_different_channels_stop_a_run(ssmtl, tmp_path):
    rows = ["image,image_2,name"]
    for i in range(2):
        write_scan(tmp_path / f"p{i}.nii.gz", seed=i)
    rows += ["p0.nii.gz,p1.nii.gz,both"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    write_scan(tmp_path / "more" / "q.nii.gz", seed=3)
    done = ssmtl("data", "info", "m.csv", "more")
    assert done.returncode == 3
    assert "the scans differ in their channels: 1 scan with 1 channel, 1 scan with 2 channels" in done.stdout


def test_a_patient_in_folders_of_two_parts_is_named(ssmtl, tmp_path):
    for i, place in enumerate(("train/p1", "test/p1", "test/p2")):
        write_scan(tmp_path / "set" / f"{place}.nii.gz", seed=i)
    info = told(ssmtl("data", "info", "set", "--json"))
    (problem,) = [p for p in info["problems"] if p["kind"] == "two parts"]
    assert sorted(problem["scans"]) == ["test/p1", "train/p1"]


def test_equal_scans_on_two_sides_of_a_split_are_named(ssmtl, tmp_path):
    for i in range(6):
        write_pair(tmp_path / "set", f"p{i}", seed=i)
    assert ssmtl("data", "split", "set", "--test-scans", 2, "--out", "split.json").returncode == 0
    split = json.loads((tmp_path / "split.json").read_text())
    (test, _), (train, *_) = split["test"], split["train"]
    images = tmp_path / "set" / "images"
    shutil.copy(images / f"{test}.nii.gz", images / f"{train}.nii.gz")
    info = told(ssmtl("data", "info", "set", "--split", "split.json", "--deep", "--json"))
    (problem,) = [p for p in info["problems"] if p["kind"] == "split"]
    assert set(problem["scans"]) == {test, train}
    (images / f"{train}.nii.gz").unlink()
    gone = ssmtl("data", "info", "set", "--split", "split.json")
    assert gone.returncode == 3
    assert f"such as {train}, is not in the data" in gone.stdout


def test_slices_in_a_folder_and_dicom_are_looked_at_too(ssmtl, tmp_path):
    from helpers.dicom_files import VOXELS, write_series

    write_series(tmp_path / "all" / "d")
    (tmp_path / "all" / "s").mkdir()
    for i in range(4):
        picture = np.random.default_rng(i).integers(0, 255, (20, 16)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "all" / "s" / f"slice{i}.png")
    info = told(ssmtl("data", "info", "all", "--json"))
    assert sorted(tuple(row["shape"]) for row in info["each"]) == sorted([VOXELS.shape, (16, 20, 4)])
    assert any("PNG has no positions" in p["what"] for p in info["problems"])


def test_no_torch_is_imported(tmp_path):
    write_scan(tmp_path / "p0.nii.gz")
    code = (
        "import sys; from ssmtl_toolkit.cli import main\n"
        "try: main(['data', 'info', 'p0.nii.gz', '--deep'])\n"
        "finally: print('HEAVY', sorted({'torch', 'timm', 'lightning_fabric'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stderr

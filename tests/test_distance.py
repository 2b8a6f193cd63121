"""Distances between slices: in slices, or in millimetres that each scan's own spacing turns into slices."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.small import SMALL, blobs
from ssmtl_toolkit.data.sampling import Extent, Plan, Sampler
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import TaskSpec, slices_of

millimetres = st.floats(0.01, 5000, allow_nan=False).map(lambda x: float(f"{x:.10g}"))


def task(text):
    return registry().resolve(TaskSpec, text)


@given(millimetres)
def test_a_distance_in_mm_reads_back_equal_from_its_text(length):
    spec = task(f"reconstruct_prev:t={length:.10g}mm")
    assert float(spec.t.removesuffix("mm")) == length
    assert task(str(spec)) == spec
    assert task(spec.full()) == spec


@given(millimetres, st.floats(0.1, 20))
def test_mm_become_the_nearest_number_of_slices(length, spacing):
    number = slices_of(f"{length}mm", spacing)
    errors = [abs(n * spacing - length) for n in (number - 1, number, number + 1)]
    assert errors[1] <= min(errors) + 1e-9 * length


@given(st.integers(1, 100), st.floats(0.1, 20))
def test_slices_stay_slices_whatever_the_spacing(t, spacing):
    assert slices_of(t, spacing) == t
    assert task(f"reconstruct_next:t={t}").companions(spacing) == {"target": (t,)}


@pytest.mark.parametrize(("written", "kept"), [("15mm", "15mm"), ("15.0 mm", "15mm"), ("2.5mm", "2.5mm"), ("7", 7)])
def test_equal_distances_have_one_form(written, kept):
    assert task(f"slice_siam:t={written}").t == kept


@pytest.mark.parametrize("written", ["0", "-3", "0mm", "-5mm", "15cm", "1.5", "mm", "true", "none", "1e3mm"])
def test_what_is_no_distance_is_refused_with_what_was_got(written):
    with pytest.raises(UsageError, match=r"reconstruct_prev: option 't': .*got"):
        task(f"reconstruct_prev:t={written}")


def test_each_scan_takes_its_own_number_of_slices():
    extents = [Extent(0, 40, 2.5, 0), Extent(40, 40, 5.0, 0), Extent(80, 40, 40.0, 0)]
    spec = task("reconstruct_next:t=15mm")
    plan = Plan(extents, [{"a": spec.companions(e.spacing)} for e in extents])
    ((rows, has),) = plan.companions(plan.anchors, (0, 0))
    anchors = plan.anchors[has]
    assert set((rows - anchors)[anchors < 40]) == {6}
    assert set((rows - anchors)[(anchors >= 40) & (anchors < 80)]) == {3}
    assert plan.idle == [2]  # its slices are 40 mm apart: none is about 15 mm away


def test_slice_siam_takes_pairs_by_the_spacing_too():
    assert set(task("slice_siam:t=10mm").companions(5.0)["positive"]) == {-4, -3, 3, 4}
    assert tuple(task("slice_siam:t=1mm").companions(5.0)["positive"]) == ()


def write(folder, name, spacing, slices=14):
    folder.mkdir(exist_ok=True)
    seed = len(list(folder.iterdir()))
    nib.save(nib.Nifti1Image(blobs(slices, seed=seed), np.diag([0.8, 0.8, spacing, 1.0])), folder / f"{name}.nii.gz")


def test_a_run_in_mm_says_how_many_slices_that_is_and_can_be_repeated(ssmtl, tmp_path):
    write(tmp_path / "scans", "thin", 2.0)
    write(tmp_path / "scans", "thick", 5.0)
    options = ["--backbone", SMALL, "--size", "32", "--steps", "2", "--data", "scans", "--json"]
    done = ssmtl("run", *options, "--task", "reconstruct_prev:t=10mm", "--out", "a")
    assert done.returncode == 0, done.stderr
    assert "reconstruct_prev:t=10mm: 75 % of the slices have a partner, 2 to 5 slices (10 mm) away" in done.stderr
    assert "2 scans, 28 slices (14 a scan), 2 to 5 mm apart" in done.stderr
    told = json.loads(done.stdout)
    assert told["anchors"] == 9 + 12
    assert list(told["tasks"]) == ["reconstruct_prev:t=10mm"]
    again = ssmtl("run", "--config", "a/run.toml", "--out", "b", "--json")
    assert json.loads(again.stdout)["tasks"] == told["tasks"]


def test_a_distance_smaller_than_any_spacing_is_refused(ssmtl, tmp_path):
    write(tmp_path / "scans", "thick", 5.0)
    done = ssmtl("run", "--data", "scans", "--size", "32", "--task", "reconstruct_prev:t=2mm", "--out", "a")
    assert done.returncode == 3
    assert "no scan has slices near enough together for its target (they are 5 mm apart)" in done.stderr


def test_a_task_is_told_which_offset_was_drawn_for_each_companion():
    slices = torch.arange(30, dtype=torch.float16)[:, None, None, None].expand(30, 1, 4, 4)
    wanted = [{"a": {"pair": (-3, -1, 2)}}]
    plan = Plan([Extent(0, 30, 1.0, 0)], wanted)
    load = Loader(SliceStore(slices, (), ()), Sampler(plan, 30, seed=0), torch.device("cpu"))
    seen = set()
    for index in range(5):
        batch = load(index)
        pair = batch.companions["a"]["pair"]
        assert torch.equal(pair.of(batch.anchor)[:, 0, 0, 0] + pair.offsets, pair.image[:, 0, 0, 0])
        seen |= set(pair.offsets.tolist())
    assert seen == {-3, -1, 2}

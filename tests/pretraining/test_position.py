"""Where a slice lies: told to tasks with each anchor, and true of the very slices that they are given."""

import json
from typing import ClassVar

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.small import SMALL, write_scan
from ssmtl_toolkit import pretrain
from ssmtl_toolkit.data.sampling import Plan, Sampler
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.data.store import SliceStore, StoredScan
from ssmtl_toolkit.engine.step import Batch, Position, Step, TaskOutput
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.specs import Scan, TaskSpec

SCANS = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from([0.5, 1.0, 2.5, 8.0]), st.sampled_from("abc")),
    min_size=1,
    max_size=6,
)
OFFSETS = st.lists(st.integers(-5, 5).filter(bool), min_size=1, max_size=4, unique=True)


def store_of(scans):
    """A store whose slices of one pixel say which they are: the number of the scan x 100 + the index in it."""
    parts, stored, start = [], [], 0
    for number, (count, spacing, patient) in enumerate(scans):
        parts.append(torch.arange(count) + 100.0 * number)
        scan = Scan(f"scan{number}", f"scan{number}", patient)
        stored.append(StoredScan(scan, f"{number}", (f"{number}",), start, count, spacing, "axial", 0, ()))
        start += count
    return SliceStore(torch.cat(parts).half()[:, None, None, None], tuple(stored), ())


@settings(max_examples=150)
@given(SCANS, OFFSETS, st.integers(0, 2**40), st.integers(0, 500), st.integers(1, 9), st.integers(1, 3))
def test_positions_are_those_of_the_slices_that_are_in_the_batch(scans, offsets, seed, index, number, world):
    store = store_of(scans)
    wanted = [{"alone": {}, "paired": {"other": offsets}}] * len(scans)
    sampler = Sampler(Plan(store.extents, wanted), number, seed, rank=world - 1, world=world)
    batch = Loader(store, sampler, torch.device("cpu"))(index)
    which, here = np.divmod(batch.anchor.flatten().long().numpy(), 100)
    position = batch.position
    assert position.index.tolist() == here.tolist()
    assert position.count.tolist() == [scans[i][0] for i in which]
    assert position.spacing.tolist() == [scans[i][1] for i in which]
    names = [name for _, _, name in scans]
    in_order = list(dict.fromkeys(names))
    assert position.patient.tolist() == [in_order.index(names[i]) for i in which]
    types = [getattr(position, name).dtype for name in ("index", "count", "spacing", "patient")]
    assert types == [torch.int64, torch.int64, torch.float32, torch.int64]
    other = batch.companions["paired"]["other"]
    lies = other.of(position.index) + other.offsets
    assert lies.tolist() == (other.image.flatten().long() % 100).tolist()
    assert bool(((lies >= 0) & (lies < other.of(position.count))).all())


def test_a_batch_made_by_hand_has_the_slices_of_one_scan_in_order_unless_it_says_otherwise():
    anchors = torch.zeros(3, 1, 4, 4)
    step = Step(Batch(anchors, {}), None, {})
    found = {name: column.tolist() for name, column in vars(step.position).items()}
    assert found == {"index": [0, 1, 2], "count": [3, 3, 3], "spacing": [1, 1, 1], "patient": [0, 0, 0]}
    own = Position(*torch.tensor([[4, 1, 0], [5, 5, 2], [1, 1, 3], [7, 7, 0]]))
    assert Step(Batch(anchors, {}, own), None, {}).position is own


class Watching(TaskSpec):
    """Keeps the positions of all anchors that it sees."""

    name: ClassVar[str] = "watching"
    needs: ClassVar = frozenset({"pooled"})
    seen: ClassVar[list] = []

    def build(self, backbone):
        return WatchingModule()


class WatchingModule(torch.nn.Module):
    def forward(self, step):
        place = step.position
        columns = (place.patient, place.index, place.count, place.spacing)
        Watching.seen.extend(zip(*(column.tolist() for column in columns), strict=True))
        return TaskOutput(step.features().pooled.square().mean(), pairs=len(place.index))


def test_a_run_tells_tasks_where_every_slice_lies_and_which_scans_are_of_one_patient(tmp_path):
    lengths = {"a_pre": 5, "a_post": 7, "b_pre": 6, "c_pre": 9}
    for name, slices in lengths.items():
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", slices)
    (tmp_path / "split.json").write_text(json.dumps(Split(("a", "b"), (), ("c",), pattern="([a-z])_").to_json()))
    common = {"data": str(tmp_path / "scans"), "tasks": [Watching()], "backbone": SMALL, "size": 16, "batch_size": 6}
    for options, patients in (({}, [0, 1, 2, 3]), ({"without": tmp_path / "split.json"}, [0, 0, 1])):
        Watching.seen.clear()
        listed = sorted(name for name in lengths if not (options and name.startswith("c")))
        out = tmp_path / f"run{len(options)}"
        pretrain(**common, **options, epochs=2, out=out, cache=tmp_path / "cache")
        expected = {
            (patient, index, lengths[name], 2.0)
            for name, patient in zip(listed, patients, strict=True)
            for index in range(lengths[name])
        }
        assert set(Watching.seen) == expected

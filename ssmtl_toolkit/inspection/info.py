"""`data_info`: what data are like, what is wrong with them, and which options suit them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ssmtl_toolkit.data.slicing import Cut, Slicing
from ssmtl_toolkit.data.split import Split, with_patients
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.inspection.alike import StackOfSlices, Stacks
from ssmtl_toolkit.inspection.problems import Problem, only_label_maps, problems_of
from ssmtl_toolkit.inspection.proposals import Proposals, propose, proposed_size
from ssmtl_toolkit.inspection.seeing import Seeing, Seen
from ssmtl_toolkit.runtime.progress import showing
from ssmtl_toolkit.runtime.results import Rows, Shown
from ssmtl_toolkit.runtime.scans import default_cache, installed_readers, list_scans
from ssmtl_toolkit.sources import Given, Several, dataset_of
from ssmtl_toolkit.specs import Scan, named
from ssmtl_toolkit.text import counted

_SAMPLE = 4  # scans whose voxels are read for the proposals without `deep`
_LARGE = 1 << 26  # voxels: larger scans are not among them
_SHOWN = (1, 2, 3, 4, 5, 8, 10, 15)  # slices


@dataclass(frozen=True)
class PairsAt:
    """The pairs of slices that are t apart: share of the slices that have one, mm or ms, what trivial answers cost."""

    t: int | str
    apart: tuple[float, float]
    share: float
    copy: float | None
    blank: float | None
    scaled_copy: float | None


@dataclass(frozen=True, repr=False)
class DataInfo(Shown):
    """What is known of a data set.

    Attributes:
        data: what was asked about, as text.
        layout: what its folder was taken for, "" if there is nothing to say.
        seen: the scans that a command would use, with what was seen of each.
        skipped: the others, with reasons.
        remarks: what the dataset says, and by which rule scans are taken as those of patients.
        problems: what is wrong or odd; what would stop a command comes first.
        proposals: options that suit, if any scan can be used.
        deep: whether the voxels of all scans were read.
    """

    data: str
    layout: str
    seen: tuple[Seen, ...]
    skipped: tuple[Scan, ...]
    remarks: tuple[str, ...]
    problems: tuple[Problem, ...]
    proposals: Proposals | None
    deep: bool

    def shown(self) -> tuple[str, Rows]:
        found = f"{counted(len(self.usable), 'scan')} of {counted(self.patients, 'patient')}"
        problems = [("problem", "stops"), *((problem.what, problem.stops) for problem in self.problems)]
        return f"DataInfo of {self.data}: {found}", problems if self.problems else ()

    @property
    def usable(self) -> list[Seen]:
        """The scans that can be used."""
        return [one for one in self.seen if not one.problem]

    @property
    def stops(self) -> list[Problem]:
        """What would stop a command."""
        return [problem for problem in self.problems if problem.stops]

    @property
    def patients(self) -> int:
        """How many there are."""
        return len({one.scan.patient for one in self.seen})

    @cached_property
    def stacks(self) -> Stacks:
        """How the scans that a run would use are cut into slices."""
        return _stacks(_used(self.seen))

    @cached_property
    def pairs(self) -> list[PairsAt]:
        """For some distances what pairs there are, the proposed one included."""
        proposed = self.proposals.t.t if self.proposals and self.proposals.t else None
        distances: list[int | str] = sorted({*_SHOWN, *([proposed] if isinstance(proposed, int) else [])})
        distances += [proposed] if isinstance(proposed, str) else []
        return [_pairs_at(self.stacks, t) for t in distances]

    def __str__(self) -> str:
        from ssmtl_toolkit.inspection.report import report

        return "\n".join(report(self))

    def to_json(self) -> dict[str, Any]:
        """All of it, with a list of the scans."""
        from ssmtl_toolkit.inspection.report import scan_json

        return {
            "data": self.data,
            "layout": self.layout,
            "deep": self.deep,
            "scans": len(self.seen),
            "labelled": sum(one.scan.label is not None for one in self.seen),
            "patients": self.patients,
            "modalities": dict(Counter(one.scan.modality or "unknown" for one in self.seen)),
            "channels": dict(Counter(str(one.header.channels) for one in self.usable if one.header)),
            "axes": dict(Counter(one.axis for one in self.usable)),
            "orientations": dict(Counter(one.orientation for one in self.usable)),
            "slices": self.stacks.total,
            "skipped": [{"scan": scan.name, "reason": scan.unfit} for scan in self.skipped],
            "remarks": list(self.remarks),
            "problems": [{**asdict(problem), "scans": list(problem.scans)} for problem in self.problems],
            "stops": bool(self.stops),
            "pairs": [_pairs_json(pairs, self.stacks.unit) for pairs in self.pairs],
            "proposals": self.proposals and self.proposals.to_json(),
            "each": [scan_json(one) for one in self.seen],
        }


def data_info(
    data: Given | Sequence[Given],
    *,
    deep: bool = False,
    axis: Cut = "acquisition",
    size: int | None = None,
    volume: int | None = None,
    patient: str | None = None,
    split: str | Path | None = None,
    cache: str | Path | None = None,
    timed: bool = True,
    check: Callable[[], None] = lambda: None,
) -> DataInfo:
    """Look at scans without training: headers only, and the voxels of a few for the proposals, or of all if `deep`.

    Args:
        data: a path, a pattern, a dataset, or several of them.
        deep: read the voxels of all scans: values, copies, blank slices, how alike slices are.
        axis: how slices would be cut.
        size: of the slices, in pixels; by default the one that is proposed.
        volume: which volume of 4-D files is meant.
        patient: a regex on scan names whose first group is the patient.
        split: a file by `ssmtl data split` to compare with.
        cache: folder for what a dataset creates.
        timed: whether to measure this machine, for the hours of a run.
        check: is called before each scan; raise there to stop.

    Raises:
        UsageError: data or an option is wrong.
        DataError: the data cannot be listed.
    """
    slicing = Slicing(axis=axis, volume=volume)
    slicing.check_frames()
    dataset, readers = dataset_of(data), installed_readers(in_time=slicing.in_time)
    remarks: list[str] = []
    folder = Path(cache) if cache else default_cache()
    every = list_scans(dataset, folder, remarks.append, in_time=slicing.in_time, told=showing.get())
    fit, notes = with_patients([scan for scan in every if not scan.unfit], patient)
    parts = None if split is None else Split.read(Path(split))
    if parts is not None and parts.pattern is not None and patient is None:
        fit, _ = with_patients(fit, parts.pattern)
    seeing = Seeing(readers, slicing, check)
    seen = seeing.headers(fit)
    usable = [one for one in seen if not one.problem]
    pixels = size or (proposed_size(usable) if usable else 0)
    seen = _looked_at(seeing, seen, pixels, deep)
    used = _used(seen)
    with foreign(f"{named(dataset)}, asked for its layout,"):
        layout = dataset.layout()
    return DataInfo(
        data="  ".join(map(str, dataset.of if isinstance(dataset, Several) else (dataset,))),
        layout=layout,
        seen=tuple(seen),
        skipped=tuple(scan for scan in every if scan.unfit),
        remarks=(*remarks, *notes),
        problems=tuple(problems_of(seen, parts)),
        proposals=propose(used, _stacks(used), pixels, timed=timed) if used else None,
        deep=deep,
    )


def _looked_at(seeing: Seeing, seen: list[Seen], size: int, deep: bool) -> list[Seen]:
    """Read the voxels of all scans, or of a few that are spread over them and not too large."""
    chosen = [i for i, one in enumerate(seen) if not one.problem]
    if not deep:
        chosen = [i for i in chosen if _voxels(seen[i]) <= _LARGE]
        chosen = (
            sorted({chosen[round(k * (len(chosen) - 1) / (_SAMPLE - 1))] for k in range(_SAMPLE)}) if chosen else []
        )
    looked = dict(zip(chosen, seeing.voxels([seen[i] for i in chosen], size), strict=True))
    return [looked.get(i, one) for i, one in enumerate(seen)]


def _used(seen: Sequence[Seen]) -> list[Seen]:
    """The scans that a run would use: not those that cannot be read, look like label maps, are blank or copies."""
    known: set[str] = set()
    used = []
    if only_label_maps(seen):
        return []
    for one in seen:
        look = one.look
        if one.problem or (look and (look.one_value or look.digest in known or one.is_label_map)):
            continue
        used.append(one)
        known |= {look.digest} if look else set()
    return used


def _voxels(one: Seen) -> int:
    i, j, k = one.grid
    return i * j * k * (one.header.channels if one.header else 1)


def _stacks(usable: Iterable[Seen]) -> Stacks:
    stacks, unit = [], "mm"
    for one in usable:
        length = one.frames or one.grid[0]
        products = one.look.products if one.look else None
        stacks.append(StackOfSlices(length, one.spacing[0], products, one.grid[0] // length))
        unit = "mm" if one.frames is None else "ms"  # the same of all
    return Stacks(stacks, unit)


def _pairs_at(stacks: Stacks, t: int | str) -> PairsAt:
    errors = stacks.errors(t)
    costs = (None, None, None) if errors is None else (errors.copy, errors.blank, errors.scaled_copy)
    return PairsAt(t, stacks.apart(t), stacks.share(t), *costs)


def _pairs_json(pairs: PairsAt, unit: str) -> dict[str, Any]:
    """As plain values; the distance is called by its unit."""
    return {(unit if name == "apart" else name): value for name, value in asdict(pairs).items()} | {
        unit: list(pairs.apart)
    }

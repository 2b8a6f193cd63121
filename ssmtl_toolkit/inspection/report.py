"""What is known of a data set, in lines for a person and as JSON for a program."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ssmtl_toolkit.inspection.seeing import Seen
from ssmtl_toolkit.text import counted, duration, listed, printable, rounded, shortened

if TYPE_CHECKING:
    from ssmtl_toolkit.inspection.info import DataInfo

_MOST = 6  # lines of one kind


def report(info: DataInfo) -> Iterator[str]:
    """Describe the data in lines."""
    yield from _headed("data", [info.data])
    if info.layout:
        yield from _headed("layout", [info.layout])
    yield from _headed("scans", [_scans(info)])
    if info.usable:
        yield from _geometry(info)
        yield from _headed("values", [_values(info)])
    skipped = (scan.unfit if scan.name in scan.unfit else f"{scan.name}: {scan.unfit}" for scan in info.skipped)
    yield from _headed(f"skipped {len(info.skipped)}", shortened(skipped, _MOST)) if info.skipped else ()
    yield from _headed("note", info.remarks)
    yield from _problems(info)
    yield from _pairs(info)
    yield from _proposals(info)


def scan_json(one: Seen) -> dict[str, Any]:
    """What was seen of one scan."""
    header, look = one.header, one.look
    return {
        "name": one.scan.name,
        "patient": one.scan.patient,
        "path": str(one.scan.path),
        "source": one.scan.source,
        "modality": one.scan.modality,
        "label": one.scan.label and str(one.scan.label),
        "problem": one.problem or None,
        "label_problem": one.label_problem or None,
        "shape": header and list(header.shape),
        "channels": header and header.channels,
        "volumes": header and header.volumes,
        "dtype": header and header.dtype,
        "spacing": header and list(header.spacing),
        "orientation": one.orientation or None,
        "axis": one.axis or None,
        "slices": one.grid[0],
        "slice_spacing": one.spacing[0] if header else None,
        "values": look and [look.low, look.high],
        "usual_values": look and list(look.usual),
        "blank_slices": look and look.blank,
        "nearly_blank_slices": look and look.nearly_blank,
        "like_labels": look and (look.like_labels or None),
        "replaced": look and look.replaced,
    }


def _headed(title: str, lines: Iterable[str]) -> Iterator[str]:
    for i, line in enumerate(lines):
        yield f"{title if i == 0 else '':<10}{'' if len(title) < 10 or i else ' '}{line}"


def _scans(info: DataInfo) -> str:
    scans = [one.scan for one in info.seen]
    labelled = sum(scan.label is not None for scan in scans)
    labels = "all" if labelled == len(scans) and scans else labelled or "none"
    modalities = Counter(scan.modality for scan in scans if scan.modality)
    of = f"; {_counts(modalities)}" if modalities else ""
    channels = Counter(one.header.channels for one in info.usable if one.header)
    several = [number for number in channels if number > 1]
    with_channels = f"; {counted(max(channels), 'channel')}" if len(channels) == 1 and several else ""
    sources = Counter(scan.source for scan in scans if scan.source)
    by_source = f"; {_counts(sources)}" if sources else ""
    return (
        f"{counted(len(scans), 'scan')} of {counted(info.patients, 'patient')}, {labels} with a label map"
        f"{of}{with_channels}{by_source}"
    )


def _geometry(info: DataInfo) -> Iterator[str]:
    usable = info.usable
    axes = Counter(one.axis for one in usable)
    counts = [one.grid[0] for one in usable]
    apart = _apart([one.spacing[0] for one in usable], info.stacks.unit)
    total = info.stacks.total or sum(counts)
    frames = [one.frames for one in usable if one.frames]
    of = f" in sequences of {_range(frames)} frames" if frames else ""
    yield from _headed("slices", [f"{total}, {_range(counts)} a scan{of}, {_counts(axes)}, {apart}"])
    sides = " x ".join(_range([one.grid[i] for one in usable]) for i in (1, 2))
    pixels = " x ".join(_range([one.spacing[i] for one in usable]) for i in (1, 2))
    orientations = Counter(one.orientation for one in usable)
    yield from _headed("pixels", [f"{sides} of {pixels} mm; stored as {_counts(orientations)}"])


def _apart(spacings: Sequence[float], unit: str) -> str:
    return f"{_range(spacings)} {unit} apart" if all(spacings) else f"unknown {unit} apart"


def _values(info: DataInfo) -> str:
    looks = [one.look for one in info.usable if one.look]
    types = _counts(Counter(one.header.dtype for one in info.usable if one.header and one.header.dtype))
    if not looks:
        return f"{types or 'unknown'}; no voxels were read, --deep reads them"
    low, high = min(look.low for look in looks), max(look.high for look in looks)
    usual = [statistics.median(look.usual[i] for look in looks) for i in (0, 1)]
    of = "" if info.deep else f", by the voxels of {counted(len(looks), 'scan')}; --deep reads all"
    return f"{types}{', ' if types else ''}{low:.5g} to {high:.5g}, mostly {usual[0]:.4g} to {usual[1]:.4g}{of}"


def _problems(info: DataInfo) -> Iterator[str]:
    commands = {"run": "would stop any command", "finetune": "would stop ssmtl finetune", "": "to know"}
    for stops, words in commands.items():
        kinds: dict[str, list[str]] = {}
        for problem in info.problems:
            if problem.stops == stops:
                kinds.setdefault(problem.kind, []).append(printable(problem.what))
        if kinds:
            yield f"{words}:"
        for lines in kinds.values():
            yield from (f"  {line}" for line in shortened(lines, _MOST, " such, all in --json"))


def _pairs(info: DataInfo) -> Iterator[str]:
    rows = [row for row in info.pairs if row.share > 0]
    if not rows:
        return
    with_errors = any(row.copy is not None for row in rows)
    heading = f"{'t':>6} {info.stacks.unit:>12} {'have a partner':>15}"
    yield heading + (f" {'copy':>7} {'blank':>7} {'scaled copy':>12}" if with_errors else "")
    for row in rows:
        line = f"{row.t:>6} {_range(row.apart, median=False) if any(row.apart) else '?':>12} {100 * row.share:>13.0f} %"
        costs = (row.copy, row.blank, row.scaled_copy)
        cells = ["" if cost is None else f"{cost:.2f}" for cost in costs]
        yield line + (f" {cells[0]:>7} {cells[1]:>7} {cells[2]:>12}" if with_errors else "")


def _proposals(info: DataInfo) -> Iterator[str]:
    proposals = info.proposals
    if proposals is None:
        return
    if proposals.t:
        basis = "" if info.deep else f"; by {counted(sum(bool(one.look) for one in info.usable), 'scan')}"
        yield from _headed("t", [f"{proposals.t.t}: {proposals.t.why}{basis}"])
    if proposals.window:
        words = "{:g} to {:g}: values are HU (CT); a narrower one shows soft tissue better".format(*proposals.window)
        yield from _headed("window", [words])
    yield from _headed("queue", [f"{proposals.queue} keys for moco_v2: at most half of the slices"])
    if proposals.hours is not None:
        gpu = "; on the GPU here much faster, which was not measured" if proposals.gpu else ""
        seconds = 3600 * proposals.hours
        basis = f"{proposals.epochs} epochs, the default network; rough: half to twice that"
        yield from _headed("time", [f"about {duration(seconds)} on this machine's CPU ({basis}){gpu}"])
    yield from _headed("proposed", [f"ssmtl run --data … {proposals.arguments}"])


def _counts(counter: Counter[str]) -> str:
    if len(counter) == 1:
        return printable(next(iter(counter)))
    return listed((f"{number} {printable(word)}" for word, number in counter.most_common()), 6)


def _range(numbers: Sequence[float], median: bool = True) -> str:
    low, high = min(numbers), max(numbers)
    if rounded(low) == rounded(high):
        return rounded(low)
    middle = f" (median {rounded(statistics.median(numbers))})" if median else ""
    return f"{rounded(low)} to {rounded(high)}{middle}"

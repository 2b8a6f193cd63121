"""Which label map belongs to which image: by equal names, nnU-Net's rule, or the words that identify the case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ssmtl_datasets.channels import Choice, contrast_of, numbered
from ssmtl_datasets.naming import case_key
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable


def paired(scans: Sequence[Scan], labels: Sequence[Scan], images: Path, choice: Choice) -> list[Scan]:
    """Give each image its label map, and list the label maps without an image as unfit.

    If `choice` joins channels, those of each case have been joined already.

    Raises:
        DataError: the images are nnU-Net's channels of cases, and not the chosen one.
    """
    unpaired = {label.name: label.path for label in labels if not label.unfit}
    channel = choice.channel
    scans, others = (scans, []) if choice.joins or channel == "all" else _of_channel(scans, unpaired, images, channel)
    label_of = {scan.name: unpaired.pop(scan.name) for scan in scans if scan.name in unpaired}
    label_of |= _by_case([scan.name for scan in scans if scan.name not in label_of], unpaired)
    return [
        *(replace(scan, label=label_of.get(scan.name)) if not scan.unfit else scan for scan in scans),
        *(label for label in labels if label.unfit),
        *(
            Scan(file, name, name, unfit=f"{printable(file)}: a label without an image of the same name in images/")
            for name, file in unpaired.items()
        ),
        *others,
    ]


def beside(scans: Sequence[Scan], labels: Mapping[str, Scan]) -> list[Scan]:
    """Give each image the label map of its words: `p1_seg` beside `p1`, `a/labels/p1` and `a/images/p1`.

    There must be one of each. `labels` are those of the scans that are label maps by their names; those that were given
    to an image are no longer listed.
    """
    if not labels:
        return list(scans)
    unpaired = {name: scan.path for name, scan in labels.items()}
    label_of = _by_case([scan.name for scan in scans if not scan.unfit], unpaired)
    given = set(label_of.values())
    return [
        replace(scan, label=label_of.get(scan.name, scan.label)) if not scan.unfit else scan
        for scan in scans
        if not (scan.unfit and scan.path in given)
    ]


def _of_channel(
    scans: Sequence[Scan], labels: dict[str, Path], images: Path, channel: int
) -> tuple[Sequence[Scan], list[Scan]]:
    """Choose one channel of images CASE_0000, CASE_0001 beside label maps CASE, and name it by the case.

    Returns:
        The scans, and one that states which channels are skipped.
    """
    named = {scan.name: found for scan in scans if (found := numbered(scan.name))}
    if (
        len(named) < len(scans)
        or labels.keys() & named.keys()
        or not labels.keys() & {case for case, _ in named.values()}
    ):
        return scans, []
    channels = sorted({number for _, number in named.values()})
    known = ", ".join(map(str, channels))
    if channel not in channels:
        raise DataError(f"{printable(images)}: has no channel {channel} (known: {known})")
    others = "channel=N chooses another, channel=all joins them"
    reason = f"{printable(images)}: has channels {known}; only {channel} is used, {others}"
    chosen = [(scan, named[scan.name][0]) for scan in scans if named[scan.name][1] == channel]
    skipped = [Scan(images, "other channels", "other channels", unfit=reason)] if len(channels) > 1 else []
    contrasts = (contrast_of(channel),)
    return [replace(scan, name=case, patient=case, contrasts=contrasts) for scan, case in chosen], skipped


def _by_case(names: Sequence[str], labels: dict[str, Path]) -> dict[str, Path]:
    """Remove from `labels`, and return, those whose words identify a single label map and a single image."""
    images, maps = _by_key(names), _by_key(list(labels))
    return {
        images[key][0]: labels.pop(maps[key][0])
        for key in images
        if key and len(images[key]) == len(maps.get(key, ())) == 1
    }


def _by_key(names: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        groups[case_key(name)].append(name)
    return groups


def referenced(scans: Sequence[Scan], readers: Readers) -> list[Scan]:
    """Give scans without a label map the files that refer to them and are label maps by their format, such as SEG.

    Of several for one scan that of the format that comes first is used: SEG before RTSTRUCT. The others, and those
    whose scan is not found, are listed as unfit.
    """
    used = {scan.label for scan in scans if scan.label}
    ranks = {scan.path: rank for scan in scans if (rank := readers.label_rank(scan.path)) is not None}
    if not ranks:
        return list(scans)
    free = [scan.path for scan in scans if not (scan.unfit or scan.label or scan.path in ranks)]
    owners = {path: readers.scan_of(path, free) for path in ranks if path not in used}
    labels: dict[Path, Path] = {}
    for owner in filter(None, owners.values()):
        claims = [path for path in owners if owners[path] == owner]
        best = [path for path in claims if ranks[path] == min(ranks[claim] for claim in claims)]
        labels.update({owner: best[0]} if len(best) == 1 else {})
    used |= set(labels.values())
    return [
        replace(scan, label=labels.get(scan.path, scan.label), unfit=_unused(scan, ranks, owners, labels))
        for scan in scans
        if not (scan.path in ranks and scan.path in used)
    ]


def _unused(scan: Scan, maps: Collection[Path], owners: Mapping[Path, Path | None], labels: Mapping[Path, Path]) -> str:
    """Why a scan cannot be used; of a label map, why it is not."""
    if scan.path not in maps:
        return scan.unfit
    owner = owners.get(scan.path)
    reason = "is a label map, and its scan is not here; name the two in a manifest, or remove it"
    if owner is not None:
        used = f", of which {printable(labels[owner].name)} is used" if owner in labels else ""
        reason = f"is one of several label maps of {printable(owner)}{used}; a manifest chooses among them"
    return f"{printable(scan.path)}: {reason}"


def once(scans: Sequence[Scan]) -> list[Scan]:
    """Mark all but the first of several scans of one name as unfit: `a.nii` beside `a.nii.gz` is the same scan."""
    first: dict[str, Path] = {}
    marked = []
    for scan in scans:
        other = scan.path if scan.unfit else first.setdefault(scan.name, scan.path)
        if other != scan.path:
            reason = f"has the same name as {printable(other.name)} beside it; rename it if it is another scan"
            scan = replace(scan, unfit=f"{printable(scan.path)}: {reason}")
        marked.append(scan)
    return marked

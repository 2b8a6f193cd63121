"""Which label map belongs to which image: by the same name, by nnU-Net's rule, or by the words that tell the case."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ssmtl_datasets.channels import Channel, numbered
from ssmtl_datasets.naming import case_key
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Scan
from ssmtl_toolkit.text import printable


def paired(scans: Sequence[Scan], labels: Sequence[Scan], images: Path, channel: Channel) -> list[Scan]:
    """Give each image its label map, and list the label maps that are left over as unfit.

    With `channel` "all" the channels of each case have been joined already.

    Raises:
        DataError: the images are nnU-Net's channels of cases, and `channel` is none of them.
    """
    left = {label.name: label.path for label in labels if not label.unfit}
    scans, others = (scans, []) if channel == "all" else _of_channel(scans, left, images, channel)
    found = {scan.name: left.pop(scan.name) for scan in scans if scan.name in left}
    found |= _by_case([scan.name for scan in scans if scan.name not in found], left)
    return [
        *(replace(scan, label=found.get(scan.name)) if not scan.unfit else scan for scan in scans),
        *(label for label in labels if label.unfit),
        *(
            Scan(file, name, name, unfit=f"{printable(file)}: a label without an image of the same name in images/")
            for name, file in left.items()
        ),
        *others,
    ]


def _of_channel(
    scans: Sequence[Scan], labels: dict[str, Path], images: Path, channel: int
) -> tuple[Sequence[Scan], list[Scan]]:
    """Of images CASE_0000, CASE_0001 beside label maps CASE: those of one channel, called by their cases.

    Returns:
        The scans, and one that says which channels are skipped.
    """
    named = {scan.name: found for scan in scans if (found := numbered(scan.name))}
    if (
        len(named) < len(scans)
        or labels.keys() & named.keys()
        or not labels.keys() & {case for case, _ in named.values()}
    ):
        return scans, []
    channels = sorted({number for _, number in named.values()})
    listed = ", ".join(map(str, channels))
    if channel not in channels:
        raise DataError(f"{printable(images)}: has no channel {channel} (known: {listed})")
    others = "channel=N chooses another, channel=all joins them"
    skipped = f"{printable(images)}: has channels {listed}; only {channel} is taken, {others}"
    chosen = [(scan, named[scan.name][0]) for scan in scans if named[scan.name][1] == channel]
    skipped_ones = [Scan(images, "other channels", "other channels", unfit=skipped)] if len(channels) > 1 else []
    return [replace(scan, name=case, patient=case) for scan, case in chosen], skipped_ones


def _by_case(names: Sequence[str], labels: dict[str, Path]) -> dict[str, Path]:
    """Take out of `labels` those whose words tell one case only, and that of one image only."""
    images, maps = _by_key(names), _by_key(list(labels))
    return {
        images[key][0]: labels.pop(maps[key][0])
        for key in images
        if key and len(images[key]) == len(maps.get(key, ())) == 1
    }


def _by_key(names: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        found[case_key(name)].append(name)
    return found


def once(scans: Sequence[Scan]) -> list[Scan]:
    """Mark all but the first of several scans with one name as unfit: `a.nii` beside `a.nii.gz` is one scan twice."""
    first: dict[str, Path] = {}
    found = []
    for scan in scans:
        other = scan.path if scan.unfit else first.setdefault(scan.name, scan.path)
        if other != scan.path:
            reason = f"has the same name as {printable(other.name)} beside it; rename it if it is another scan"
            scan = replace(scan, unfit=f"{printable(scan.path)}: {reason}")
        found.append(scan)
    return found

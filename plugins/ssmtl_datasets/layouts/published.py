"""The layout of a public data set as downloaded: which names are images and label maps, and whose they are."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ssmtl_datasets.layouts.tree import Entry, Tree
from ssmtl_datasets.naming import case_key

Key = tuple[str, str]  # patient and scan


@dataclass(frozen=True)
class Published:
    """The layout of a public data set. Adding one is an entry in `sets.py`.

    All patterns are regular expressions on the end of a path without the file's suffix, `/` between its parts. Their
    groups `patient` and, if a patient has several scans, `scan` say which images and label maps belong together.

    Attributes:
        name: of the data set.
        source: who published it, where.
        images: the group `contrast` names the channel if there are several images of one head.
        labels: the label map of an image; with a group `contrast` only of images with this contrast.
        masks: one mask file per structure instead; the group `structure` names it.
        classes: the values of the label maps by the names that were published, the first of them the one to write. Of
            masks: the value to give to each structure; by default 1, 2 … in the order of their names.
        structures: the class of a mask whose name is not that of its class.
        apart: contrasts that are skipped unless `channels=` asks for them, and why.
        on_grid: the contrasts on whose grid the label maps lie; (): all of them.
        folders: images and label maps are folders of slices, not files.
        copies: folders above images (found in a path, a `/` at its end) that are made from others, or these from them;
            they are skipped if there are others.
        has: a path that must exist as well.
        by_labels: the names of the images are too common; there must be label maps, too.
        together: images are contrasts of one head only if one of the patients has two of them.
    """

    name: str
    source: str
    images: str
    labels: str = ""
    masks: str = ""
    classes: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    structures: Mapping[str, str] = field(default_factory=dict)
    apart: Mapping[str, str] = field(default_factory=dict)
    on_grid: tuple[str, ...] = ()
    folders: bool = False
    copies: str = ""
    has: str = ""
    by_labels: bool = False
    together: bool = False

    def find(self, tree: Tree) -> Hits | None:
        """Return the files of this data set in a folder; None if they are not there."""
        images = self._all(self.images, tree)
        if not images or (self.has and next(_hits(self.has, tree), None) is None):
            return None
        labels, masks = self._all(self.labels, tree), self._all(self.masks, tree)
        keys = {image.key for image in images}
        labels = [hit for hit in labels if hit.key in keys]
        masks = [hit for hit in masks if hit.key in keys and case_key(hit.structure)]  # seg.nii.gz names no structure
        if self.by_labels and not (labels or masks):
            return None
        if self.together and not _several_contrasts(images):
            return None
        copies = [hit for hit in images if self.copies and re.search(self.copies, hit.above)]
        if len(copies) == len(images):
            return Hits(images, labels, masks)
        return Hits([hit for hit in images if hit not in copies], labels, masks, copies)

    def _all(self, pattern: str, tree: Tree) -> list[Hit]:
        return [hit for hit in _hits(pattern, tree) if hit.entry.is_folder == self.folders] if pattern else []


@dataclass(frozen=True)
class Hit:
    """A file or folder whose name a pattern matches; `contrast` is where in the name that group is."""

    entry: Entry
    key: Key
    contrast: str
    structure: str
    above: str
    place: tuple[int, int]


@dataclass(frozen=True)
class Hits:
    """The files of a data set in a folder; `copies` are images that are skipped, as `Published.copies` says."""

    images: Sequence[Hit]
    labels: Sequence[Hit]
    masks: Sequence[Hit]
    copies: Sequence[Hit] = ()


def _hits(pattern: str, tree: Tree) -> Iterator[Hit]:
    compiled = re.compile(rf"(?P<above>|.*?/)(?:{pattern})")  # as much of the path as the pattern takes
    for entry in tree.entries:
        if match := compiled.fullmatch(entry.name):
            groups = match.groupdict()
            key = groups.get("patient") or "", groups.get("scan") or ""
            place = match.span("contrast") if groups.get("contrast") else (0, 0)
            contrast, structure = groups.get("contrast") or "", groups.get("structure") or ""
            yield Hit(entry, key, contrast, structure, match["above"], place)


def _several_contrasts(images: Sequence[Hit]) -> bool:
    seen: dict[Key, set[str]] = defaultdict(set)
    for image in images:
        seen[image.key].add(image.contrast)
    return any(len(contrasts) > 1 for contrasts in seen.values())

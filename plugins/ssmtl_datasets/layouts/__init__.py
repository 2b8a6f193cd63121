"""What a folder was taken for: a description, public data sets as downloaded, or any scans. The first that fits.

An entry in `sets.py` adds a public data set; a class with the methods of `Layout`, listed in `_KINDS`, anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from ssmtl_datasets.channels import Choice
from ssmtl_datasets.folder import check, everything, images_and_labels, list_pairs, only
from ssmtl_datasets.layouts.description import Description
from ssmtl_datasets.layouts.matches import Matches
from ssmtl_datasets.layouts.sets import SETS
from ssmtl_datasets.layouts.tree import Tree
from ssmtl_datasets.pairing import referenced
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.specs import Scan


class Layout(Protocol):
    """How scans, label maps and patients lie in a folder."""

    @classmethod
    def of(cls, root: Path) -> Self | None:
        """Recognise a folder (or file) by names alone; None if it is something else."""

    def scans(self, readers: Readers, choice: Choice) -> list[Scan]:
        """List the scans, and as unfit what is not one."""

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        """Values of the label maps by class; empty if they are not known."""

    def ignored(self) -> int | None:
        """The value of the label maps that means "not annotated", if there is one."""

    def words(self, choice: Choice) -> str:
        """What the folder was taken for."""


@dataclass(frozen=True)
class Described:
    """A dataset.json or a data list: Medical Segmentation Decathlon, nnU-Net raw, MONAI."""

    description: Description
    outside: bool = False

    @classmethod
    def of(cls, root: Path) -> Self | None:
        """Recognise a folder with such a file, or the file itself."""
        description = Description.of(root)
        return None if description is None else cls(description)

    def scans(self, readers: Readers, choice: Choice) -> list[Scan]:
        """List the scans that it describes."""
        from ssmtl_datasets.layouts.described import list_described

        return list_described(self.description, choice, readers, outside=self.outside)

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        """Return its `labels`."""
        return self.description.classes()

    def ignored(self) -> int | None:
        """Return the value of nnU-Net's `ignore`."""
        return self.description.ignored()

    def words(self, choice: Choice) -> str:
        """Name the tool that writes such a file, and the channels."""
        return self.description.words(self.description.numbers(choice))


@dataclass(frozen=True)
class Public:
    """One or several public data sets as downloaded; other scans beside them are listed by the general rules."""

    root: Path
    found: Sequence[Matches]

    @classmethod
    def of(cls, root: Path) -> Self | None:
        """Recognise a folder by the names in it."""
        return None if root.is_file() else cls._in(Tree.of(root))

    @classmethod
    def _in(cls, tree: Tree) -> Self | None:
        found = []
        for layout in SETS:
            if hits := layout.find(tree):
                matches = Matches(layout, tree, hits)
                found.append(matches)
                tree = tree.without(matches.claimed)
        return cls(tree.root, found) if found else None

    def scans(self, readers: Readers, choice: Choice) -> list[Scan]:
        """List the scans of each; if there are several, patients are named with their data set."""
        scans = [scan for matches in self.found for scan in self._of(matches, readers, choice)]
        claimed = {path for matches in self.found for path in matches.claimed}
        return referenced([*scans, *everything(self.root, readers, Choice(), claimed)], readers)

    def _of(self, matches: Matches, readers: Readers, choice: Choice) -> Iterator[Scan]:
        for scan in matches.scans(readers, choice):
            several = len(self.found) > 1
            yield replace(scan, patient=f"{matches.layout.name} {scan.patient}") if several else scan

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the classes as published; of several data sets, if they do not contradict each other."""
        classes: dict[str, tuple[int, ...]] = {}
        for name, values in (item for matches in self.found for item in matches.values.items()):
            known = classes.setdefault(name, values)
            if known[0] != values[0]:
                return {}
            classes[name] = max(known, values, key=len)
        every = [value for each in classes.values() for value in each]
        return classes if len(every) == len(set(every)) else {}

    def ignored(self) -> int | None:
        """Return None: none of these data sets has such a value."""
        return None

    def words(self, choice: Choice) -> str:
        """Name the data sets."""
        return "; ".join(matches.words(choice) for matches in self.found)


@dataclass(frozen=True)
class Pairs:
    """A folder of images beside one of label maps: images/ and labels/, imagesTr/ and labelsTr/, img/ and label/."""

    root: Path

    @classmethod
    def of(cls, root: Path) -> Self | None:
        """Recognise a folder with a folder of images."""
        return cls(root) if root.is_dir() and images_and_labels(root) else None

    def scans(self, readers: Readers, choice: Choice) -> list[Scan]:
        """List the images with the label maps of their names."""
        return referenced(list_pairs(self.root, readers, choice), readers)

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        """Return none."""
        return {}

    def ignored(self) -> int | None:
        """Return None."""
        return None

    def words(self, choice: Choice) -> str:
        """Name both folders."""
        images, labels = images_and_labels(self.root) or (None, ())
        beside = " or ".join(f"{folder.name}/" for folder in labels)
        return f"{images.name}/ with the label maps of {beside}" if images and beside else f"{images and images.name}/"


@dataclass(frozen=True)
class Anything:
    """A file, or all scans below a folder; a label map beside a scan of the same name is its own."""

    root: Path

    @classmethod
    def of(cls, root: Path) -> Self:
        """Recognise anything."""
        return cls(root)

    def scans(self, readers: Readers, choice: Choice) -> list[Scan]:
        """List whatever can be read."""
        if self.root.is_file():
            return [only(self.root)]
        return referenced(everything(self.root, readers, choice), readers)

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        """Return none."""
        return {}

    def ignored(self) -> int | None:
        """Return None."""
        return None

    def words(self, choice: Choice) -> str:
        """Say so."""
        return "" if self.root.is_file() else "all scans below this folder"


_KINDS: Sequence[type[Layout]] = (Described, Public, Pairs, Anything)


def recognise(root: Path, *, public: bool = True, outside: bool = False) -> Layout:
    """Return what a file or folder is; without `public`, no public data set by the names of its files.

    `outside`: a dataset.json may name files outside of its folder.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    if not root.is_file():
        check(root)
    kinds = [kind for kind in _KINDS if public or kind is not Public]
    layout = next(layout for kind in kinds if (layout := kind.of(root)) is not None)
    return replace(layout, outside=outside) if isinstance(layout, Described) else layout

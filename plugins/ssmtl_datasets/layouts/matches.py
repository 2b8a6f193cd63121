"""The scans of a public data set in a folder: named, with their patients, channels and label maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ssmtl_datasets.channels import Choice, resolve
from ssmtl_datasets.layouts.published import Hit, Hits, Key, Published
from ssmtl_datasets.layouts.tree import Tree
from ssmtl_datasets.naming import is_image_folder, stem
from ssmtl_toolkit.data.finding import parts_of
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import Mask, Scan
from ssmtl_toolkit.text import listed, printable


@dataclass(frozen=True)
class Matches:
    """The files of a published data set in a folder."""

    layout: Published
    tree: Tree
    hits: Hits

    @property
    def claimed(self) -> set[Path]:
        """What no other layout needs to look at."""
        hits = self.hits
        return {hit.entry.path for hit in (*hits.images, *hits.labels, *hits.masks, *hits.copies)}

    @cached_property
    def contrasts(self) -> list[str]:
        """The contrasts of the images, by name."""
        return sorted({image.contrast for image in self.hits.images} - {""})

    @cached_property
    def values(self) -> dict[str, tuple[int, ...]]:
        """The classes: values by name."""
        if self.layout.classes or not self.hits.masks:
            return {k: (v,) if isinstance(v, int) else v for k, v in self.layout.classes.items()}
        return {name: (i,) for i, name in enumerate(sorted({self._class(mask) for mask in self.hits.masks}), start=1)}

    def words(self, choice: Choice) -> str:
        """What the folder was taken for."""
        count = len({image.key[0] for image in self.hits.images})
        more = [f"{count} patient{'s' * (count != 1)}"]
        if self.hits.masks:
            more.append("one mask file per structure")
        if len(self.contrasts) > 1:
            used = "+".join(choice.contrasts) or ("all, joined" if choice.joins else "each a scan")
            more.append(f"contrasts {listed(self.contrasts, 8)} ({used})")
        return f"{self.layout.name}, {', '.join(more)}"

    def scans(self, readers: Readers, choice: Choice) -> list[Scan]:
        """List the scans, and as unfit what is not used.

        Raises:
            DataError: a contrast that was asked for does not exist.
        """
        where = printable(self.tree.root)
        if choice.channel not in (0, "all") and len(self.contrasts) > 1:
            known = listed(self.contrasts, 8)
            raise DataError(f"{where}: its contrasts have names, not numbers; choose by channels=NAME (known: {known})")
        usual = [contrast for contrast in self.contrasts if contrast not in self.layout.apart]
        wanted = resolve(choice.contrasts, self.contrasts, where) if choice.contrasts else usual
        asked = [
            image for image in self.hits.images if image.contrast in wanted or not (image.contrast or choice.contrasts)
        ]
        scans = self._joined(asked, wanted, readers) if choice.joins and wanted else self._each(asked, readers)
        return [*scans, *self._not_asked(asked, choice), *self._copies(), *self._spare()]

    def _each(self, images: Sequence[Hit], readers: Readers) -> list[Scan]:
        """Each image as a scan; contrasts stay in the names if there are several."""
        several = len({image.contrast for image in images}) > 1
        scans = []
        for image in images:
            for name, path, unfit in _scans_in(image, readers, self._name(image, with_contrast=several)):
                contrasts = (image.contrast,) if image.contrast else ()
                scan = Scan(path, name, self._patient(image), unfit=unfit, contrasts=contrasts)
                scans.append(scan if unfit else self._labelled(scan, image))
        return _distinct(scans, self.tree.root)

    def _joined(self, images: Sequence[Hit], wanted: Sequence[str], readers: Readers) -> list[Scan]:
        """One scan of the images of each key, in the order of `wanted`."""
        cases: dict[tuple[Key, str], dict[str, Hit]] = defaultdict(dict)
        for image in images:
            cases[image.key, image.above].setdefault(image.contrast, image)
        scans = []
        for hits in cases.values():
            first, *_ = hits.values()
            name, patient = self._name(first, with_contrast=False), self._patient(first)
            if missing := [contrast for contrast in wanted if contrast not in hits]:
                reason = f"{name!r} has no {', '.join(missing)} (expected: {', '.join(wanted)}); add the file"
                path = first.entry.path
                unfit = f"{printable(path)}: {reason}, or choose other contrasts by channels="
                scans.append(Scan(path, name, patient, unfit=unfit))
                continue
            ordered = [hits[contrast] for contrast in wanted]
            paths = [path for hit in ordered for _, path, _ in _scans_in(hit, readers, name)]
            scan = Scan(paths[0], name, patient, more=tuple(paths[1:]), contrasts=tuple(wanted))
            scans.append(self._labelled(scan, ordered[0]))
        return _distinct(scans, self.tree.root)

    def _labelled(self, scan: Scan, image: Hit) -> Scan:
        if self.layout.on_grid and image.contrast not in self.layout.on_grid:
            return scan
        if label := self._label(image):
            scan = replace(scan, label=label.entry.path)
        masks = {self._class(hit): hit.entry.path for hit in self._masks_of.get(image.key, ()) if _same(hit, image)}
        if masks:
            each = tuple(Mask(name, values[0], masks.get(name)) for name, values in self.values.items())
            folder = next(iter(masks.values()))
            scan = replace(scan, label=folder if folder.is_dir() else folder.parent, masks=each)
        return scan

    def _label(self, image: Hit) -> Hit | None:
        labels = [hit for hit in self._labels_of.get(image.key, ()) if _goes_with(hit, image)]
        twins = {other.above for other in self._images_of[image.key] if other.contrast == image.contrast}
        return _nearest(image, [hit for hit in labels if hit.above == image.above or hit.above not in twins])

    @cached_property
    def _images_of(self) -> dict[Key, list[Hit]]:
        return _by_key(self.hits.images)

    @cached_property
    def _labels_of(self) -> dict[Key, list[Hit]]:
        return _by_key(self.hits.labels)

    @cached_property
    def _masks_of(self) -> dict[Key, list[Hit]]:
        return _by_key(self.hits.masks)

    def _class(self, mask: Hit) -> str:
        patient = mask.key[0].rpartition("/")[2]
        name = mask.structure.removeprefix(patient).lstrip("-_. ") or mask.structure  # p1/p1_liver
        return printable(self.layout.structures.get(name, name))

    def _name(self, image: Hit, *, with_contrast: bool) -> str:
        """Return the name of a scan: its path, without folders that only say that images are in there."""
        text = image.entry.name
        if not with_contrast and image.contrast:
            start, end = image.place
            text = text[:start].rstrip("-_. /") + text[end:]
        *folders, last = text.split("/")[1:] or [text]
        kept = [folder for folder in folders if not is_image_folder(folder)]
        return printable("/".join([*kept, last]))

    def _patient(self, image: Hit) -> str:
        patient, scan = image.key
        return printable((patient or scan).removeprefix(f"{self.tree.name}/"))

    def _not_asked(self, asked: Sequence[Hit], choice: Choice) -> Iterator[Scan]:
        used = {image.entry.path for image in asked}
        for image in self.hits.images:
            if image.entry.path not in used:
                path, name = printable(image.entry.path), self._name(image, with_contrast=True)
                reason = self.layout.apart.get(image.contrast, "")
                reason = reason or f"is not one of the channels asked for ({', '.join(choice.contrasts)})"
                yield Scan(image.entry.path, name, self._patient(image), unfit=f"{path}: {reason}")

    def _copies(self) -> Iterator[Scan]:
        """Yield the images that others were made from, or that were made from others."""
        for image in self.hits.copies:
            path, name = printable(image.entry.path), printable(self.tree.below(image.entry))
            unfit = f"{path}: source or derivative of an image of the data set; give that folder itself to use it"
            yield Scan(image.entry.path, name, self._patient(image), unfit=unfit)

    def _spare(self) -> Iterator[Scan]:
        """Yield the label maps of a key that fit none of its images, such as those in two copies of a data set."""
        used = {self._label(image) for image in self.hits.images}
        for label in self.hits.labels:
            if label not in used:
                path = printable(label.entry.path)
                name = printable(self.tree.below(label.entry))
                yield Scan(label.entry.path, name, name, unfit=f"{path}: a label map of an image that has another one")


def _by_key(hits: Sequence[Hit]) -> dict[Key, list[Hit]]:
    groups: dict[Key, list[Hit]] = defaultdict(list)
    for hit in hits:
        groups[hit.key].append(hit)
    return groups


def _goes_with(label: Hit, image: Hit) -> bool:
    return label.contrast in ("", image.contrast)


def _same(mask: Hit, image: Hit) -> bool:
    return mask.above == image.above and mask.entry.path != image.entry.path


def _nearest(image: Hit, labels: Sequence[Hit]) -> Hit | None:
    """The only label map, or, of several, the only one with the same folders above."""
    if len(labels) == 1:
        return labels[0]
    same = [label for label in labels if label.above == image.above]
    return same[0] if len(same) == 1 else None


def _scans_in(image: Hit, readers: Readers, name: str) -> list[tuple[str, Path, str]]:
    """Name, path and fault of what an image is: a file, or the series in a folder."""
    if not image.entry.is_folder:
        path = image.entry.path
        unfit = "" if readers.can_read(path) else f"{printable(path)}: no installed reader reads such a file"
        return [(name, path, unfit)]
    if not readers.can_read(image.entry.path):
        return []
    found = parts_of(image.entry.path, readers.match(image.entry.path))
    return [(printable(f"{name}/{one.part}" if one.part else name), one.path, one.unfit) for one in found]


def _distinct(scans: Sequence[Scan], root: Path) -> list[Scan]:
    """Name scans that share a name by their paths."""
    count: dict[str, int] = defaultdict(int)
    for scan in scans:
        count[scan.name] += 1
    twice = {name for name, number in count.items() if number > 1}
    return [
        replace(scan, name=printable(scan.path.relative_to(root).with_name(stem(scan.path.name)).as_posix()))
        if scan.name in twice
        else scan
        for scan in scans
    ]

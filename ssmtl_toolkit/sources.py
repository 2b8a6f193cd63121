"""What users write as data: a dataset by name, a path, a pattern, a URL, or several of these, taken together."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, PlainSerializer

from ssmtl_toolkit import text as spec_text
from ssmtl_toolkit.data.files import Waiting, real
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.places import address, check_secrets, is_url, outside_allowed, user_path
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import DatasetSpec, Scan
from ssmtl_toolkit.text import counted, did_you_mean, listed, nearest, printable

if TYPE_CHECKING:
    from ssmtl_toolkit.data.readers import Readers

Given = str | os.PathLike[str] | DatasetSpec
"""One source of scans, as text, path or spec."""

_WILD = re.compile(r"[*?\[]")


def dataset_of(given: Given | Iterable[Given], base: Path | None = None) -> DatasetSpec:
    """Return the dataset that is meant by a text, path, pattern or spec, or by several of them.

    Args:
        given: `phantom`, `mmwhs:DIR`, `scans/`, `scans/*/t1.nii.gz`, `s3://bucket/scans`, a spec, or a list of these.
        base: paths are relative to this folder, and need not exist; by default to the current one, and they must.

    Raises:
        UsageError: it is none of these, an option is wrong, or one of several is given twice.
        DataError: a path does not exist, or a pattern matches nothing.
    """
    if isinstance(given, str | os.PathLike | DatasetSpec):
        spec = _single(given, base)
        allow = outside_allowed.get() and "outside" in type(spec).model_fields
        return spec.model_copy(update={"outside": True}) if allow else spec
    if not isinstance(given, list | tuple):
        raise UsageError(
            f"expected a path, a dataset or its text, such as 'phantom:patients=4', or a list of these, got "
            f"{type(given).__name__}; for arrays and datasets of volumes there is ssmtl_toolkit.from_arrays"
        )
    sources = [dataset_of(one, base) for one in given]
    if not sources:
        raise UsageError("no data are given: the list is empty")
    twice = [spec for i, spec in enumerate(sources) if spec in sources[:i]]
    if twice:
        raise UsageError(f"{printable(str(twice[0]))}: is given twice as data; give it once")
    return sources[0] if len(sources) == 1 else Several(of=tuple(sources))


def _single(given: Given, base: Path | None) -> DatasetSpec:
    if isinstance(given, DatasetSpec):
        return given
    text = os.fspath(given)
    name, options = spec_text.split(text)
    if isinstance(given, str) and text.partition(":")[1] and name in _OURS:
        return _OURS[name].parse(options)
    by_name = isinstance(given, str) and name in _names()  # `folder://server/scans` is one: its path has two slashes
    check_secrets(options if by_name else text)
    if by_name and "://" in options:
        return _elsewhere(name, options)
    if is_url(text) and not by_name:
        return Remote(url=text)
    if isinstance(given, str) and (by_name or _is_typo(name, text)):
        spec = registry().resolve(DatasetSpec, text)
        return spec if base is None else spec.with_paths(lambda path: base / user_path(path))
    path = user_path(text) if base is None else base / user_path(text)
    if not _exists(path):
        if _WILD.search(text):
            pattern = Pattern(pattern=path)
            if base is None:
                pattern.matches()
            return pattern
        if base is None:
            raise DataError(f"{printable(text)}: no such file or folder{_near(path)}; check its path")
    return registry().find(DatasetSpec, "folder").model_validate({"root": path})


def _elsewhere(name: str, options: str) -> DatasetSpec:
    """The dataset whose folder or file is a URL, as in `bids:s3://bucket/study,suffix=T2w`."""
    values, named = spec_text.read_options(options)
    given = [(None, value) for value in values] + list(named.items())
    urls = [value for _, value in given if isinstance(value, str) and is_url(value)]
    below = [(key, "." if value in urls else value) for key, value in given]
    if len(urls) != 1:
        raise UsageError(f"{name}: {len(urls)} of its options are addresses; give one, for its folder or file")
    return Remote(url=urls[0], take=f"{name}:{spec_text.write_options(below)}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder without permission
        return False


def _is_typo(name: str, text: str) -> bool:
    """Whether a text looks like a dataset with options whose name is misspelt: `find` then says so."""
    return ":" in text and not _exists(Path(text)) and bool(did_you_mean(name, _names()))


def _names() -> list[str]:
    return [spec.name for spec in registry().of(DatasetSpec)]


def _near(path: Path) -> str:
    """The most similar name in the folder where a path was looked for, or of a dataset."""
    here = next((folder for folder in path.parents if folder.is_dir()), Path())
    missing = path.relative_to(here).parts[0] if here in path.parents else path.name
    try:
        names = [entry.name for entry in here.iterdir() if not entry.name.startswith(".")]
    except OSError:
        names = []
    found = nearest(missing, [*names, *(_names() if len(path.parts) == 1 else [])])
    return f"; did you mean '{printable(here / found if found in names else found)}'?" if found else ""


def _resolved(given: Any) -> Any:
    return tuple(dataset_of(one) for one in given) if isinstance(given, list | tuple) else given


def _texts(specs: tuple[DatasetSpec, ...]) -> list[str]:
    return [spec.full() for spec in specs]


class Several(DatasetSpec):
    """The scans of several sources together, each named and given a patient as it would be by itself.

    If a scan has the name of one in a source before it, it is called `SOURCE/NAME`. Patients of one name are taken as
    one patient, whom no split parts; `remarks` says so.
    """

    name: ClassVar[str] = "several"
    positional: ClassVar[str | None] = "of"

    of: Annotated[tuple[DatasetSpec, ...], BeforeValidator(_resolved), PlainSerializer(_texts)] = Field(
        description="The sources, as a list of texts."
    )

    def scans(self, cache: Path, readers: Readers) -> list[Scan]:
        from ssmtl_toolkit.data.split import with_patients  # numpy, which --help does not need

        every: list[Scan] = []
        for label, spec in self._named():
            scans, _ = with_patients(spec.scans(cache, readers), None)
            every += _after(every, scans, label)
        return every

    def fetch(self, cache: Path, readers: Readers, waiting: Waiting) -> None:
        for spec in self.of:
            spec.fetch(cache, readers, waiting)

    def with_paths(self, change: Callable[[Path], Path]) -> Self:
        return self.model_copy(update={"of": tuple(spec.with_paths(change) for spec in self.of)})

    @property
    def labels(self) -> list[str]:
        """A short name for each source, all different: that of its folder or file, with the folder above if needed."""
        for depth in (1, 2, 3):
            labels = [_label(spec, depth) for spec in self.of]
            if len(set(labels)) == len(labels):
                return labels
        return [f"{label}-{i}" for i, label in enumerate(labels, start=1)]

    def layout(self) -> str:
        words = [f"{label}: {words}" if (words := spec.layout()) else label for label, spec in self._named()]
        return f"{len(self.of)} sources ({listed(words, 5)})"

    def remarks(self, scans: Sequence[Scan]) -> Sequence[str]:
        inside: dict[str, dict[str, None]] = defaultdict(dict)
        for scan in scans:
            if not scan.unfit:
                inside[scan.patient][scan.source] = None
        several = {patient: list(sources) for patient, sources in inside.items() if len(sources) > 1}
        remarks = []
        if several:
            patient, sources = next(iter(several.items()))
            remarks.append(
                f"{counted(len(several), 'name')} of patients, such as {patient}, occur in several sources "
                f"({listed(sources, 3)}): they are taken as one patient each; --patient '(.+)' of data split and "
                f"finetune says that each scan is a patient"
            )
        return [*remarks, *self._about_classes()]

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        """The classes of all sources; they must not contradict each other."""
        merged: dict[str, tuple[int, ...]] = {}
        for label, spec in self._named():
            classes = spec.classes()
            new = {value for name, values in classes.items() if name not in merged for value in values}
            for name, values in merged.items():
                if classes and (classes.get(name, values) != values or (name not in classes and new & set(values))):
                    raise DataError(
                        f"{label}: its classes ({_shown(classes)}) contradict those of the sources before it "
                        f"({_shown(merged)}); name the classes by --classes name=value,…"
                    )
            merged.update(classes)
        return merged

    def ignored(self) -> int | None:
        """The value for "not annotated" of all sources that have one; they must agree."""
        values = {label: value for label, spec in self._named() if (value := spec.ignored()) is not None}
        if len(set(values.values())) > 1:
            shown = listed((f"{value} in {label}" for label, value in values.items()), 3)
            raise DataError(f"the value for not annotated differs, {shown}; say by --ignore-value which it is")
        return next(iter(values.values()), None)

    def with_contrasts(self, contrasts: Sequence[str]) -> Self:
        return self.model_copy(update={"of": tuple(spec.with_contrasts(contrasts) for spec in self.of)})

    def suggested(self) -> Mapping[str, Any]:
        """What all sources suggest alike."""
        every = [dict(spec.suggested()) for spec in self.of]
        return reduce(lambda a, b: {k: v for k, v in a.items() if k in b and b[k] == v}, every)

    def _named(self) -> list[tuple[str, DatasetSpec]]:
        return list(zip(self.labels, self.of, strict=True))

    def _about_classes(self) -> list[str]:
        defined = {label: bool(spec.classes()) for label, spec in self._named()}
        without = [label for label, has in defined.items() if not has]
        if not without or len(without) == len(defined):
            return []
        return [f"{listed(without, 3)} does not name its label classes; those of the other sources are used for it too"]


class Pattern(DatasetSpec):
    """The files and folders that match a pattern such as `scans/*/t1.nii.gz`, named by their paths.

    `**` stands for any number of folders. A file that matches is a scan, unless it looks like a label map; of a folder
    all scans in it are taken.
    """

    name: ClassVar[str] = "pattern"
    positional: ClassVar[str | None] = "pattern"

    pattern: Path = Field(description="A path with *, ?, [abc] or **.")

    def scans(self, cache: Path, readers: Readers) -> list[Scan]:
        folder = registry().find(DatasetSpec, "folder")
        scans: dict[str, Scan] = {}
        for path in self.matches():
            place = (path if path.is_dir() else path.parent).relative_to(self.base)
            for scan in folder.model_validate({"root": path}).scans(cache, readers):
                name, patient = (printable(place / word) for word in (scan.name, scan.patient))
                if scan.patient == path.name != scan.name:  # the folder is that of one patient
                    patient = printable(place)
                unfit = scan.unfit
                if name in scans:
                    unfit = f"{printable(path)}: has the same name as {printable(scans[name].path.name)}"
                    name = printable(place / path.name)
                scans[name] = replace(scan, name=name, patient=patient, named=False, unfit=unfit)
        return list(scans.values())

    @property
    def base(self) -> Path:
        """The last folder of the path before its first wild card."""
        parts = self.pattern.parts
        wild = next((i for i, part in enumerate(parts) if _WILD.search(part)), len(parts) - 1)
        return Path(*parts[:wild])

    def matches(self) -> list[Path]:
        """The paths that match, in the order of names; a path below another one that matches is not listed again.

        Raises:
            DataError: there is none.
        """
        inside = str(self.pattern.relative_to(self.base))
        try:
            found = sorted(path for path in self.base.glob(inside) if not path.name.startswith("."))
        except ValueError as error:  # `**` beside other characters
            raise DataError(f"{printable(self.pattern)}: is no pattern ({error}); check it") from None
        folders = {path for path in found if path.is_dir()}
        found = [path for path in found if folders.isdisjoint(path.parents)]
        if not found:
            where = "" if self.base.is_dir() else f"; there is no folder {printable(self.base)}{_near(self.base)}"
            raise DataError(f"{printable(self.pattern)}: nothing matches this pattern{where}; check it")
        return found

    def layout(self) -> str:
        return f"{counted(len(self.matches()), 'path')} that match a pattern"


def _taken(given: Any) -> Any:
    return registry().resolve(DatasetSpec, given) if isinstance(given, str) else given


class Remote(DatasetSpec):
    """What is at a URL, such as `s3://bucket/scans`: a folder or a file, fetched into the cache and read from there.

    `take` says as what it is taken: a dataset whose path is `.`, such as `bids:.,suffix=T2w`.
    """

    name: ClassVar[str] = "remote"
    positional: ClassVar[str | None] = "url"

    url: Annotated[str, BeforeValidator(address)] = Field(description="The address, without credentials.")
    take: Annotated[DatasetSpec, BeforeValidator(_taken), PlainSerializer(lambda spec: spec.full())] = Field(
        default_factory=lambda: _taken("folder:."), description="As what it is taken, as the text of a dataset."
    )

    def fetch(self, cache: Path, readers: Readers, waiting: Waiting) -> None:
        from ssmtl_toolkit.remote.mirror import Mirror

        _fetched[self.url] = Mirror(self.url, cache, waiting).update(lambda name: readers.can_read(Path(name)))

    def scans(self, cache: Path, readers: Readers) -> list[Scan]:
        return self._here().scans(cache, readers)

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        return self._here().classes()

    def ignored(self) -> int | None:
        return self._here().ignored()

    def layout(self) -> str:
        return self._here().layout()

    def remarks(self, scans: Sequence[Scan]) -> Sequence[str]:
        return self._here().remarks(scans)

    def suggested(self) -> Mapping[str, Any]:
        return self.take.suggested()

    def with_contrasts(self, contrasts: Sequence[str]) -> Self:
        chosen = self._here().with_contrasts(contrasts)
        return self.model_copy(update={"take": chosen.with_paths(lambda path: path.relative_to(_fetched[self.url]))})

    def _here(self) -> DatasetSpec:
        """The same of what was fetched."""
        if self.url not in _fetched:
            raise DataError(f"{printable(self.url)}: was not fetched yet; list its scans first")
        return self.take.with_paths(lambda path: _fetched[self.url] / path)


_fetched: dict[str, Path] = {}  # where this process has put what is at a URL
_OURS: dict[str, type[DatasetSpec]] = {spec.name: spec for spec in (Several, Pattern, Remote)}


def _label(spec: DatasetSpec, depth: int) -> str:
    """The last `depth` parts of a source's path, the suffix of a file omitted; of one without a path its name."""
    if isinstance(spec, Remote):
        return printable("/".join(spec.url.partition("://")[2].split("/")[-depth:]))
    place = next((value for _, value in spec if isinstance(value, Path)), None)
    if place is None:
        return spec.name
    whole = real(place) if ".." in place.parts else place.absolute()
    *above, name = whole.parts[-depth:]
    name = name if place.is_dir() or isinstance(spec, Pattern) else name.partition(".")[0] or name
    return printable("/".join([*above, name]).strip("/")) or spec.name


def _shown(classes: Mapping[str, tuple[int, ...]]) -> str:
    return listed((f"{name}={'+'.join(map(str, values))}" for name, values in classes.items()), 8)


def _after(before: Sequence[Scan], scans: Sequence[Scan], source: str) -> list[Scan]:
    """Mark scans as those of a source; names and files that occur in sources before it are not used again."""
    names = {scan.name for scan in before}
    files = {_files(scan): scan.name for scan in before if not scan.unfit}
    marked = []
    for scan in scans:
        known = "" if scan.unfit else files.get(_files(scan), "")
        unfit = f"{printable(scan.path)}: is listed already, as {known}" if known else scan.unfit
        name = f"{source}/{scan.name}" if scan.name in names else scan.name
        marked.append(replace(scan, name=name, unfit=unfit, source=source))
    return marked


def _files(scan: Scan) -> tuple[Path, ...]:
    return tuple(real(path) for path in scan.paths)

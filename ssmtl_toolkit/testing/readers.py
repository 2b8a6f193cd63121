"""Checks of readers, on an example file."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssmtl_toolkit.data.files import digest
from ssmtl_toolkit.data.volume import Header, Volume
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import ReaderSpec
from ssmtl_toolkit.testing.case import Bench, check, fail, require


def _scans(spec: ReaderSpec) -> bool:
    return not spec.only_labels


def _labels(spec: ReaderSpec) -> bool:
    return spec.only_labels


@check(ReaderSpec, "it tells which paths it matches, whether they exist or not")
def matching_never_fails(bench: Bench) -> None:
    spec = _spec(bench)
    (bench.folder / "empty").mkdir()
    (bench.folder / "empty.nii.gz").write_bytes(b"")
    for path in (bench.folder / "missing", bench.folder / "missing.xyz", bench.folder / "empty", Path("/")):
        told = spec.matches(path)
        require(isinstance(told, bool), f"matches({path.name!r}) gives {told!r}; give True or False")
    require(not spec.matches(bench.folder / ".hidden"), "it matches hidden files, such as macOS's ._ companions")
    require(not spec.matches(bench.folder / "empty"), "it matches an empty folder; look for the files that it reads")
    require(spec.revision >= 1, f"revision is {spec.revision}; count from 1")


@check(ReaderSpec, "it matches its example and names all files that it reads", needs_example=True)
def example_is_matched(bench: Bench) -> None:
    spec, path = _made(bench)
    require(spec.matches(path), f"matches() denies {path.name}")
    parts = spec.parts(path)
    require(bool(parts), f"parts() finds no scan in {path.name}")
    for part in parts.values():
        files = list(spec.files(part))
        missing = [file for file in files if not file.exists()]
        require(bool(files) and not missing, f"files() names {[f.name for f in missing]}, which are not there")


@check(ReaderSpec, "it reads a volume whose spacing and affine agree", applies=_scans, needs_example=True)
def volume_is_sound(bench: Bench) -> None:
    for volume in _volumes(bench):
        array = volume.array
        require(array.dtype.kind in "iufb" and array.dtype.isnative, f"voxels are {array.dtype}; give native numbers")
        require(bool(np.isfinite(array).all()), "voxels are NaN or infinite; replace and count them (Volume.replaced)")
        lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)
        spacing = np.asarray(volume.spacing)
        require(bool((spacing > 0).all()), f"spacing is {volume.spacing}; it is in mm and above 0")
        if (abs(spacing / lengths - 1) > 0.01).any():
            require(bool(volume.notes), f"spacing is {volume.spacing}, the affine's {tuple(lengths)}; note it")
        require(volume.slice_axis in (0, 1, 2), f"slice_axis is {volume.slice_axis}; it is 0, 1 or 2")


@check(ReaderSpec, "what its header says is what it reads", applies=_scans, needs_example=True)
def header_agrees(bench: Bench) -> None:
    spec, path = _made(bench)
    for part in spec.parts(path).values():
        header, volume = spec.header(part), spec.read(part, 0)
        if not isinstance(header, Header):
            fail(f"header gives {type(header).__name__}; give a Header")
        for name in ("shape", "spacing", "slice_axis", "channels"):
            said, found = getattr(header, name), getattr(volume, name)
            require(bool(np.allclose(said, found)), f"header says {name} {said}, and read gives {found}")
        require(bool(np.allclose(header.affine, volume.affine)), "header and read give different affines")
        require(header.volumes >= 1, f"header says {header.volumes} volumes; of a 3-D scan it is 1")


@check(ReaderSpec, "reading twice gives the same, and leaves the files alone", applies=_scans, needs_example=True)
def reading_repeats(bench: Bench) -> None:
    spec, path = _made(bench)
    before = digest(path)
    first, second = _read_all(spec, path), _read_all(spec, path)
    for a, b in zip(first, second, strict=True):
        same = np.array_equal(a.array, b.array) and np.array_equal(a.affine, b.affine) and a.spacing == b.spacing
        require(same, "two readings differ; keep no state in the reader")
    require(digest(path) == before, "reading changes the file")


@check(ReaderSpec, "the classes that it names have whole values, none of them the background", needs_example=True)
def classes_are_sound(bench: Bench) -> None:
    spec, path = _made(bench)
    for part in spec.parts(path).values():
        classes = spec.classes(part)
        owners: dict[int, str] = {}
        for name, values in classes.items():
            require(isinstance(name, str) and bool(name), f"classes() has the name {name!r}; give text")
            whole = all(isinstance(value, int) and value > 0 for value in values)
            require(bool(values) and whole, f"classes() gives {name!r} the values {values}; give integers above 0")
            for value in values:
                require(value not in owners, f"classes() gives {value} to {owners.get(value)!r} and {name!r}")
                owners[value] = name


@check(
    ReaderSpec,
    "what is missing, empty or damaged is refused in one line that names it",
    applies=_scans,
    needs_example=True,
)
def damage_is_refused(bench: Bench) -> None:
    spec, path = _made(bench)
    part = next(iter(spec.parts(path).values()))
    missing = bench.folder / "nowhere" / path.name
    _refused(spec, missing, "a missing file")
    files = [file for file in spec.files(part) if file.is_file()]
    for number, file in enumerate(files[:2]):
        data = file.read_bytes()
        ways = {"an empty file": b"", "half a file": data[: len(data) // 2]}
        if number == 0 and path.is_file():  # of bare voxels nobody can tell that they are noise, nor in a folder
            ways["noise"] = b"\x07" * 999
        for what, content in ways.items():
            folder = bench.folder / f"{number} {what}"
            copied = _copied(path, files, folder)
            (folder / file.relative_to(path.parent)).write_bytes(content)
            _refused(spec, copied, what)


@check(ReaderSpec, "a label map lies on the grid of its scan", applies=_labels, needs_example=True)
def label_is_placed(bench: Bench) -> None:
    spec, path, image = _labelled(bench)
    label = spec.read_label(path, image)
    require(label.shape == image.shape, f"read_label gives {label.shape} voxels for a scan of {image.shape}")
    require(bool(np.allclose(label.affine, image.affine)), "read_label gives another affine than the scan's")
    array = label.array
    require(array.dtype.kind in "iu", f"voxels are {array.dtype}; give whole numbers")
    known = {0, *(value for values in spec.classes(path).values() for value in values)}
    extra = set(np.unique(array).tolist()) - known
    require(not extra, f"voxels have the values {sorted(extra)[:5]}, which classes() does not name")


@check(ReaderSpec, "a label map alone, missing or damaged is refused in one line", applies=_labels, needs_example=True)
def damaged_label_is_refused(bench: Bench) -> None:
    spec, path, image = _labelled(bench)
    data = path.read_bytes()
    ways = {"empty": b"", "half": data[: len(data) // 2], "noise": b"\x07" * 999}
    for what, content in ways.items():
        (bench.folder / what).mkdir()
        (bench.folder / what / path.name).write_bytes(content)
    tries = {"alone": path, **{what: bench.folder / what / path.name for what in (*ways, "missing")}}
    for what, file in tries.items():
        try:
            if what == "alone":
                spec.read(file)
            else:
                spec.read_label(file, image)
        except DataError as error:
            require("\n" not in str(error).strip(), f"of a label map {what} it says more than one line: {error}")
        except Exception as error:
            if not (isinstance(error, OSError) and error.errno is not None):
                fail(f"a label map {what} makes it fail with {type(error).__name__}; raise DataError('{file.name}: …')")
        else:
            fail(f"a label map {what} is read as if it were sound")


def _copied(path: Path, files: Sequence[Path], folder: Path) -> Path:
    """Copy an example with all its files; return where it is now."""
    if path.is_dir():
        return Path(shutil.copytree(path, folder / path.name))
    for file in {path, *files}:
        target = folder / file.relative_to(path.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder / path.name


def _refused(spec: ReaderSpec, path: Path, what: str) -> None:
    try:
        for part in spec.parts(path).values():
            with contextlib.suppress(DataError):  # it need not see damage behind the header
                spec.header(part)
            spec.read(part, 0)
    except DataError as error:
        require("\n" not in str(error).strip(), f"of {what} it says more than one line: {str(error)[:100]!r}")
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            return  # the toolkit names the file
        said = f"{type(error).__name__}: {str(error)[:100]}"
        fail(f"{what} makes it fail with {said}; raise DataError('{path.name}: …')")
    else:
        fail(f"{what} is read as if it were whole; check sizes and checksums, and raise DataError")


def _spec(bench: Bench) -> ReaderSpec:
    assert isinstance(bench.spec, ReaderSpec)
    return bench.spec


def _labelled(bench: Bench) -> tuple[ReaderSpec, Path, Volume]:
    """The reader, a label map, and the scan that it is of."""
    made = bench.made()
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Volume)):
        fail(f"the example is {made!r}; of a reader of labels give (path of a label map, Volume of its scan)")
    return _spec(bench), made[0], made[1]


def _made(bench: Bench) -> tuple[ReaderSpec, Path]:
    path = bench.made()
    if isinstance(path, tuple):
        path = path[0]
    if not isinstance(path, Path):
        fail(f"the example is {path!r}; give the path of a file or folder")
    return _spec(bench), path


def _volumes(bench: Bench) -> list[Volume]:
    return _read_all(*_made(bench))


def _read_all(spec: ReaderSpec, path: Path) -> list[Volume]:
    volumes = [spec.read(part, 0) for part in spec.parts(path).values()]
    for volume in volumes:
        if not isinstance(volume, Volume):
            fail(f"read gives {type(volume).__name__}; give a Volume")
    return volumes

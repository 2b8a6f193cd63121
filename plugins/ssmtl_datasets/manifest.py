"""Scans listed in a table: CSV with a header, or TOML with [[scan]] tables."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_datasets.naming import stem
from ssmtl_toolkit.data.files import is_below, real
from ssmtl_toolkit.documents import read_toml
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.places import user_path
from ssmtl_toolkit.specs import Mask, Scan
from ssmtl_toolkit.text import did_you_mean, printable

COLUMNS = ("image", "label", "patient", "modality", "slices", "name")
TABLES = ("scan", "classes")  # of a TOML manifest
SUFFIXES = (".csv", ".toml")
_FURTHER = re.compile(r"image_([2-9]|[1-9][0-9]{1,2})")  # the column of the second channel, the third …
_MASK = "mask:"  # begins the column of a structure's mask, whose name follows
_LAST = 99999  # slice of a scan
_SLICES = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")


def list_manifest(file: Path, *, outside: bool = False) -> list[Scan]:
    """List the scans of a manifest in its order; paths are relative to its folder, and below it unless `outside`.

    Raises:
        DataError: naming the file and the line or table that cannot be used.
    """
    scans: dict[Path, Scan] = {}
    rows = list(_rows(file))
    values = mask_values(file, rows)
    for where, row in rows:
        scan = _scan(file, where, row, values)
        if not outside:
            _check_below(file.parent, where, scan)
        key = real(scan.path)
        if key in scans:
            raise DataError(f"{where}: the image {printable(scan.path)} is listed twice; list it once")
        scans[key] = scan
    if not scans:
        raise DataError(f"{printable(file)}: lists no scan; expected a line or a [[scan]] table for each")
    names = [scan.name for scan in scans.values()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{printable(file)}: two images are both called {twice!r}; rename or move one of them")
    return list(scans.values())


def words(file: Path) -> str:
    """Say what it is, and how many channels it lists."""
    images = {len(_images(where, row)) for where, row in _rows(file)}
    return "manifest" if images <= {1} else f"manifest, {' or '.join(map(str, sorted(images)))} channels"


def classes_of(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the table [classes] of a TOML manifest: name = value, or a list of values, the first being written.

    Without it, structures that have a mask each are classes with the values 1, 2 … in the order of their names.
    """
    table = _toml(file).get("classes", {}) if file.suffix.lower() == ".toml" else {}
    if not table:
        return {name: (value,) for name, value in mask_values(file, list(_rows(file))).items()}
    classes = {}
    for name, value in table.items() if isinstance(table, dict) else [("classes", table)]:
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
            raise DataError(
                f"{printable(file)}: class {name!r} is {value!r}; expected an integer or a list of integers"
            )
        classes[name] = tuple(values)
    return classes


def mask_values(file: Path, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, int]:
    """Return the value of each structure that has a mask of its own, by [classes] or the order of names.

    Raises:
        DataError: [classes] does not name one of them.
    """
    names = sorted({name for where, row in rows for name in _masks(where, row)})
    table = _toml(file).get("classes", {}) if file.suffix.lower() == ".toml" else {}
    if not names or not table:
        return {name: value for value, name in enumerate(names, start=1)}
    known = classes_of(file)
    if unknown := [name for name in names if name not in known]:
        hint = did_you_mean(unknown[0], known)
        raise DataError(
            f"{printable(file)}: has masks of {printable(unknown[0])!r}, which [classes] does not name{hint}"
        )
    return {name: known[name][0] for name in names}


def _masks(where: str, row: Mapping[str, Any]) -> dict[str, str]:
    """Return the path of each mask of a row, by the structure's name."""
    table = row.get("masks", {})
    if not isinstance(table, dict):
        raise DataError(f"{where}: masks are {table!r}; expected a table, masks = {{liver = 'liver.nii.gz'}}")
    columns = {column.removeprefix(_MASK): path for column, path in row.items() if column.startswith(_MASK) and path}
    return {name: _text(where, f"the mask of {name}", path) for name, path in {**table, **columns}.items()}


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row with its place in the file."""
    name = printable(file)
    if file.is_dir():
        raise DataError(f"{name}: is a folder; give the table itself, or the folder without `manifest:`")
    if not file.is_file():
        raise DataError(f"{name}: no such file; check its path")
    if file.suffix.lower() == ".toml":
        document = _toml(file)
        _check_tables(name, document)
        tables = document.get("scan", [])
        if not (isinstance(tables, list) and all(isinstance(table, dict) for table in tables)):
            raise DataError(f"{name}: expected one [[scan]] table per scan")
        for number, table in enumerate(tables, start=1):
            where = f"{name}, scan {number}"
            _check_columns(where, list(table))
            yield where, table
        return
    line = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restkey="", strict=True)
            columns = [column.strip() for column in reader.fieldnames or []]
            reader.fieldnames = columns
            _check_columns(f"{name}, line 1", columns)
            for row in reader:
                line = reader.line_num
                where = f"{name}, line {line}"
                if "" in row:
                    raise DataError(f"{where}: has more fields than the header; quote values that hold a comma")
                yield where, {key: (value or "").strip() for key, value in row.items()}
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: is not in UTF-8 ({error}); save it as CSV in UTF-8") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror or error}); check its permissions") from error
    except csv.Error as error:
        raise DataError(f"{name}, after line {line}: cannot be read as CSV ({error}); look for a quote") from error


def _toml(file: Path) -> dict[str, Any]:
    try:
        return read_toml(file)
    except (OSError, ValueError) as error:  # ValueError: not TOML, not UTF-8, a number of over 4300 digits
        raise DataError(f"{printable(file)}: cannot be read as TOML ({error})") from None


def _check_tables(name: str, document: Mapping[str, Any]) -> None:
    """Refuse what a TOML manifest has beside its scans and classes: it would go unnoticed."""
    for key in document:
        if key not in TABLES:
            raise DataError(f"{name}: unknown table {key!r}{did_you_mean(key, TABLES)} (known: [[scan]], [classes])")


def _check_columns(where: str, columns: list[str]) -> None:
    if "image" not in columns:
        hint = did_you_mean("image", columns) or "; its first line names the columns"
        separated = "; separate the columns by commas" if any(";" in c or "\t" in c for c in columns) else hint
        raise DataError(f"{where}: has no column `image` (found: {', '.join(columns) or 'nothing'}){separated}")
    if twice := next((column for column in columns if columns.count(column) > 1), None):
        raise DataError(f"{where}: has two columns {twice!r}; name each once, further channels image_2, image_3 …")
    further = sorted(int(match[1]) for column in columns if (match := _FURTHER.fullmatch(column)))
    for expected, number in enumerate(further, start=2):
        if number != expected:
            raise DataError(f"{where}: has image_{number} but no image_{expected}; number further images from 2")
    for column in columns:
        is_mask = column == "masks" or (column.startswith(_MASK) and column != _MASK)
        if column not in COLUMNS and not _FURTHER.fullmatch(column) and not is_mask:
            hint = did_you_mean(column, COLUMNS)
            known = f"{', '.join(COLUMNS)}, image_2, image_3 … for further channels, and mask:NAME for each structure"
            raise DataError(f"{where}: unknown column {column!r}{hint} (known: {known})")


def _scan(file: Path, where: str, row: Mapping[str, Any], values: Mapping[str, int]) -> Scan:
    texts = {column: _text(where, column, row.get(column, "")) for column in ("label", "patient", "modality", "name")}
    image, *more = (_path(file, f"{where}: the image", text) for text in _images(where, row))
    label = _path(file, f"{where}: the label", texts["label"]) if texts["label"] else None
    paths = {name: _path(file, f"{where}: the mask of {name}", text) for name, text in _masks(where, row).items()}
    if paths and label:
        raise DataError(f"{where}: has both a label map and masks; give one of them")
    masks = tuple(Mask(name, value, paths.get(name)) for name, value in values.items()) if paths else ()
    label = label or next((path.parent for path in paths.values()), None)
    for path in (image, *more):
        if path == label:
            raise DataError(f"{where}: image and label are the same file, {printable(path)}")
        if [image, *more].count(path) > 1:
            raise DataError(f"{where}: two of its images are {printable(path)}; each channel needs a file of its own")
    name = _below(texts["name"]) or _name(file, image)
    if not name:
        raise DataError(f"{where}: the image {printable(image)} is not a scan; give a file, or the folder of one scan")
    patient, annotated = texts["patient"] or name, _slices(where, row.get("slices", ""))
    return Scan(
        image, name, patient, texts["modality"], label, annotated=annotated, named=True, more=tuple(more), masks=masks
    )


def _images(where: str, row: Mapping[str, Any]) -> list[str]:
    """Return the paths of all channels: `image`, which in TOML may be a list, and image_2, image_3 …"""
    first = row.get("image", "")
    further = sorted((column for column in row if _FURTHER.fullmatch(column)), key=lambda column: int(column[6:]))
    if isinstance(first, list):
        if further:
            raise DataError(f"{where}: image is a list, but there is also {further[0]}; use one or the other")
        return [_image(where, f"image {i}", value) for i, value in enumerate(first or [""], start=1)]
    return [_image(where, column, row[column]) for column in ("image", *further)]


def _image(where: str, column: str, value: Any) -> str:
    text = _text(where, column, value)
    if not text:
        raise DataError(f"{where}: names no {column}; give its path")
    return text


def _text(where: str, column: str, value: Any) -> str:
    if not isinstance(value, str | int):
        raise DataError(f"{where}: {column} is {value!r}; expected text")
    return str(value)


def _path(file: Path, what: str, text: str) -> Path:
    """Return the path that `text` names, relative to the folder of the manifest."""
    try:
        path = file.parent / user_path(text)
        exists = path.exists()
    except (OSError, ValueError) as error:  # too long, a null character, no such user
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{what} {printable(text[:200])!r} is not a valid path ({reason})") from None
    if not exists:
        other = "; a file there has this name in another Unicode form (NFC, NFD)" if _otherwise_written(path) else ""
        raise DataError(f"{what} {printable(path)} does not exist{other}; paths are relative to the manifest")
    return path


def _otherwise_written(path: Path) -> bool:
    """Whether the folder has a name that looks the same: macOS takes an umlaut apart, others do not."""
    name = unicodedata.normalize("NFC", path.name)
    if name.isascii() or not path.parent.is_dir():
        return False
    return any(unicodedata.normalize("NFC", other.name) == name for other in path.parent.iterdir())


def _check_below(folder: Path, where: str, scan: Scan) -> None:
    """Refuse files outside of the manifest's folder: whoever wrote it may have been a stranger."""
    for path in (*scan.paths, *scan.label_paths):
        if not is_below(real(path), real(folder)):
            raise DataError(
                f"{where}: {printable(path)} is outside of the manifest's folder, {printable(folder)}; move the "
                f"manifest, or, if you trust who wrote it, add --allow-outside"
            )


def _name(file: Path, image: Path) -> str:
    try:
        shown = image.relative_to(file.parent)
    except ValueError:
        shown = Path(image.name)
    shown = shown if shown.name else Path(real(image).name)
    if not shown.name:
        return ""
    return _below(shown.with_name(stem(shown.name)))


def _below(name: str | Path) -> str:
    """A name that is a relative path without `..`: files are called after it."""
    parts = [part for part in Path(name).parts if part not in ("..", ".", "/", "//")]
    return printable(Path(*parts)) if parts else ""


def _slices(where: str, value: Any) -> tuple[int, ...] | None:
    """Read `3 5 7-9` or a list of integers; None if empty."""
    if value in ("", None):
        return None
    if isinstance(value, list) and value and all(isinstance(i, int) and 0 <= i <= _LAST for i in value):
        return tuple(sorted(set(value)))
    matches = [_SLICES.fullmatch(part) for part in value.split()] if isinstance(value, str) else [None]
    ranges = [(int(m[1]), int(m[2] or m[1])) for m in matches if m]
    if len(ranges) < len(matches) or any(first > last or last > _LAST for first, last in ranges):
        raise DataError(f"{where}: slices are {value!r}; expected numbers from 0 and ranges, such as 3 5 7-9")
    return tuple(sorted({i for first, last in ranges for i in range(first, last + 1)}))

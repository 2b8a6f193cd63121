"""The series in a folder of DICOM files: which images belong together, and which series are scans."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssmtl_formats.films import FILM
from ssmtl_formats.headers import Frame, read_frames
from ssmtl_formats.names import dicom_files
from ssmtl_toolkit.data.source import FileError, naming_file
from ssmtl_toolkit.text import listed

_IN_COLOUR = "a multi-frame image in colour, or one that cannot be read"
_State = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Series:
    """The images of one series. `unfit` says why it is not a scan; `folders` are those it is spread over, if any."""

    name: str
    frames: tuple[Frame, ...]
    unfit: str
    folders: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, in the order of names."""
        return tuple(dict.fromkeys(frame.file for frame in self.frames))


def series_of(folder: Path) -> tuple[Series, ...]:
    """Read the headers of all DICOM files of a folder, again only if they change.

    Raises:
        DataError: naming a file that is damaged; without it the series could not be known to be complete.
    """
    state = []
    for file in dicom_files(folder):
        with naming_file(file):
            status = file.stat()
        state.append((file.name, status.st_size, status.st_mtime_ns, status.st_ino))
    return _series(folder, tuple(state))


@functools.lru_cache(maxsize=64)
def _series(folder: Path, state: _State) -> tuple[Series, ...]:
    groups: dict[tuple[str, int | None], list[Frame]] = {}
    for name, *_ in state:
        with naming_file(folder / name):
            for frame in read_frames(folder / name):
                groups.setdefault(frame.series, []).append(frame)
    counts: Counter[str] = Counter()
    all_series = []
    for key in sorted(groups, key=lambda key: (key[1] is None, key[1] or 0, key[0])):
        name = f"series-{'none' if key[1] is None else key[1]}"
        counts[name] += 1
        suffix = f"-{counts[name]}" if counts[name] > 1 else ""
        all_series.append(Series(name + suffix, tuple(groups[key]), unfit(groups[key])))
    return tuple(all_series)


def unfit(frames: list[Frame]) -> str:
    """Say why the images of a series are not a scan, "" if they are one."""
    reasons = Counter(frame.unfit for frame in frames)
    if not reasons[""]:
        return reasons.most_common(1)[0][0]
    if len(frames) == 1:
        return "a single image"
    planes = Counter(tuple(round(x, 2) for x in frame.directions) for frame in frames if not frame.unfit)
    # a stray scout among the slices of a series is another matter: it is refused when the series is read
    return "a localizer, with planes across each other" if 2 * max(planes.values()) <= len(frames) else ""


def films_among(all_series: Sequence[Series]) -> tuple[Series, ...]:
    """The same series for --axis time: each file whose frames have no positions is a series by itself."""
    found: list[Series] = []
    for series in all_series:
        films = [frame.film for frame in series.frames if frame.film] if series.unfit == FILM else []
        names = [series.name, *(f"{series.name}-film-{i}" for i in range(2, len(films) + 1))]
        fit = [Series(name, film, "") for name, film in zip(names, films, strict=False)]
        found += fit or [replace(series, unfit=_IN_COLOUR) if series.unfit == FILM else series]
    return tuple(found)


def chosen(path: Path, all_series: tuple[Series, ...]) -> Series:
    """Return the series that `path` refers to: that of a file, or the only one of a folder that is a scan.

    Raises:
        FileError: there is none, or there are several.
    """
    if path.is_dir():
        fit = [series for series in all_series if not series.unfit]
        if len(fit) > 1:
            names = listed((f"{series.name} with {len(series.frames)} images" for series in fit), 5)
            raise FileError(f"holds {len(fit)} series ({names}); give a file of the one to read")
    else:
        fit = [series for series in all_series if path in series.files]
        if fit and fit[0].unfit:
            raise FileError(f"is {fit[0].unfit}, not a slice of a scan; give the folder or a file of another series")
    if not fit:
        raise FileError(f"holds no series of slices: {nothing(all_series)}")
    return fit[0]


def nothing(all_series: tuple[Series, ...]) -> str:
    """Say what the series are, none of which is a scan."""
    if not all_series:
        return "nothing but an index of DICOM files; give a folder with the slices of a scan"
    reasons = listed((f"{series.name} is {series.unfit}" for series in all_series), 5)
    return f"{reasons}; give a folder with the slices of a scan"

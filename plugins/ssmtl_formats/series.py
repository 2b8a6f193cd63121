"""The series in a folder of DICOM files: which images belong together, and which series are scans."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ssmtl_formats.headers import Frame, read_frames
from ssmtl_formats.names import dicom_files
from ssmtl_toolkit.data.source import FileError, naming_file
from ssmtl_toolkit.text import listed

_State = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class Series:
    """The images of one series. `unfit` says why it is no scan; `folders` are those that it is spread over, if any."""

    name: str
    frames: tuple[Frame, ...]
    unfit: str
    folders: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, in the order of names."""
        return tuple(dict.fromkeys(frame.file for frame in self.frames))


def series_of(folder: Path) -> tuple[Series, ...]:
    """Read the headers of all DICOM files of a folder, once as long as they do not change.

    Raises:
        DataError: naming a file that is damaged; without it one could not tell whether a series is whole.
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
    counted: Counter[str] = Counter()
    found = []
    for key in sorted(groups, key=lambda key: (key[1] is None, key[1] or 0, key[0])):
        name = f"series-{'none' if key[1] is None else key[1]}"
        counted[name] += 1
        again = f"-{counted[name]}" if counted[name] > 1 else ""
        found.append(Series(name + again, tuple(groups[key]), unfit(groups[key])))
    return tuple(found)


def unfit(frames: list[Frame]) -> str:
    """Why the images of a series are no scan, "" if they are one."""
    reasons = Counter(frame.unfit for frame in frames)
    if not reasons[""]:
        return reasons.most_common(1)[0][0]
    if len(frames) == 1:
        return "a single image"
    planes = Counter(tuple(round(x, 2) for x in frame.directions) for frame in frames if not frame.unfit)
    # a scout that has got into a series is another matter: that is refused when it is read
    return "a localizer, with planes across each other" if 2 * max(planes.values()) <= len(frames) else ""


def chosen(path: Path, found: tuple[Series, ...]) -> Series:
    """The series that `path` means: that of a file, or the only one of a folder that is a scan.

    Raises:
        FileError: there is none, or there are several.
    """
    if path.is_dir():
        fit = [series for series in found if not series.unfit]
        if len(fit) > 1:
            names = listed((f"{series.name} with {len(series.frames)} images" for series in fit), 5)
            raise FileError(f"holds {len(fit)} series ({names}); give a file of the one that is meant")
    else:
        fit = [series for series in found if path in series.files]
        if fit and fit[0].unfit:
            raise FileError(f"is {fit[0].unfit}, not a slice of a scan; give the folder or a file of another series")
    if not fit:
        raise FileError(f"holds no series of slices: {nothing(found)}")
    return fit[0]


def nothing(found: tuple[Series, ...]) -> str:
    """Say what the series are that are no scans."""
    if not found:
        return "nothing but an index of DICOM files; give a folder with the slices of a scan"
    reasons = listed((f"{series.name} is {series.unfit}" for series in found), 5)
    return f"{reasons}; give a folder with the slices of a scan"

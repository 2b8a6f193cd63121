"""The scans of a data set: listed, read, and their slices stored, for every command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ssmtl_toolkit.data.files import Waiting
from ssmtl_toolkit.data.memory import only_new_garbage
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.users import use_cache
from ssmtl_toolkit.errors import DataError, SsmtlError
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.folder import SUMMARY
from ssmtl_toolkit.runtime.interrupt import interrupts
from ssmtl_toolkit.runtime.progress import Progress, showing
from ssmtl_toolkit.specs import DatasetSpec, ReaderSpec, Scan, named
from ssmtl_toolkit.text import counted, printable, shortened

if TYPE_CHECKING:
    from ssmtl_toolkit.data.reading import Reading
    from ssmtl_toolkit.data.slicing import Slicing
    from ssmtl_toolkit.data.store import SliceStore, Usable
    from ssmtl_toolkit.data.volume import Volume


def default_cache() -> Path:
    """The user's cache directory for this toolkit ($XDG_CACHE_HOME/ssmtl)."""
    from platformdirs import user_cache_path

    return user_cache_path("ssmtl")


def list_scans(
    dataset: DatasetSpec,
    cache: Path,
    note: Callable[[str], None] | None = None,
    *,
    in_time: bool = False,
    told: Callable[[str], None] | None = None,
) -> list[Scan]:
    """List the dataset's scans, fetching and creating what must be there first.

    Args:
        dataset: of which.
        cache: folder for what is fetched and created.
        note: gets what the dataset says about its scans.
        in_time: they are to be read as sequences in time.
        told: gets how far the fetching is, by default the same as `note`, or the terminal.

    Raises:
        DataError: they cannot be listed.
        SsmtlError: the cache cannot be written.
    """
    waiting = waiting_with(told or note or showing.get())
    if cache.is_dir():
        use_cache(cache, waiting)
    try:
        with only_new_garbage(), foreign(f"{named(dataset)}, asked for its scans,", passing=OSError):
            readers = installed_readers(in_time=in_time)
            dataset.fetch(cache, readers, waiting)
            scans = dataset.scans(cache, readers)
            for remark in dataset.remarks(scans):
                if note:
                    note(remark)
            return scans
    except OSError as error:
        place = Path(str(error.filename or cache))
        if cache == place or cache in place.parents or error.filename is None:
            raise SsmtlError(f"{cache}: the cache cannot be written ({error}); choose another --cache") from error
        raise DataError(f"{printable(place)}: cannot be read ({error.strerror}); check its permissions") from error


def installed_readers(*, in_time: bool = False) -> Readers:
    """All installed readers; `in_time`: they read 4-D scans as sequences in time."""
    return Readers((reader() for reader in registry().of(ReaderSpec)), in_time=in_time)


def waiting_for(progress: Progress) -> Waiting:
    """What a start does while it waits, before anything is trained: it can be interrupted, and its notes are shown."""
    return waiting_with(progress.note)


def waiting_with(note: Callable[[str], None]) -> Waiting:
    """The same, with other notes."""
    return Waiting(lambda: interrupts.check("nothing was trained yet"), note)


def reading_of(slicing: Slicing, cache: Path, progress: Progress) -> Reading:
    """How a command reads scans, by all installed readers."""
    from ssmtl_toolkit.data.reading import Reading

    use_cache(cache, waiting_for(progress))
    return Reading.of(installed_readers(in_time=slicing.in_time), slicing, cache, waiting_for(progress))


def measured(reading: Reading, scans: Sequence[Scan], progress: Progress) -> Slicing:
    """Replace `--normalise data` by the mean and deviation of these scans, and report them.

    Raises:
        DataError: none of them can be read.
    """
    from ssmtl_toolkit.data.levels import with_levels

    numbers = with_levels(reading, scans)
    if numbers is not reading.slicing:
        progress.say(f"normalise {numbers.normalise} (mean/deviation of {counted(len(scans), 'scan')})")
    return numbers


def open_store(
    scans: Sequence[Scan],
    slicing: Slicing,
    cache: Path,
    progress: Progress,
    *,
    skip_bad: bool,
    label_maps: Literal["skip", "note"] = "skip",
    read: Callable[[Scan], Volume] | None = None,
) -> SliceStore:
    """Prepare the slices of these scans, or find them in the cache, and open all of them."""
    return prepare(scans, slicing, cache, progress, skip_bad=skip_bad, label_maps=label_maps, read=read).open()


def prepare(
    scans: Sequence[Scan],
    slicing: Slicing,
    cache: Path,
    progress: Progress,
    *,
    skip_bad: bool,
    label_maps: Literal["skip", "note"] = "skip",
    read: Callable[[Scan], Volume] | None = None,
) -> Usable:
    """Prepare the slices of these scans, or find them in the cache, and report what is odd about them.

    `read` reads a scan; by default the installed readers do.
    """
    from ssmtl_toolkit.data.store import prepare_scans  # torch, which listing and reading do not need

    waiting = waiting_for(progress)
    use_cache(cache, waiting)
    progress.preparing(sum(not scan.unfit for scan in scans))

    def on_scan(name: str) -> None:
        progress.prepared(name)
        waiting.check()

    usable = prepare_scans(
        scans,
        installed_readers(in_time=slicing.in_time),
        slicing,
        cache,
        skip_bad=skip_bad,
        label_maps=label_maps,
        on_scan=on_scan,
        waiting=waiting,
        read=read,
    )
    _tell_oddities(usable, progress)
    return usable


def _tell_oddities(usable: Usable, progress: Progress, most: int = 10) -> None:
    """Note what readers found odd, and scans that are not cut the same way."""
    notes = [f"{printable(piece.scan.path)}: {note}" for piece in usable.pieces for note in piece.about.notes]
    for note in shortened(notes, most, f" such notes, all in {SUMMARY}"):
        progress.note(note)
    axes = Counter(piece.about.axis for piece in usable.pieces)
    if len(axes) > 1:
        counted = ", ".join(f"{number} {axis}" for axis, number in axes.most_common())
        progress.note(f"the scans were acquired along different axes ({counted}); choose one with --axis")

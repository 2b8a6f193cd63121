"""Which files of a case a model predicts from: those of the contrasts that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.runtime.scans import list_scans
from ssmtl_toolkit.specs import DatasetSpec, Scan
from ssmtl_toolkit.text import counted, listed, printable

_SHOWN = 5
_SAME = "give scans of that; if it is the same under another name, list them in a manifest (.csv)"


def common_contrasts(scans: Sequence[Scan]) -> tuple[str, ...]:
    """Return the contrasts of the channels of these scans; () if they differ, or names do not say."""
    kinds = {scan.contrasts for scan in scans}
    return kinds.pop() if len(kinds) == 1 else ()


@dataclass(frozen=True)
class Input:
    """What a model takes: so many channels, of these contrasts (() if that is not known), and whether in time."""

    channels: int
    contrasts: tuple[str, ...]
    in_time: bool = False

    def scans(self, dataset: DatasetSpec, cache: Path) -> list[Scan]:
        """List the scans of a data set with the channels that the model takes.

        A case of several files is one scan, and files of other contrasts are not used.

        Raises:
            DataError: there is no scan.
            UsageError: the contrasts of the model are not there, or it is not known which of several it takes.
        """
        scans = list_scans(dataset, cache, in_time=self.in_time)
        kinds = {scan.contrasts for scan in scans if scan.contrasts and not scan.unfit}
        if not kinds:
            return scans
        wanted = self.contrasts or self._guess(kinds, dataset)
        chosen = dataset.with_contrasts(wanted)
        if chosen == dataset:  # a file by itself, or channels that the user has chosen
            self._check([scan for scan in scans if scan.contrasts and not scan.unfit])
            return scans
        every = sorted({contrast for kind in kinds for contrast in kind})
        try:
            fitting = list_scans(chosen, cache, in_time=self.in_time)
        except DataError:
            raise UsageError(
                f"{dataset}: has files of {listed(every, _SHOWN)}, and the model was trained on {'+'.join(wanted)}; "
                f"{_SAME}"
            ) from None
        others = [contrast for contrast in every if contrast not in wanted]
        return [*fitting, *([_skipped(dataset, others, wanted)] if others else [])]

    def _guess(self, kinds: set[tuple[str, ...]], dataset: DatasetSpec) -> tuple[str, ...]:
        """Return the contrasts of a model that does not record them, if there are as many as it has channels."""
        every = tuple(sorted({contrast for kind in kinds for contrast in kind}))
        if len(every) == self.channels:
            return every
        if len(kinds) == 1 and len(next(iter(kinds))) == self.channels:  # in the order that the user has chosen
            return next(iter(kinds))
        raise UsageError(
            f"{dataset}: has files of {listed(every, _SHOWN)}, and the model takes {counted(self.channels, 'channel')} "
            f"but does not record which; choose them, as in folder:DIR,channels={every[0]}, or say that each file is a "
            f"scan of its own by channels=none"
        )

    def _check(self, scans: Sequence[Scan]) -> None:
        """Refuse scans of other contrasts than the model's."""
        wrong = [scan for scan in scans if self.contrasts and scan.contrasts != self.contrasts]
        if wrong:
            ours, theirs = "+".join(wrong[0].contrasts), "+".join(self.contrasts)
            raise UsageError(
                f"{printable(wrong[0].path)}: is {ours} by its name, and the model was trained on {theirs}; {_SAME}"
            )


def _skipped(dataset: DatasetSpec, others: Sequence[str], wanted: Sequence[str]) -> Scan:
    reason = f"files of {listed(others, _SHOWN)} are not used, the model takes {'+'.join(wanted)}"
    return Scan(Path(str(dataset)), "other contrasts", "other contrasts", unfit=f"{dataset}: {reason}")

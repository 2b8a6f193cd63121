"""How a command reads scans: decoded by which readers, cut how, with which cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ssmtl_toolkit.data.decoded import Decoded
from ssmtl_toolkit.data.files import DigestMemo, Waiting
from ssmtl_toolkit.data.pieces import Piece, find_piece
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.specs import Scan


@dataclass(frozen=True)
class Reading:
    """What reading scans takes.

    Attributes:
        decoded: decodes them.
        slicing: how they are cut and prepared.
        cache: folder for what was prepared.
        memo: knows digests of files.
        waiting: asked while locks are waited for, and given notes on what was damaged in the cache.
    """

    decoded: Decoded
    slicing: Slicing
    cache: Path
    memo: DigestMemo
    waiting: Waiting = field(default=Waiting())

    @classmethod
    def of(cls, readers: Readers, slicing: Slicing, cache: Path, waiting: Waiting = Waiting()) -> Reading:  # noqa: B008
        """Read by these readers, with nothing in memory yet."""
        return cls(Decoded(readers, slicing.volume), slicing, cache, DigestMemo(cache / "digests.json"), waiting)

    def slices(self, scan: Scan) -> Piece:
        """The slices of a scan, as `find_piece` finds or makes them."""
        readers, read = self.decoded.readers, self.decoded.scan
        return find_piece(scan, readers, self.slicing, self.cache, self.memo, self.waiting, read)

"""What became of the tensors of a pre-training: what was loaded, what not, and whether it computes the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ssmtl_toolkit.features import PARTS, Part
from ssmtl_toolkit.text import listed


@dataclass(frozen=True)
class TransferReport:
    """What became of the tensors of a pre-training.

    Attributes:
        source: the file, and its sha256.
        loaded, missing, mismatched: tensors of the network: loaded; not in the file; of another shape there.
        skipped: tensors of the file that the network does not have, were never trained, or are not wanted.
        fresh: parts that the pre-training did not train; they start untrained.
        unwanted: parts that it did train, and that start untrained as well, by `--transfer`.
        share: loaded part of the parameters of encoder, decoder and both.
        prefixes: of a file from elsewhere: what stands before the names of each part that was found in it.
        odd: tensors in it of layers that were loaded without them, as a bias that the network does not have.
        summed: first convolutions that were made for other numbers of channels in such a file.
        fingerprint: largest relative difference to the saved run's own output on a fixed image; None: `unchecked`
            says why.
    """

    source: str
    sha256: str
    backbone: str
    pretraining: Mapping[str, Any]
    loaded: int
    missing: Sequence[str]
    mismatched: Sequence[str]
    skipped: Sequence[str]
    fresh: Sequence[str]
    unwanted: Sequence[Part]
    share: Mapping[str, float]
    fingerprint: float | None
    unchecked: str
    prefixes: Mapping[str, str] = field(default_factory=dict)
    summed: Sequence[str] = ()
    odd: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what transfer.json holds."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report for a person, a line each."""
        share = ", ".join(f"{part} {100 * self.share[part]:.4g} %" for part in PARTS)
        texts = [f"transfer  {self.loaded} tensors from {self.source}; parameters loaded: {share}"]
        for names, what in (
            (self.mismatched, "have another shape"),
            (self.missing, "are not in the file"),
            (self.skipped, "in the file are not used"),
        ):
            if names:
                texts.append(f"          {len(names)} tensors {what}: {listed(names, 3)}")
        texts += [f"          {part}: not trained by that run, starts fresh" for part in self.fresh]
        texts += [f"          {part}: not loaded, by --transfer, starts fresh" for part in self.unwanted]
        texts += [f"          {part}: found below {prefix!r}" for part, prefix in self.prefixes.items() if prefix]
        texts += [f"          {name}: fitted to the channels of the images" for name in self.summed]
        if self.odd:
            texts.append(
                f"          ANOTHER NETWORK was trained than this one: {len(self.odd)} tensors of layers that were "
                f"loaded have no place: {listed(self.odd, 3)}"
            )
        checked = (
            f"not checked: {self.unchecked}"
            if self.fingerprint is None
            else f"differs by {self.fingerprint:.1e} (relative)"
        )
        return [*texts, f"          output on a fixed image against the saved run's own: {checked}"]

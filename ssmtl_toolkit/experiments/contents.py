"""Digests of what data sets hold, by which runs are named: other scans, labels or classes make another run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.readers import joined_digests
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.specs import DatasetSpec, Scan


class Contents:
    """What data sets hold, each read once."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._scans: dict[DatasetSpec, list[Scan]] = {}
        self._known: dict[tuple[DatasetSpec, str], str] = {}

    def scans(self, dataset: DatasetSpec) -> list[Scan]:
        """The scans of a data set that can be trained on.

        Raises:
            DataError: it cannot be listed.
        """
        if dataset not in self._scans:
            self._scans[dataset] = [scan for scan in list_scans(dataset, self._cache) if not scan.unfit]
        return self._scans[dataset]

    def images(self, dataset: DatasetSpec) -> str:
        """A digest of its scans, by their names."""
        if (dataset, "images") not in self._known:
            files = {scan.name: scan.paths for scan in self.scans(dataset)}
            self._known[dataset, "images"] = self._files(files)
        return self._known[dataset, "images"]

    def labels(self, dataset: DatasetSpec) -> str:
        """A digest of its label maps, of which slices are annotated, and of its classes."""
        if (dataset, "labels") not in self._known:
            labelled = [scan for scan in self.scans(dataset) if scan.label]
            files = self._files({scan.name: scan.label_paths for scan in labelled})
            annotated = {scan.name: scan.annotated for scan in labelled}
            self._known[dataset, "labels"] = short_digest(files, annotated, dict(dataset.classes()))
        return self._known[dataset, "labels"]

    def _files(self, files: Mapping[str, Sequence[Path]]) -> str:
        memo, readers, digests = DigestMemo(self._cache / "digests.json"), installed_readers(), {}
        for name, paths in files.items():
            try:
                digests[name] = joined_digests([readers.digest(path, memo) for path in paths])
            except DataError:  # the runs themselves say what is wrong with it
                digests[name] = "unreadable"
        memo.save()
        return short_digest(digests)


def short_digest(*content: Any) -> str:
    """Eight digits that stand for what can be written as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]

"""Which scans are to be predicted, and into which files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssmtl_toolkit.config.predict import Existing
from ssmtl_toolkit.data.files import DigestMemo, real
from ssmtl_toolkit.data.store import Skipped
from ssmtl_toolkit.downstream.contrasts import Input
from ssmtl_toolkit.downstream.records import Records, Wish
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.sources import Given, dataset_of
from ssmtl_toolkit.specs import DatasetSpec, Scan
from ssmtl_toolkit.text import printable

ITSELF, PROBABILITIES, OVERLAY = ".nii.gz", "_probabilities.nii.gz", ".png"


@dataclass(frozen=True)
class Wanted:
    """What is written for each scan beside the prediction itself."""

    probabilities: bool = False
    overlay: bool = False


@dataclass(frozen=True)
class Job:
    """A scan and the file of its prediction, below the folder `out`; what goes beside it is named after it."""

    scan: Scan
    out: Path
    wanted: Wanted

    @property
    def file(self) -> Path:
        """The prediction."""
        return self.beside(ITSELF)

    def beside(self, ending: str) -> Path:
        """A file that belongs to the prediction."""
        return self.out / f"{self.scan.name}{ending}"

    @property
    def name(self) -> str:
        """The prediction's name in prediction.json."""
        return f"{self.scan.name}{ITSELF}"

    @property
    def beside_only(self) -> list[str]:
        """The names of what an earlier call may have written beside the prediction and this one will not."""
        return [f"{self.scan.name}{ending}" for ending in (PROBABILITIES, OVERLAY) if ending not in self.endings]

    @property
    def endings(self) -> list[str]:
        """What is to be written, the prediction itself first."""
        return [ITSELF, *([PROBABILITIES] * self.wanted.probabilities), *([OVERLAY] * self.wanted.overlay)]

    def wish(self, memo: DigestMemo) -> Wish:
        """The same for the records; reads the scan's bytes.

        Raises:
            DataError: the scan cannot be read.
        """
        digest = installed_readers().digest_scan(self.scan, memo)
        return Wish(self.name, [f"{self.scan.name}{ending}" for ending in self.endings], digest)


@dataclass
class Jobs:
    """What is to be predicted, and the scans that are not: skipped for a reason, or failed."""

    jobs: list[Job] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failed: list[Skipped] = field(default_factory=list)


def list_jobs(given: Sequence[Given], out: Path, wanted: Wanted, takes: Input, cache: Path) -> Jobs:
    """List the scans and where their predictions go; those that would be written to one file fail.

    `takes` is what the models predict from.

    Raises:
        DataError: there is no scan.
        UsageError: no two of the scans could be written.
    """
    result, by_file = Jobs(), dict[Path, list[Job]]()
    target = real(out)
    for item in given:
        dataset = dataset_of(item)
        place = None if isinstance(item, DatasetSpec) else real(Path(item))
        asked_for = place is not None and (place == target or target in place.parents)
        for scan in takes.scans(dataset, cache):
            if target in real(scan.path).parents and not asked_for:
                continue  # predictions of an earlier call, below the folder of the scans
            if scan.unfit:
                result.skipped.append(Skipped(scan.name, scan.unfit))
                continue
            job = Job(scan, out, wanted)
            rivals = by_file.setdefault(job.file, [])
            if all(_reads(other.scan) != _reads(scan) for other in rivals):
                rivals.append(job)
    if not by_file and not result.skipped:
        raise DataError(f"there is no scan to predict in {', '.join(printable(str(item)) for item in given)}")
    for rivals in by_file.values():
        if len(rivals) == 1:
            result.jobs += rivals
        else:
            result.failed.append(Skipped(rivals[0].scan.name, _clash(rivals)))
    if result.failed and not result.jobs:
        raise UsageError(result.failed[0].reason)
    return result


def _reads(scan: Scan) -> list[Path]:
    """What is read for a scan, links resolved."""
    return [real(path) for path in scan.paths]


def _clash(rivals: Sequence[Job]) -> str:
    paths = " and ".join(printable(job.scan.path) for job in rivals)
    number = "both" if len(rivals) == 2 else "all"
    return f"{paths} would {number} be written to {printable(rivals[0].file)}; predict them into two folders"


def check_targets(jobs: Sequence[Job], existing: Existing) -> None:
    """Refuse to overwrite a scan, or, unless requested, an earlier prediction.

    Raises:
        UsageError: naming the first such file.
    """
    sources = {path for job in jobs for path in _reads(job.scan)}
    targets = [job.beside(ending) for job in jobs for ending in job.endings]
    for target in targets:
        if real(target) in sources:
            raise UsageError(
                f"{printable(target)}: is one of the scans, and would be overwritten; choose another --out"
            )
    present = [target for target in targets if target.exists()]
    if present and existing == "error":
        raise UsageError(
            f"{printable(present[0])}: already exists ({len(present)} of {len(targets)} files do); choose "
            f"another --out, or --existing skip or overwrite"
        )


def digests(cache: Path) -> DigestMemo:
    """The digests of scans that earlier runs have computed."""
    return DigestMemo(cache / "digests.json")


def check_records(jobs: Sequence[Job], records: Records, existing: Existing) -> None:
    """Refuse to mix the predictions of two models in one folder.

    Raises:
        UsageError: naming what belongs to another model.
    """
    records.check_others([job.name for job in jobs])
    for job in jobs:
        if existing != "skip" or records.of_another_model(job.name):
            records.check_beside(job.name, job.beside_only)


def skip_done(jobs: Jobs, records: Records, memo: DigestMemo) -> Jobs:
    """Skip what this model has already written.

    Raises:
        UsageError: something else is in place of a prediction.
    """
    kept: list[Job] = []
    skipped = list(jobs.skipped)
    for job in jobs.jobs:
        if _is_done(job, records, memo):
            skipped.append(Skipped(job.scan.name, f"{printable(job.file)}: already exists"))
        else:
            kept.append(job)
    return Jobs(kept, skipped, jobs.failed)


def _is_done(job: Job, records: Records, memo: DigestMemo) -> bool:
    if not any(job.beside(ending).exists() for ending in job.endings):
        return False
    try:
        return records.done(job.wish(memo))
    except DataError:  # the scan cannot be read: predicting it will say so
        return False

"""`ssmtl data`: look at scans, prepare, split and write them, suggest slices to label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import click

from ssmtl_toolkit.cli.data_info import command as info
from ssmtl_toolkit.cli.data_prepare import command as prepare
from ssmtl_toolkit.cli.numerals import WholeRange
from ssmtl_toolkit.cli.once import OnceGroup
from ssmtl_toolkit.cli.options import PATH, cache_option, json_option, path_option
from ssmtl_toolkit.cli.sections import Sectioned
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.text import counted

if TYPE_CHECKING:
    from ssmtl_toolkit.data.split import Split
    from ssmtl_toolkit.specs import Scan

F = TypeVar("F", bound=Callable[..., Any])


@runtime_checkable
class Writable(Protocol):
    """A synthetic dataset whose scans and labels can be written to a folder."""

    def write(self, out: Path) -> Sequence[Path]:
        """Write to `out/images` and `out/labels`; return the images."""


@click.group("data", cls=OnceGroup)
def command() -> None:
    """`ssmtl run` and `ssmtl finetune` need none: they use the phantom by default, and draw their own split."""


command.add_command(info, "info")
command.add_command(prepare, "prepare")


@command.command("phantom")
@click.argument("out", type=PATH)
@click.option("--patients", type=WholeRange(1, 9999), default=20, show_default=True, help="How many patients.")
@click.option("--modality", type=click.Choice(["ct", "mri"]), default="ct", show_default=True, help="CT or MRI.")
@click.option("--seed", type=WholeRange(0), default=0, show_default=True, help="Another seed, other patients.")
def phantom(out: Path, patients: int, modality: str, seed: int) -> None:
    """Write synthetic scans with labels, as NIfTI.

    They are CT of the chest or MRI of the heart, in OUT/images; their labels are in OUT/labels.
    """
    from ssmtl_toolkit.disk import whole_folder
    from ssmtl_toolkit.registry import registry
    from ssmtl_toolkit.specs import DatasetSpec

    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty; choose another folder")
    spec = registry().find(DatasetSpec, "phantom").parse(f"patients={patients},modality={modality},seed={seed}")
    if not isinstance(spec, Writable):
        raise UsageError(f"dataset 'phantom' of {registry().origin(spec)['distribution']} cannot be written to files")
    with whole_folder(out) as unfinished:
        files = spec.write(unfinished)
    click.echo(f"wrote {counted(len(files), 'scan')} to {out}/images and their labels to {out}/labels", err=True)
    click.echo(out)


def _patients(*names: str, **how: Any) -> Callable[[F], F]:
    """Decorate a command with an option that says which patients go where."""
    return click.option(*names, cls=Sectioned, section="Patients", **how)


def _choice(*names: str, **how: Any) -> Callable[[F], F]:
    """Decorate a command with an option that says which slices are chosen."""
    return click.option(*names, cls=Sectioned, section="Slices", **how)


@command.command("split")
@click.argument("data", nargs=-1, required=True)
@_patients("--test-scans", type=WholeRange(1), help="Labelled scans for the test.  [default: a fifth]")
@_patients("--validation-scans", type=WholeRange(0), default=0, show_default=True, help="To choose options by.")
@_patients("--folds", type=WholeRange(2), help="Write this many folds, as nnU-Net's splits_final.json.")
@_patients("--split", "given", type=PATH, help="Make the split of one fold of this list.")
@_patients("--fold", type=WholeRange(0), help="Which fold of --split.")
@_patients("--patient", help="Regex on scan names; what its first group matches is the patient.")
@_patients("--seed", type=WholeRange(0), default=0, show_default=True, help="Another seed, another split.")
@path_option("--out", required=True, help="The file to write, e.g. split.json.")
@cache_option
def split(
    data: tuple[str, ...],
    out: Path,
    test_scans: int | None,
    validation_scans: int,
    folds: int | None,
    given: Path | None,
    fold: int | None,
    patient: str | None,
    seed: int,
    cache: Path | None,
) -> None:
    """Split the labelled scans of DATA by patient.

    The patients of train, validation and test are written to a file:
    `ssmtl run --without FILE` skips validation and test patients; `ssmtl finetune --split FILE` uses the parts.
    With --folds FILE is nnU-Net's list of folds: `ssmtl finetune --split FILE --fold 0` uses one of them.
    """
    from ssmtl_toolkit.cli.console import stderr
    from ssmtl_toolkit.config import check_pattern
    from ssmtl_toolkit.data import split as splitting
    from ssmtl_toolkit.data.files import write_json
    from ssmtl_toolkit.data.folds import Folds, make_folds

    if out.exists():
        raise UsageError(f"{out}: already exists; choose another --out")
    _check_folds(folds, given, fold, test_scans or validation_scans)
    if patient is not None:
        check_pattern(patient)
    console = stderr()
    scans, notes = splitting.with_patients(_labelled(data, cache, console), patient)
    for note in notes:
        console.print(f"note: {note}")
    if folds is not None:
        content: Any = make_folds(scans, folds, seed)
        words = [f"fold {i}: {len(part['val'])} of {counted(len(scans), 'scan')}" for i, part in enumerate(content)]
    else:
        if given is not None:
            made = Folds.read(given).split(fold or 0, scans, patient)
        else:
            made = splitting.make(scans, test_scans, validation_scans, seed, patient)
        content, words = made.to_json(), [_part(part, made, scans) for part in splitting.PARTS]
    write_json(out, content)
    console.print("; ".join(words))
    click.echo(out)


def _part(part: str, split: Split, scans: Sequence[Scan]) -> str:
    """How many scans and patients a part of a split has, in words."""
    patients = counted(len(getattr(split, part)), "patient")
    return f"{part} {counted(len(split.of(scans, part)), 'scan')} of {patients}"


def _check_folds(folds: int | None, given: Path | None, fold: int | None, scans: int) -> None:
    """Refuse options that do not go together."""
    if (given is None) != (fold is None):
        raise UsageError("--split and --fold: give both, to make the split of one fold of a list")
    if folds is not None and given is not None:
        raise UsageError("--folds makes a list of folds, --split reads one; omit one of them")
    if scans and (folds is not None or given is not None):
        raise UsageError("--test-scans, --validation-scans: folds score every scan once; omit them")


def _labelled(data: Sequence[str], cache: Path | None, console: Any) -> list[Scan]:
    """The labelled scans of one or several sources."""
    from ssmtl_toolkit.runtime.scans import default_cache, list_scans
    from ssmtl_toolkit.sources import dataset_of

    every = list_scans(dataset_of(data), cache or default_cache(), lambda note: console.print(f"note: {note}"))
    scans = [scan for scan in every if scan.label and not scan.unfit]
    if not scans:
        unfit = [scan.unfit for scan in every if scan.unfit]
        skipped = f"; {len(unfit)} skipped, such as {unfit[0]}" if unfit else ""
        raise DataError(
            f"{' '.join(data)}: none of its scans has a label; a folder needs images/ and labels/ with the same "
            f"names{skipped}"
        )
    return scans


@command.command("suggest")
@click.argument("data", nargs=-1, required=True)
@path_option("--from", "source", required=True, help="Pre-training run folder or backbone file.")
@_choice("--slices", type=WholeRange(1), default=20, show_default=True, help="How many slices to suggest.")
@_choice("--per-patient", type=WholeRange(1), help="At most this many of a patient.  [default: any number]")
@_choice("--seed", type=WholeRange(0), default=0, show_default=True, help="Another seed, other groups of slices.")
@_patients("--without", type=PATH, help="Skip test and validation patients of this split.")
@_patients("--patient", help="Regex on scan names; what its first group matches is the patient.")
@path_option("--out", required=True, help="The manifest to write, e.g. to_label.csv.")
@cache_option
@json_option
def suggest(
    data: tuple[str, ...],
    source: Path,
    out: Path,
    slices: int,
    per_patient: int | None,
    seed: int,
    without: Path | None,
    patient: str | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Suggest which slices of DATA to label next.

    Slices are grouped by the features of a pre-trained network; of each group the most typical one is suggested. They
    are written as a manifest: label them, put the paths of the label maps into its column `label`, and give it to
    `ssmtl finetune --data`.
    """
    from ssmtl_toolkit.cli.console import print_json, reporting
    from ssmtl_toolkit.config import check_pattern
    from ssmtl_toolkit.runtime.scans import default_cache
    from ssmtl_toolkit.sources import dataset_of

    if out.suffix.lower() != ".csv":
        raise UsageError(f"{out}: the manifest is a table; give a name that ends in .csv")
    if out.exists():
        raise UsageError(f"{out}: already exists; choose another --out")
    if patient is not None:
        check_pattern(patient)
    dataset = dataset_of(data)
    from ssmtl_toolkit.data.files import is_below, real
    from ssmtl_toolkit.downstream.suggest import suggest as choose  # torch is imported from here on
    from ssmtl_toolkit.downstream.suggest import write_manifest
    from ssmtl_toolkit.runtime.interrupt import interrupts

    with interrupts, reporting() as (console, progress):
        chosen = choose(
            source,
            dataset,
            slices,
            cache=cache or default_cache(),
            per_patient=per_patient,
            without=without,
            patient=patient,
            seed=seed,
            progress=progress,
        )
        write_manifest(out, chosen)
    if as_json:
        print_json({"manifest": str(out), "slices": [one.to_json() for one in chosen]})
        return
    _show_suggestions(console, chosen)
    if not all(is_below(real(path), real(out.parent)) for one in chosen for path in one.scan.paths):
        console.print(f"note: {out} names scans outside of its folder: add --allow-outside where you give it as data")
    click.echo(out)


def _show_suggestions(console: Any, chosen: Sequence[Any]) -> None:
    """A row for each slice, with what it stands for."""
    from ssmtl_toolkit.cli.console import print_table
    from ssmtl_toolkit.text import counted

    columns = ["scan", "patient", "slice", "the most typical of"]
    rows = [
        [
            one.scan.name,
            one.scan.patient,
            f"{one.slice} of {one.count}",
            "{} slices, {} patients".format(*one.stands_for),
        ]
        for one in chosen
    ]
    if all(one.scan.name == one.scan.patient for one in chosen):
        columns, rows = [column for column in columns if column != "patient"], [[row[0], *row[2:]] for row in rows]
    print_table(console, "", columns, rows)
    scans = len({one.scan.name for one in chosen})
    console.print(
        f"{counted(len(chosen), 'slice')} of {counted(scans, 'scan')} to label; slices are counted from 0 in the "
        f"file's own order"
    )

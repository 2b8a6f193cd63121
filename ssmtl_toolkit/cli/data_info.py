"""`ssmtl data info`: what scans are like, what is wrong with them, and which options suit them."""

from __future__ import annotations

from pathlib import Path

import click

from ssmtl_toolkit.cli.numerals import WholeRange
from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import cache_option, json_option, path_option
from ssmtl_toolkit.cli.sections import Sectioned
from ssmtl_toolkit.data.slicing import Cut

_AXES = click.Choice(["acquisition", "axial", "coronal", "sagittal", "time"])


@click.command("info", cls=OnceCommand)
@click.argument("data", nargs=-1, required=True)
@click.option("--deep", is_flag=True, cls=Sectioned, section="Data", help="Read the voxels of all scans too.")
@click.option("--axis", type=_AXES, cls=Sectioned, section="Data", help="Axis to cut along.  [default: as scanned]")
@click.option("--size", type=WholeRange(8, 4096), cls=Sectioned, section="Data", help="Pixels.  [default: proposed]")
@click.option("--volume", type=WholeRange(0), cls=Sectioned, section="Data", help="Volume to take of 4-D files.")
@click.option("--patient", cls=Sectioned, section="Data", help="Regex on scan names; its first group is the patient.")
@path_option("--split", help="Compare with this split (from ssmtl data split).")
@cache_option
@json_option
def command(
    data: tuple[str, ...],
    deep: bool,
    axis: Cut | None,
    size: int | None,
    volume: int | None,
    patient: str | None,
    split: Path | None,
    cache: Path | None,
    as_json: bool,
) -> int:
    """Describe DATA, say what would stop a run, and propose options.

    DATA are folders, files, URLs, patterns or datasets by name; nothing is trained or changed.

    Headers are read, and the voxels of a few scans for the proposals; with --deep those of all. The exit code is 3 if
    something would stop a run or a fine-tuning.

    \b
      ssmtl data info scans/
      ssmtl data info scans/ 'more/*/t1.nii.gz' --deep --json
    """
    from ssmtl_toolkit.cli.console import print_json, print_text, reporting
    from ssmtl_toolkit.config import check_pattern
    from ssmtl_toolkit.inspection.info import data_info
    from ssmtl_toolkit.runtime.interrupt import interrupts

    if patient is not None:
        check_pattern(patient)
    with interrupts, reporting() as (console, _):
        info = data_info(
            data,
            deep=deep,
            axis=axis or "acquisition",
            size=size,
            volume=volume,
            patient=patient,
            split=split,
            cache=cache,
            check=lambda: interrupts.check("nothing was changed"),
        )
    if as_json:
        print_json(info.to_json())
    else:
        print_text(str(info))
    for problem in info.stops[:1]:
        console.print(f"{len(info.stops)} of the problems would stop ssmtl {problem.stops}")
    return 3 if info.stops else 0

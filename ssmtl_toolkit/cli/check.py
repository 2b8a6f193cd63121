"""`ssmtl plugins check`: whether a part meets its contract."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssmtl_toolkit import cli
from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import PATH, complete_parts
from ssmtl_toolkit.errors import UsageError

if TYPE_CHECKING:
    from ssmtl_toolkit.testing import Case


@click.command("check", cls=OnceCommand)
@click.argument("name", shell_complete=complete_parts)
@click.option("--example", type=PATH, help="A file or folder of this format, to try a reader on.")
@click.option("--only", metavar="WORDS", help="Only the checks whose titles contain these words.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(name: str, example: Path | None, only: str | None, as_json: bool) -> None:
    """Check that the part NAME meets its contract.

    The checks cover its text, losses, gradients, masks, resuming, several processes …

    \b
      ssmtl plugins check slice_siam
      ssmtl plugins check slice_siam:t=2
      ssmtl plugins check nifti --example scan.nii.gz
      ssmtl plugins check bids:DIR,suffix=T1w
    """
    from ssmtl_toolkit import testing
    from ssmtl_toolkit.cli.console import print_json, print_text, stderr

    if example is not None and not example.exists():
        raise UsageError(f"{example}: no such file or folder; check --example")
    console = stderr()
    rows = []
    cases = testing.cases(name, example=example)
    if example is not None and not any(case.spec.kind == "reader" for case in cases):
        raise UsageError(
            f"--example is for readers; a dataset is checked in its own folder, as in {name.partition(':')[0]}:DIR"
        )
    cases = [case for case in cases if only is None or only.lower() in case.check.title.lower()]
    if not cases:
        raise UsageError(f"--only {only!r}: no check of {name!r} has these words in its title")
    reported: set[str] = set()
    for case in cases:
        rows.append(_checked(case))
        problem = rows[-1]["problem"]
        if not as_json:
            print_text(f"{'BROKEN' if problem else 'ok    '}  {case.check.title}")
            if problem:
                print_text(f"        {'the same' if problem in reported else problem}")
        reported.add(problem)
    failed = sum(not row["passed"] for row in rows)
    if as_json:
        print_json({"checks": rows, "passed": len(rows) - failed, "failed": failed})
    for part in dict.fromkeys(f"{case.spec.kind} {case.spec}" for case in cases):
        part_rows = [row for row in rows if row["part"] == part]
        broken = sum(not row["passed"] for row in part_rows)
        console.print(f"{part} {f'fails {broken} of' if broken else 'passes all'} {len(part_rows)} checks")
    for kind, todo in (("reader", "a file: --example PATH"), ("dataset", f"scans: {name.partition(':')[0]}:DIR")):
        if skipped := _wanting(cases, kind):
            console.print(f"note: {skipped} checks need {todo}")
    if failed:
        raise click.exceptions.Exit(1)


def _checked(case: Case) -> dict[str, Any]:
    from ssmtl_toolkit.testing import ContractError

    problem = ""
    try:
        case.run()
    except ContractError as error:
        problem = str(error).removeprefix(f"{case}: ")
        if cli.debug:
            traceback.print_exception(error.__cause__ or error)
    part = f"{case.spec.kind} {case.spec}"
    return {"part": part, "check": case.check.title, "passed": not problem, "problem": problem}


def _wanting(cases: list[Case], kind: str) -> int:
    """How many checks of a part of this kind were skipped because no example is given."""
    from ssmtl_toolkit.testing.case import all_checks

    specs = {str(case.spec): case.spec for case in cases if case.spec.kind == kind and case.example is None}.values()
    return sum(
        rule.needs_example and isinstance(spec, rule.kind) and rule.applies(spec)
        for spec in specs
        for rule in all_checks()
    )

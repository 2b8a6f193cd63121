"""`ssmtl report`: one HTML file on a run, or on several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import PATH, json_option, path_option
from ssmtl_toolkit.errors import UsageError


@click.command("report", cls=OnceCommand)
@click.argument("runs", nargs=-1, required=True, metavar="RUN…", type=PATH)
@path_option("--out", help="The file.  [default: report.html in the run's folder]")
@click.option("--watch", "follow", is_flag=True, help="Write it anew while the run is under way; Ctrl-C ends it.")
@json_option
def command(runs: Sequence[Path], out: Path | None, follow: bool, as_json: bool) -> None:
    """RUN is the folder of ssmtl run, finetune, fewshot, affinity or experiment, which write the report at their end
    themselves. Several runs of one kind are put side by side.

    \b
      ssmtl report runs/first
      ssmtl report runs/first --watch
      ssmtl report runs/first runs/second --out both.html
    """
    if follow and len(runs) > 1:
        raise UsageError("--watch follows one run; give one")
    from ssmtl_toolkit.reporting.report import report, watch  # numpy is imported from here on

    file = watch(runs[0], out=out) if follow else report(runs, out=out)
    if as_json:
        from ssmtl_toolkit.cli.console import print_json

        print_json({"report": str(file), "bytes": file.stat().st_size})
    else:
        click.echo(file)

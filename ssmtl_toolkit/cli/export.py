"""`ssmtl export`: trained weights, written for another library."""

from __future__ import annotations

from pathlib import Path

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import PATH, complete, json_option, path_option
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import ExportSpec


@click.command("export", cls=OnceCommand)
@click.argument("source", metavar="RUN", type=PATH)
@click.option("--to", metavar="SPEC", shell_complete=complete("export"), help="What for, e.g. onnx, smp, hf:push=me/x.")
@path_option("--out", help="Folder to write.  [default: RUN/export/SPEC]")
@json_option
def command(source: Path, to: str | None, out: Path | None, as_json: bool) -> None:
    """RUN is the folder of a pre-training, of a fine-tuning or of one of its repetitions, or a file of weights.

    What is written is opened by the library and compared before it is there. README.md in it says how to use it.

    \b
      ssmtl export runs/first --to smp
      ssmtl export runs/ft/pretrained-0 --to onnx --out model/
      ssmtl export runs/ft --to hf:push=USER/NAME,licence=cc-by-4.0
    """
    plugins = registry()
    if to is None:
        known = ", ".join(spec.name for spec in plugins.of(ExportSpec))
        raise UsageError(f"--to is missing: what are the weights written for? ({known})")
    target = plugins.resolve(ExportSpec, to)
    from ssmtl_toolkit.cli.console import print_json, reporting
    from ssmtl_toolkit.exporting.export import check_packages, export  # torch is imported from here on

    check_packages(target)
    with reporting() as (console, progress):
        result = export(source, target, out=out, progress=progress)
    summary = result.summary
    if as_json:
        print_json(summary)
        return
    click.echo(summary["export"])
    same = f"differs by {summary['difference']:.1e} (relative)"
    console.print(f"{len(summary['files'])} files for {target.name}; opened again and compared: {same}")
    if summary["published"]:
        console.print(f"sent to {summary['published']}")

"""`ssmtl affinity`: which pretext tasks go together for the labels that one has, and whether cheap scores can tell."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.fewshot import compare_and_show, tables_of
from ssmtl_toolkit.cli.numerals import RealRange
from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import (
    cache_option,
    cluster_option,
    config_option,
    json_option,
    options_of,
    path_option,
    read_options,
)
from ssmtl_toolkit.cli.sections import Sectioned
from ssmtl_toolkit.config import AffinityConfig
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.launch import launch


@click.command("affinity", cls=OnceCommand)
@click.argument("data", required=False)
@options_of(AffinityConfig, {"tasks": "task", "metrics": "metric"})
@click.option(
    *("--set", "settings"),
    multiple=True,
    metavar="KEY=VALUE",
    cls=Sectioned,
    section="Comparison",
    help="E.g. pretrain.balancer=uncertainty or finetune.steps=300; repeatable.",
)
@click.option("--quick", is_flag=True, cls=Sectioned, section="Comparison", help="Small and short: a first look.")
@click.option(
    "--minutes", type=RealRange(0), cls=Sectioned, section="Comparison", help="Begin no training after these."
)
@cluster_option
@cache_option
@config_option
@path_option("--out", help="Folder for runs and results.  [default: runs/affinity]")
@json_option
def command(
    data: str | None,
    file: Path | None,
    out: Path | None,
    cache: Path | None,
    settings: Sequence[str],
    quick: bool,
    minutes: float | None,
    cluster: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Each task alone, each pair and all of them are pre-trained shortly and fine-tuned on few labels of DATA.

    Validation patients are scored; test patients are not looked at. Rerun the command to resume; processes given the
    same --out share the work.

    \b
      ssmtl affinity phantom --quick --task reconstruct_next --task denoise --task contrast
      ssmtl affinity labelled/ --task reconstruct_prev:t=5mm --task reconstruct_next:t=5mm --task contrast
    """
    config = read_options(AffinityConfig, flags | tables_of(AffinityConfig, settings, file), file)
    if data is None:
        raise UsageError("DATA is missing: give a folder of labelled scans, or phantom")
    config.resolve()
    _run(
        data,
        config,
        out or Path("runs") / "affinity",
        as_json,
        {"quick": quick, "minutes": minutes, "cache": cache, "cluster": cluster},
    )


def _run(data: str, config: AffinityConfig, out: Path, as_json: bool, how: Mapping[str, Any]) -> None:
    launch()
    from ssmtl_toolkit.experiments.affinity.execution import affinity  # imports torch

    done = functools.partial(affinity, data, config, out=out, **how)
    compare_and_show(done, _show, out / "affinity.md", as_json)


def _show(console: Any, summary: dict[str, Any]) -> None:
    from ssmtl_toolkit.cli.console import print_table
    from ssmtl_toolkit.experiments.affinity.report import headings, matrix_tables, remarks, rows

    console.print()
    print_table(console, "", headings(summary), rows(summary))
    for title, heads, cells in matrix_tables(summary):
        print_table(console, title, heads, cells)
    for remark in remarks(summary):
        console.print(remark)

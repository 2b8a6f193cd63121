"""`ssmtl fewshot`: how many labels are needed, and whether pre-training helps, from one labelled folder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.experiment import read_settings
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
from ssmtl_toolkit.config import FewLabels, FewshotConfig
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.experiments.overlays import merged
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.text import did_you_mean


@click.command("fewshot", cls=OnceCommand)
@click.argument("data", required=False)
@options_of(FewshotConfig, {"methods": "method", "budgets": "budget", "metrics": "metric"})
@click.option(
    *("--set", "settings"),
    multiple=True,
    metavar="KEY=VALUE",
    cls=Sectioned,
    section="Comparison",
    help="E.g. pretrain.steps=600 or finetune.steps=600; repeatable.",
)
@click.option("--quick", is_flag=True, cls=Sectioned, section="Comparison", help="Small and short: a first look.")
@click.option(
    "--minutes", type=RealRange(0), cls=Sectioned, section="Comparison", help="Begin no training after these."
)
@click.option("--list", "list_only", is_flag=True, cls=Sectioned, section="Comparison", help="List the methods.")
@cluster_option
@cache_option
@config_option
@path_option("--out", help="Folder for runs and results.  [default: runs/fewshot]")
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
    list_only: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Each method is pre-trained on the training patients of DATA and fine-tuned on the labels of few of them.

    Rerun the command to resume; processes given the same --out share the work.

    \b
      ssmtl fewshot phantom --quick
      ssmtl fewshot labelled/ --size 128 --budget 1 --budget 4 --set pretrain.steps=600
      ssmtl fewshot labelled/ --unlabelled more/ --method ssmtl --method mine.toml
    """
    config = read_options(FewshotConfig, flags | tables_of(FewshotConfig, settings, file), file)
    if list_only:
        _list(config, as_json)
        return
    if data is None:
        raise UsageError("DATA is missing: give a folder of labelled scans, or phantom")
    _run(
        data,
        config,
        out or Path("runs") / "fewshot",
        as_json,
        {"quick": quick, "minutes": minutes, "cache": cache, "cluster": cluster},
    )


def tables_of(config: type[FewLabels], settings: Sequence[str], file: Path | None) -> dict[str, dict[str, Any]]:
    """The tables `pretrain` and `finetune` that --set gives, over those of the file.

    Raises:
        UsageError: a key is in neither.
    """
    written = config.read(file) if file else {}
    tables: dict[str, dict[str, Any]] = {}
    for key, value in read_settings(settings).items():
        table, dot, option = key.partition(".")
        if table not in _TABLES or not dot or "." in option:
            raise UsageError(
                f"--set {key}: expected an option of pre-training or fine-tuning, such as pretrain.steps=600 or "
                f"finetune.steps=600{did_you_mean(table, _TABLES)}"
            )
        tables[table] = merged(tables.get(table, written.get(table, {})), {option: value}, "--set")
    return tables


_TABLES = ("pretrain", "finetune")


def _run(
    data: str,
    config: FewshotConfig,
    out: Path,
    as_json: bool,
    how: Mapping[str, Any],
) -> None:
    launch()
    from ssmtl_toolkit.experiments.fewshot.execution import fewshot  # imports torch

    done = functools.partial(fewshot, data, config, out=out, **how)
    compare_and_show(done, _show, out / "fewshot.md", as_json)


def compare_and_show(
    compare: Callable[..., Any], show: Callable[[Any, dict[str, Any]], None], report: Path, as_json: bool
) -> None:
    """Call `compare(progress=…)` and show the summary of what it gives, also if some of its trainings failed."""
    from ssmtl_toolkit.cli.console import logged, print_json, print_text, reporting
    from ssmtl_toolkit.experiments.fewshot.execution import TrialsFailedError

    failed: TrialsFailedError | None = None
    with reporting() as (console, progress):
        try:
            summary = compare(progress=progress).summary
        except TrialsFailedError as error:
            summary, failed = error.summary, error
    if as_json:
        print_json(summary)
    else:
        with logged(console, report.parent):
            show(console, summary)
        print_text(str(report))
    if failed:
        raise failed


def _show(console: Any, summary: dict[str, Any]) -> None:
    from ssmtl_toolkit.cli.console import print_table
    from ssmtl_toolkit.experiments.fewshot.report import headings, remarks, rows

    console.print()
    print_table(console, "", headings(summary), rows(summary))
    for remark in remarks(summary):
        console.print(remark)


def _list(config: FewshotConfig, as_json: bool) -> None:
    """Show the methods that come with the toolkit, and those of files that are given."""
    from ssmtl_toolkit.cli.console import print_json, stdout, table
    from ssmtl_toolkit.experiments.fewshot.methods import bundled, read_methods

    own = [name for name in config.methods if name.lower().endswith(".toml")]
    methods = bundled(config.t) | (read_methods(own, config.t) if own else {})
    if as_json:
        print_json({id: method.model_dump(mode="json") for id, method in methods.items()})
        return
    cells = [[id, method.name, " ".join(method.tasks) or method.weights or ""] for id, method in methods.items()]
    stdout().print(table("", ["method", "", "pretext tasks, or weights"], cells))

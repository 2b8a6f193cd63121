"""`ssmtl experiment`: rows of pre-training and fine-tuning from a TOML file, compared in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ssmtl_toolkit.cli.numerals import WholeRange
from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import PATH, cache_option, cluster_option, complete, json_option, path_option
from ssmtl_toolkit.cli.sections import Sectioned
from ssmtl_toolkit.config.tracking import Tracking
from ssmtl_toolkit.documents import parse_toml
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.experiments.definition import ResolvedExperiment
from ssmtl_toolkit.experiments.reading import read_experiment
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.specs import TrackerSpec

F = TypeVar("F", bound=Callable[..., Any])


def row_option(*names: str, **how: Any) -> Callable[[F], F]:
    """Decorate a command with an option that says which rows to run, and how."""
    return click.option(*names, cls=Sectioned, section="Rows", **how)


def track_option(function: F) -> F:
    """Decorate a command with the option that `ssmtl run` calls the same, for all its runs."""
    return click.option(
        "--track",
        cls=Sectioned,
        section="Output",
        multiple=True,
        metavar="SPEC",
        help=Tracking.model_fields["track"].description,
        shell_complete=complete(TrackerSpec.kind),
    )(function)


def shared_options(function: F) -> F:
    """What `experiment` and `reproduce` have in common."""
    data = "Labelled scans: a folder, a pattern, or a dataset by name; repeatable."
    settings = "E.g. pretrain.batch_size=8; repeatable."
    for option in (
        json_option,
        cache_option,
        cluster_option,
        path_option("--out", help="Folder for runs and tables.  [default: in runs/]"),
        click.option("--report/--no-report", default=True, cls=Sectioned, section="Files", help="Write report.html."),
        track_option,
        row_option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=settings),
        row_option("--seeds", type=WholeRange(1), help="Repetitions of each fine-tuning."),
        row_option("--quick", is_flag=True, help="Small and short, as defined in the file's table [quick]."),
        row_option("--row", "rows", multiple=True, metavar="NAME", help="Run this row only; repeatable."),
        click.option("--data", multiple=True, metavar="SPEC", cls=Sectioned, section="Data", help=data),
    ):
        function = option(function)
    return function


@click.command("experiment", cls=OnceCommand)
@click.argument("file", type=PATH)
@shared_options
def command(
    file: Path,
    out: Path | None,
    rows: Sequence[str],
    track: Sequence[str],
    report: bool,
    cache: Path | None,
    cluster: str | None,
    as_json: bool,
    **how: Any,
) -> None:
    """The table is written as Markdown, CSV and JSON.

    Rerun the command to resume; processes given the same --out share the work.

    \b
      ssmtl experiment mine.toml --out runs/mine
      ssmtl experiment mine.toml --row ssmtl --set pretrain.epochs=10
    """
    resolved = read_as_asked(file, **how)
    options = {"rows": rows, "track": track, "report": report, "cluster": cluster}
    run_experiments([resolved], out or Path("runs") / resolved.name, options, cache, as_json)


def read_as_asked(
    file: Path, data: Sequence[str], quick: bool, seeds: int | None, settings: Sequence[str]
) -> ResolvedExperiment:
    """Read an experiment as the shared options say."""
    return read_experiment(file, data or None, quick=quick, seeds=seeds, settings=read_settings(settings))


def read_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read what --set gives.

    Raises:
        UsageError: a text is not KEY=VALUE, or a key is given twice.
    """
    settings = dict(map(_setting, texts))
    if len(settings) < len(texts):
        raise UsageError("--set: a key is given twice, and only its last value would count; give each key once")
    return settings


def _setting(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE; the value as TOML, or else as plain text."""
    key, equals, value = text.partition("=")
    if not (equals and all(key.split("."))):
        raise UsageError(f"--set {text!r}: write KEY=VALUE, such as pretrain.epochs=10")
    try:
        return key, parse_toml(f"value = {value}")["value"]
    except ValueError:
        return key, value


def run_experiments(
    experiments: Sequence[ResolvedExperiment],
    out: Path,
    how: Mapping[str, Any],
    cache: Path | None,
    as_json: bool,
) -> None:
    """Run experiments one after another in one folder and show their tables; `how`: more options of `experiment`."""
    launch()
    from ssmtl_toolkit.cli.console import logged, print_json, reporting, stderr
    from ssmtl_toolkit.experiments.execution import RowsFailedError, experiment  # torch is imported from here on
    from ssmtl_toolkit.runtime.interrupt import InterruptedRunError, interrupts

    summaries, failed = [], list[SsmtlError]()
    with interrupts:
        for resolved in experiments:
            try:
                with reporting() as (_, progress):
                    done = experiment(resolved, out=out, cache=cache, progress=progress, **how)
                    summaries.append(done.summary)
            except InterruptedRunError:
                raise
            except SsmtlError as error:  # the other tables are still done
                failed.append(error)
                if isinstance(error, RowsFailedError):
                    summaries.append(error.summary)
            if summaries and summaries[-1]["experiment"] == resolved.name:
                console = stderr()
                with logged(console, out):
                    _show(console, summaries[-1])
    if as_json and summaries:
        print_json(summaries[0] if len(experiments) == 1 else {"experiments": summaries})
    elif not as_json:
        for summary in summaries:
            click.echo(out / f"{summary['experiment']}.md")
    if len(failed) == 1:
        raise failed[0]
    if failed:
        raise SsmtlError("\n".join(str(error) for error in failed))


def _show(console: Any, summary: dict[str, Any]) -> None:
    from ssmtl_toolkit.cli.console import print_table
    from ssmtl_toolkit.experiments.table import ensembles, headings, lines, remarks

    title = f"{summary['title'] or summary['experiment']} — {summary['data']}"
    for heads, cells in zip(headings(summary), lines(summary), strict=True):
        if len(heads) > 1:
            console.print()
            print_table(console, title, heads, cells)
        published = any(row["published"] for row in summary["rows"])
        title = "by class: ours (published)" if published else "by class"
    heads, cells = ensembles(summary)
    if cells:
        console.print()
        print_table(console, "", heads, cells)
    for remark in remarks(summary):
        console.print(remark)

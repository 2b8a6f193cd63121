"""`ssmtl cache`: how large the cache of prepared slices is, and how to make it smaller."""

from __future__ import annotations

from pathlib import Path

import click

from ssmtl_toolkit.cli.numerals import RealRange
from ssmtl_toolkit.cli.once import OnceGroup
from ssmtl_toolkit.cli.options import PATH
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.text import counted, printable, sized


@click.group("cache", cls=OnceGroup)
def command() -> None:
    """Whatever is deleted from it is made again from the scans when it is needed."""


_place = click.option("--cache", type=PATH, help="Its folder.  [default: user's cache]")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


@command.command("info")
@_place
@_json
def info(cache: Path | None, as_json: bool) -> None:
    """Show what the cache holds, how large that is, what is stale, and which processes use it."""
    from ssmtl_toolkit.cli.console import print_json, print_table, stderr, stdout
    from ssmtl_toolkit.runtime.caching import summed_up

    about = summed_up(_folder(cache))
    if as_json:
        print_json(about)
        return
    held = [*about["contents"].items(), ("of it stale", about["stale"])]
    rows = [[name, str(part["files"]), sized(part["bytes"])] for name, part in held]
    print_table(stdout(), "", [printable(about["cache"]), "files", "size"], rows)
    if about["users"]:
        stderr().print(f"in use by process {', '.join(map(str, about['users']))}")


@command.command("clean")
@click.option("--older-than", type=RealRange(0), metavar="DAYS", help="Also what was not used for so many days.")
@click.option("--all", "everything", is_flag=True, help="Also all else.")
@_place
@_json
def clean(older_than: float | None, everything: bool, cache: Path | None, as_json: bool) -> None:
    """Delete what is stale: half files, and slices in the format of older versions.

    Nothing is deleted while a process uses the cache.
    """
    from ssmtl_toolkit.cli.console import print_json, stderr
    from ssmtl_toolkit.runtime.caching import clean as clean_cache

    if everything and older_than is not None:
        raise UsageError("--all and --older-than: give one of them")
    days = -1.0 if everything else float("inf") if older_than is None else older_than
    folder = _folder(cache)
    gone = clean_cache(folder, days) if folder.is_dir() else []
    size = sum(item.size for item in gone)
    if as_json:
        print_json({"cache": str(folder), "files": len(gone), "bytes": size})
        return
    stderr().print(f"{printable(folder)}: {counted(len(gone), 'file')} deleted, {sized(size)}")


def _folder(cache: Path | None) -> Path:
    from ssmtl_toolkit.runtime.scans import default_cache

    return cache or default_cache()

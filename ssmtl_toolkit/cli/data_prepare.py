"""`ssmtl data prepare`: fill the cache with the slices of scans, also by many workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.once import OnceCommand
from ssmtl_toolkit.cli.options import (
    cache_option,
    cluster_option,
    config_option,
    json_option,
    options_of,
    read_options,
)
from ssmtl_toolkit.config.prepare import PrepareConfig
from ssmtl_toolkit.text import counted, shortened, sized


@click.command("prepare", cls=OnceCommand)
@click.argument("data", nargs=-1)
@options_of(PrepareConfig, {})
@cluster_option
@cache_option
@config_option
@json_option
def command(
    data: tuple[str, ...], cluster: str | None, cache: Path | None, file: Path | None, as_json: bool, **flags: Any
) -> None:
    """Make the slices of DATA and keep them in the cache.

    What is in the cache already is not made again: rerun the command to resume. --config may be the run.toml of a run.

    \b
      ssmtl data prepare scans/ --size 128 --window -1000 1000
      ssmtl data prepare scans/ --cluster local:4
    """
    from ssmtl_toolkit.cli.console import print_json, reporting
    from ssmtl_toolkit.runtime.cluster import check_cluster
    from ssmtl_toolkit.runtime.interrupt import interrupts
    from ssmtl_toolkit.runtime.scans import default_cache

    config = read_options(PrepareConfig, {**flags, "data": data}, file).resolve()
    if cluster is not None:
        check_cluster(cluster)
    from ssmtl_toolkit.data.store import unusable
    from ssmtl_toolkit.pretraining.preparing import prepare_slices  # torch is imported from here on

    with interrupts, reporting() as (console, progress):
        done = prepare_slices(config, cache or default_cache(), progress, cluster)
    if as_json:
        print_json(done.to_json())
    else:
        found, size = done.scans - done.made, sized(done.bytes)
        console.print(
            f"{counted(done.scans, 'scan')}: {done.made} made, {found} found in the cache; "
            f"{counted(done.slices, 'slice')}, {size}"
        )
        for line in shortened((f"skipped: {item.reason}" for item in done.skipped), 10):
            console.print(line)
        click.echo(done.cache)
    if done.failed and not config.skip_bad:
        raise unusable(done.failed, done.scans + len(done.failed))
    for line in shortened((item.reason for item in done.failed), 20):
        console.print(f"failed: {line}")

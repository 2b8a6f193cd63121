"""`ssmtl data`: make data."""

from __future__ import annotations

from pathlib import Path

import click

from ssmtl_toolkit.errors import SsmtlError, UsageError


@click.group("data", short_help="Make data.")
def command() -> None:
    """Make data."""


@command.command("phantom")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--patients", type=click.IntRange(1, 9999), default=20, show_default=True, help="How many patients.")
@click.option("--modality", type=click.Choice(["ct", "mri"]), default="ct", show_default=True, help="CT or MRI.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed, other patients.")
def phantom(out: Path, patients: int, modality: str, seed: int) -> None:
    """Write made-up chest CT or cardiac MRI volumes to OUT/images and their labels to OUT/labels, as NIfTI."""
    from ssmtl_toolkit.registry import registry
    from ssmtl_toolkit.specs import DatasetSpec

    for folder in (out / "images", out / "labels"):
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder}: is not empty; choose another folder")
    spec = registry().find(DatasetSpec, "phantom").parse(f"patients={patients},modality={modality},seed={seed}")
    try:
        files = spec.write(out)  # type: ignore[attr-defined]
    except OSError as error:
        raise SsmtlError(f"{out}: cannot be written ({error.strerror}); choose another folder") from error
    click.echo(f"wrote {len(files)} scans to {out}/images and their labels to {out}/labels", err=True)
    click.echo(out)

"""`ssmtl plugins`: what is installed, from which distribution, with which options; and a new one to start from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from ssmtl_toolkit.cli.check import command as check
from ssmtl_toolkit.cli.once import OnceGroup
from ssmtl_toolkit.cli.options import PATH, complete_parts
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.installed import OURS
from ssmtl_toolkit.registry import HOOKS, Entry, Registry, registry, try_apart
from ssmtl_toolkit.text import clipped, did_you_mean, printable

KINDS = [*(kind.kind for kind in HOOKS.values()), "command"]


@click.group("plugins", cls=OnceGroup)
def command() -> None:
    """NAME is one of the names that `ssmtl plugins list` shows."""


command.add_command(check)


@command.command("list")
@click.option("--kind", type=click.Choice(KINDS), help="Only these.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def list_(kind: str | None, as_json: bool) -> None:
    """List all parts by kind, and plugins that did not load.

    Parts of other distributions than the toolkit are followed by its name. What is cut short: see plugins show.
    """
    from ssmtl_toolkit.cli.console import print_json, print_text, stderr, stdout

    try_apart()
    plugins = registry()
    rows = [row for row in _rows(plugins) if kind in (None, row["kind"])]
    broken = [{"plugin": p.name, "distribution": p.distribution, "error": p.error} for p in plugins.broken]
    if as_json:
        print_json({"specs": rows, "broken": broken})
        return
    print_text("\n".join(_lines(rows, stdout().width)))
    for plugin in broken:
        stderr().print(
            f"warning: plugin {plugin['plugin']!r} of {plugin['distribution']} did not load: {plugin['error']}"
        )


@command.command("show")
@click.argument("name", shell_complete=complete_parts)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def show(name: str, as_json: bool) -> None:
    """Show every option of NAME.

    That is its type, bounds, default and help, and which distribution NAME comes from.
    """
    from rich.console import Console

    from ssmtl_toolkit.cli.console import print_json, table

    plugins = registry()
    entries = _find(plugins, name)
    shown = [{**_row(entry), "options": _options(entry)} for entry in entries]
    if as_json:
        print_json({"specs": shown})
        return
    console = Console(markup=False, highlight=False)
    for row in shown:
        console.print(f"{row['kind']} {row['name']}  ({_from(row)})\n{row['help']}")
        options = [[o["name"], o["type"], o["bounds"], o["default"], o["help"]] for o in row["options"]]
        console.print(table("", ["option", "type", "bounds", "default", "help"], options) if options else "no options")


@command.command("new", short_help="Write a working plugin package to start from.")
@click.argument("name")
@click.option("--kind", type=click.Choice(KINDS[:-1]), required=True, help="What it adds.")
@click.option("--out", type=PATH, default=".", help="Where to create the folder NAME.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def new(name: str, kind: str, out: Path, as_json: bool) -> None:
    """Write a plugin package NAME to start from: a small working part, with its tests.

    \b
      ssmtl plugins new slice-order --kind task
    """
    from ssmtl_toolkit.cli.console import print_json, stderr
    from ssmtl_toolkit.scaffolding import write_plugin

    written = write_plugin(name, kind, out)
    if as_json:
        files = [str(file) for file in written.files]
        print_json({"folder": str(written.folder), "kind": kind, "files": files, "next": written.commands})
        return
    for file in written.files:
        click.echo(file)
    stderr().print("\n".join(["next:", *(f"  {line}" for line in written.commands)]))


def _find(plugins: Registry, name: str) -> list[Entry]:
    entries = [entry for (_, n), entry in plugins.entries.items() if n == name]
    if not entries:
        known = [n for _, n in plugins.entries]
        raise UsageError(f"no plugin part named {name!r}{did_you_mean(name, known)}; ssmtl plugins list shows all")
    return entries


def _lines(rows: Sequence[dict[str, Any]], width: int) -> Iterator[str]:
    """A line for each part, under its kind, with no more characters than `width`."""
    longest = max((len(row["name"]) for row in rows), default=0)
    for kind, group in itertools.groupby(rows, key=lambda row: row["kind"]):
        yield f"{'' if kind == rows[0]['kind'] else chr(10)}{kind}"
        for row in group:
            origin = "" if row["distribution"] == OURS else f"  [{_from(row)}]"
            yield f"  {row['name']:{longest}}  {clipped(row['help'], width - longest - 4 - len(origin))}{origin}"


def _rows(plugins: Registry) -> list[dict[str, Any]]:
    """All parts in the order of kinds, and the commands of plugins."""
    rows = sorted((_row(entry) for entry in plugins.entries.values()), key=lambda row: KINDS.index(row["kind"]))
    for name, (command, plugin) in plugins.commands.items():
        about = {"help": command.get_short_help_str(200), "distribution": plugin.distribution}
        rows.append({"kind": "command", "name": name, **about, "version": plugin.version})
    return rows


def _row(entry: Entry) -> dict[str, Any]:
    doc = printable((entry.spec.__doc__ or "").strip().partition("\n")[0])
    return {
        "kind": entry.spec.kind,
        "name": entry.spec.name,
        "help": doc,
        "distribution": entry.plugin.distribution,
        "version": entry.plugin.version,
    }


def _from(row: dict[str, Any]) -> str:
    return f"{row['distribution']} {row['version']}".rstrip()


def _options(entry: Entry) -> list[dict[str, str]]:
    """Read type, bounds and default of each option off the spec's JSON schema."""
    schema = entry.spec.model_json_schema(mode="validation")
    rows = []
    for name, field in schema.get("properties", {}).items():
        parts = [p for p in field.get("anyOf", [field]) if p.get("type") != "null"]
        default = repr(field["default"]) if "default" in field else "needed"
        rows.append(
            {
                "name": name,
                "type": " or ".join(_type(part) for part in parts),
                "bounds": ", ".join(filter(None, (_bounds(part) for part in parts))),
                "default": default.strip("'") if default != "None" else "none",
                "help": field.get("description", ""),
            }
        )
    return rows


def _type(part: dict[str, Any]) -> str:
    if "const" in part:
        return str(part["const"])
    if "enum" in part:
        return " | ".join(str(choice) for choice in part["enum"])
    return str(part.get("format") or part.get("type", "any"))


def _bounds(part: dict[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {part[key]:g}" for key, sign in signs.items() if key in part)

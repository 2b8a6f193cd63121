"""How `--help` is laid out: what the command does, its docstring, its options under headings."""

from __future__ import annotations

from typing import Any

import click


class Sectioned(click.Option):
    """An option listed under the heading `section` of its command's help."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


def write_summary(command: click.Command, formatter: click.HelpFormatter) -> None:
    """Write the summary that lists of commands show, if the command has one beside its docstring."""
    if command.short_help:
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(command.short_help)


def write_sections(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the options of a command under their headings, in the order of first appearance; others come last."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
        if record is not None:
            sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
    for heading in sorted(sections, key=lambda heading: heading == "Options"):
        with formatter.section(heading):
            formatter.write_dl(sections[heading])

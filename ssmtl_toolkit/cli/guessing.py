"""What a wrong word on the command line may have meant, also if it belongs to another command."""

from __future__ import annotations

from collections.abc import Iterator

import click

from ssmtl_toolkit.text import did_you_mean, listed, nearest

_ALSO = {
    "train": "run",
    "pretrain": "run",
    "pre-train": "run",
    "fine-tune": "finetune",
    "inference": "predict",
    "infer": "predict",
    "segment": "predict",
    "test": "evaluate",
    "score": "evaluate",
    "compare": "experiment",
    "info": "data info",
    "list": "plugins list",
}
"""Words that others use for our commands."""


def guess_command(word: str, group: click.Group, context: click.Context) -> str:
    """Name the command that a wrong word may have meant: by its spelling, its sense, or as one of a group."""
    names = group.list_commands(context)
    if word in _ALSO:
        return f"; did you mean {_ALSO[word]!r}?"
    within = {sub: f"{name} {sub}" for name, sub in _subcommands(group, context)}
    if word in within and not nearest(word, names):
        return f"; did you mean {within[word]!r}?"
    return did_you_mean(word, names)


def guess_option(option: str, context: click.Context) -> str:
    """Name the commands that have an option which this one does not have; "": none has it."""
    root = context.find_root()
    group = root.command
    if not isinstance(group, click.Group):
        return ""
    commands = {name: group.get_command(root, name) for name in group.list_commands(root)}
    having = [name for name, command in commands.items() if command and option in _options(command)]
    return f"it is an option of ssmtl {listed(having, 3)}" if having else ""


def _subcommands(group: click.Group, context: click.Context) -> Iterator[tuple[str, str]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, sub) for sub in command.list_commands(context))


def _options(command: click.Command) -> set[str]:
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}

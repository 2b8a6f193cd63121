"""The command `ssmtl`: each subcommand is a file here, imported when it is called."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import click

from ssmtl_toolkit.cli.streams import discard, open_streams, show
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.foreign import by_the_user, ctrl_c, explained, in_one_line, words_of
from ssmtl_toolkit.places import outside_allowed

COMMANDS = {
    "run": "Pre-train a backbone on unlabelled scans.",
    "finetune": "Fine-tune on few labelled slices, and test on other patients.",
    "predict": "Write predictions for scans, on the scans' own grid.",
    "evaluate": "Score predicted label maps against labels.",
    "fewshot": "How many labels are needed, and does pre-training help? From one labelled folder.",
    "affinity": "Which pretext tasks go together, and can cheap scores tell? From one labelled folder.",
    "export": "Write trained weights for other libraries: torch, ONNX, smp, timm, MONAI, Hugging Face.",
    "report": "Show a run, or several, as one HTML file.",
    "experiment": "Compare rows of pre-training and fine-tuning, from a TOML file.",
    "reproduce": "Repeat the paper's tables, and show the difference to the published numbers.",
    "runs": "List runs: how far they are, which is best, what differs.",
    "cache": "Show the size of the cache of prepared slices, and clean it.",
    "plugins": "Show, check and make plugins: tasks, backbones, heads, balancers, readers, datasets.",
    "data": "Look at scans, split them by patient, suggest slices to label, write phantoms.",
}
"""What each command does: shown in lists of commands, and first in its own help, before its docstring."""


SWITCH = "SSMTL_DISABLE_PLUGINS"
"""The environment variable that means the same as --no-plugins."""
_REGISTRY = "ssmtl_toolkit.registry"

_ANYWHERE = ("--debug", "--allow-outside")  # flags that stand before or after the subcommand

debug = False
"""Whether tracebacks are shown (--debug)."""


class LazyGroup(click.Group):
    """Imports a subcommand's file only when it is called, so that `ssmtl --help` is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *_of_plugins()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return _of_plugins().get(name)
        command: click.Command = import_module(f"ssmtl_toolkit.cli.{name}").command
        command.short_help = COMMANDS[name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        if more := _of_plugins():
            with formatter.section("Commands of plugins"):
                formatter.write_dl([(name, command.get_short_help_str()) for name, command in more.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and args[0] not in _of_plugins():
            from ssmtl_toolkit.cli.guessing import guess_command

            ctx.fail(f"no command {args[0]!r}{guess_command(args[0], self, ctx)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand. Code that raises what ends a process has failed; click would take it for success."""
        try:
            return super().invoke(ctx)
        except BaseException as error:
            if by_the_user(error) or (isinstance(error, Exception) and not _ends_early(error)):
                raise
            raise SsmtlError(f"the command was not finished: {explained(error)}") from error


def _of_plugins() -> dict[str, click.Command]:
    """The commands of plugins, by name; those that are called as one of ours are left out."""
    from ssmtl_toolkit.installed import others

    if not others() and _REGISTRY not in sys.modules:  # then there are none, and --help need not load what is bundled
        return {}
    from ssmtl_toolkit.registry import registry

    return {name: command for name, (command, _) in registry().commands.items() if name not in COMMANDS}


def _ends_early(error: Exception) -> bool:
    """Whether click would take this for a Ctrl-C, or, from code that is not the command line's, for the end."""
    if isinstance(error, click.exceptions.Exit):
        modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
        return not all(name.startswith(("click", __name__, "contextlib")) for name in modules)
    return isinstance(error, EOFError | click.exceptions.Abort)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(package_name="ssmtl-toolkit", prog_name="ssmtl")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option("--plugin", metavar="FILE.py", multiple=True, help="Load a plugin from a file too; repeatable.")
@click.option("--no-plugins", is_flag=True, help="Load no installed plugins but the bundled ones.")
@click.option("--allow-outside", is_flag=True, help="Let dataset.json and manifests name files elsewhere.")
@click.pass_context
def cli(ctx: click.Context, debug: bool, plugin: tuple[str, ...], no_plugins: bool, allow_outside: bool) -> None:
    """Self-supervised multi-task pre-training on stacks of medical slices.

    \b
    Try:  ssmtl run --backbone unet --task reconstruct_prev --task reconstruct_next --task slice_siam
    """


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line; errors of ours become one message on stderr and an exit code."""
    arguments = sys.argv[1:] if args is None else args
    global debug
    debug = "--debug" in arguments
    outside_allowed.set("--allow-outside" in arguments)
    open_streams()
    try:
        code = _run([arg for arg in arguments if arg not in _ANYWHERE])
        sys.stdout.flush()
    except Exception as error:
        if debug and not isinstance(error, BrokenPipeError):
            raise
        code = _explain(error)
        discard()
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if "--no-plugins" in arguments:
        arguments = [arg for arg in arguments if arg != "--no-plugins"]
        os.environ[SWITCH] = "1"  # for the processes that this one starts, too
    try:
        arguments = _without_plugin_files(arguments)
        with _telling_ctrl_c():
            code = cli.main(args=arguments, prog_name="ssmtl", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        show("interrupted, nothing more was saved")
        return 130
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        show(text.getvalue().rstrip("\n"))
        return error.exit_code
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    """Show an error that has ended a command, and return its exit code."""
    if isinstance(error, BrokenPipeError):  # `ssmtl … | head`
        return 141
    if isinstance(error, SsmtlError):
        words = words_of(error) or in_one_line(error)
        show(f"error: {words}" if error.exit_code <= 128 else words)
        return error.exit_code
    if isinstance(error, OSError) and error.errno and error.filename is not None:
        from ssmtl_toolkit.disk import unusable

        show(f"error: {unusable(error)}")
        return 1
    show(f"error: {type(error).__name__}: {words_of(error)}")
    show("this is not expected; run again with --debug for the traceback")
    return 1


def _without_plugin_files(arguments: list[str]) -> list[str]:
    """Load the plugins that --plugin names, before or after the subcommand, and return the other arguments.

    Raises:
        UsageError: one cannot be loaded.
    """
    others, files, words = [], [], iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option == "--plugin":
            files.append(value if equals else next(words, ""))
        else:
            others.append(word)
    if files:
        from pathlib import Path

        from ssmtl_toolkit.registry import registry

        for file in dict.fromkeys(files):
            registry().add_file(Path(file))
    return others


@contextmanager
def _telling_ctrl_c() -> Iterator[None]:
    """Meanwhile, make a Ctrl-C distinguishable from a KeyboardInterrupt that a plugin raises."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

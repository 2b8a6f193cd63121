"""Commands that refuse an option given twice (click would keep the last value), with help under headings."""

from __future__ import annotations

import difflib
from collections import Counter

import click

from ssmtl_toolkit.cli.guessing import guess_option
from ssmtl_toolkit.cli.sections import write_sections, write_summary
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.text import listed, printable

_NEAR = 0.75  # of 1, how alike an option is that is proposed for one that does not exist


class OnceCommand(click.Command):
    """A command whose options may be given once, unless they are declared repeatable."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            if not ctx.resilient_parsing:
                self._check_words(ctx, args)
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:  # click guesses from further away: --slices for --devices
            known = [name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)]
            near = difflib.get_close_matches(error.option_name, known, cutoff=_NEAR)
            elsewhere = guess_option(error.option_name, ctx)
            message = f"No such option {error.option_name!r}; {elsewhere}." if elsewhere else error.message
            raise click.NoSuchOption(error.option_name, message, near, error.ctx) from None

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_summary(self, formatter)
        super().format_help_text(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_sections(self, ctx, formatter)

    def _check_words(self, ctx: click.Context, args: list[str]) -> None:
        """Raise UsageError naming the first option that is given more than once, or paths without --data."""
        values, rest, order = self.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(order).items():
            if isinstance(option, click.Option) and times > 1 and not (option.multiple or option.count):
                flags = " and ".join([option.opts[-1], *option.secondary_opts])
                value = values[option.name or ""]
                given = isinstance(value, str | tuple) and not option.is_flag  # else it stands without a value
                last = f" (the last value is {value!r})" if given else ""
                raise UsageError(f"{flags}: given {times} times{last}; give it once")
        if rest and any("--data" in option.opts for option in order if isinstance(option, click.Option)):
            raise UsageError(
                f"unexpected {_shown(rest)} after the options; repeat --data for each, or quote a pattern, "
                f"--data 'scans/*.nii.gz', so that the shell leaves it as it is"
            )
        if rest and any("--data" in parameter.opts for parameter in self.params):
            more = " …, or quote a pattern: --data 'scans/*.nii.gz'" if len(rest) > 1 else ""
            raise UsageError(f"unexpected {_shown(rest)}; did you mean --data {printable(rest[0])}{more}?")


def _shown(words: list[str]) -> str:
    return f"argument{'s' * (len(words) > 1)} {listed(map(repr, words), 2)}"


class OnceGroup(click.Group):
    """A group whose subcommands are `OnceCommand`s."""

    command_class = OnceCommand

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_summary(self, formatter)
        super().format_help_text(ctx, formatter)

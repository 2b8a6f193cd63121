"""An option that is given twice never loses its first value silently."""

import click
import pytest

from ssmtl_toolkit import cli
from ssmtl_toolkit.cli import COMMANDS, main


def leaves(command, path=()):
    """Every command that can be called, with the words that call it."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from leaves(command.get_command(context, name), (*path, name))
    else:
        yield path, command


SINGLE = [
    (path, option)
    for path, command in leaves(cli.cli)
    for option in command.params
    if isinstance(option, click.Option) and not option.multiple
]


def exit_of(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    return stop.value.code, capsys.readouterr().err


def value_of(option):
    if option.is_flag:
        return []
    if isinstance(option.type, click.Choice):
        return [option.type.choices[0]]
    return ["1"] * option.nargs


def test_there_are_options_of_every_command_to_try():
    assert {path[0] for path, _ in SINGLE} == set(COMMANDS)
    assert len(SINGLE) > 100


@pytest.mark.parametrize(
    ("path", "option"), SINGLE, ids=lambda x: x.name if isinstance(x, click.Option) else "-".join(x)
)
def test_a_single_option_given_twice_is_refused(path, option, capsys):
    once = [option.opts[0], *value_of(option)]
    other = [*option.secondary_opts[:1], *([] if option.secondary_opts else once)]
    code, said = exit_of(capsys, *path, *once, *other)
    assert code == 2
    assert f"{option.opts[-1]}" in said
    assert "given 2 times" in said


def test_a_short_and_a_long_form_are_one_option(capsys):
    code, said = exit_of(capsys, "predict", "--from", "x", "scan.nii.gz", "-o", "a", "--out", "b")
    assert code == 2
    assert "given 2 times" in said


def test_options_to_repeat_may_be_repeated(capsys):
    code, said = exit_of(capsys, "run", "--task", "reconstruct_prev", "--task", "nonsense")
    assert code == 2
    assert "nonsense" in said  # it got as far as the names


def test_one_key_set_twice_in_an_experiment_is_refused(capsys):
    code, said = exit_of(
        capsys, "reproduce", "table2", "--data", "phantom", "--set", "pretrain.lr=1", "--set", "pretrain.lr=2"
    )
    assert code == 2
    assert "--set" in said


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (("finetune", "--devices", "2"), ""),
        (("finetune", "--quiet"), ""),
        (("finetune", "--test-scan", "2"), "--test-scans"),
        (("run", "--batchsize", "2"), "--batch-size"),
    ],
)
def test_an_option_is_proposed_only_if_it_is_much_like_the_one_that_does_not_exist(capsys, words, proposed):
    code, said = exit_of(capsys, *words)
    assert code == 2
    assert f"No such option '{words[1]}'" in said
    assert (proposed in said) if proposed else "mean" not in said

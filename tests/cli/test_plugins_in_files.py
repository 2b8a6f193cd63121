"""Commands of plugins, plugins from a single file, and words that belong to another command."""

import sys

import click
import pytest

from helpers.small import SMALL
from ssmtl_toolkit import UsageError
from ssmtl_toolkit.registry import Registry, registry

FILE = '''"""A task and a command in one file."""
import click
from ssmtl_reconstruct import ReconstructNext
from ssmtl_toolkit import hookimpl

class Mine(ReconstructNext):
    """A reconstruction of my own."""
    name = "mine"

@click.command("hello")
def hello():
    """Say hello."""
    click.echo("hello")

@hookimpl
def ssmtl_tasks():
    return [Mine]

@hookimpl
def ssmtl_commands():
    return [hello]
'''


@pytest.fixture(autouse=True)
def own_registry(monkeypatch, request):
    """A registry that keeps nothing of a file for the next test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    registry.cache_clear()
    yield
    registry.cache_clear()
    for name in [name for name in sys.modules if name.startswith("in_one_file")]:
        del sys.modules[name]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "in_one_file.py").write_text(FILE)
    return tmp_path / "code" / "in_one_file.py"


def test_a_plugin_from_a_file_adds_parts_and_commands(ssmtl, file):
    assert ssmtl("--plugin", file, "hello").stdout == "hello\n"
    assert "hello  Say hello." in ssmtl("--help", f"--plugin={file}").stdout
    listed = ssmtl("plugins", "list", "--plugin", file, "--kind", "task").stdout
    assert "A reconstruction of my own." in listed
    assert "[in_one_file.py]" in listed
    assert "hello" not in listed


def test_what_was_trained_with_a_file_says_that_it_needs_it(ssmtl, file):
    options = ["--data", "phantom:patients=3", "--backbone", SMALL, "--size", 16, "--steps", 1, "--out", "run"]
    assert ssmtl("run", "--plugin", file, "--task", "mine", *options).returncode == 0
    registry.cache_clear()
    done = ssmtl("run", "--config", "run/run.toml", "--out", "again")
    assert done.returncode == 2
    assert "needs the task 'mine' of in_one_file.py, a file; give it with --plugin" in done.stderr


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("in_one_file_broken.py", "import no_such_package", "cannot be loaded: ModuleNotFoundError"),
        ("in_one_file_empty.py", "", "cannot be loaded: TypeError: it registers nothing"),
        ("timm.py", FILE, "another module is called 'timm'; rename the file"),
        ("in_one_file.txt", FILE, "is no .py file"),
        ("nowhere.py", None, "no such file"),
    ],
)
def test_a_file_that_is_no_plugin_is_refused(ssmtl, tmp_path, name, body, told):
    if body is not None:
        (tmp_path / name).write_text(body)
    done = ssmtl("--plugin", tmp_path / name, "plugins", "list")
    assert done.returncode == 2
    assert f"--plugin {tmp_path / name}: {told}" in done.stderr


def test_a_configuration_cannot_name_a_file_of_code(ssmtl, tmp_path, file):
    (tmp_path / "run.toml").write_text(f"plugin = {str(file)!r}\n")
    assert "no option 'plugin'" in ssmtl("run", "--config", "run.toml").stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train"], "did you mean 'run'?"),
        (["phantom"], "did you mean 'data phantom'?"),
        (["evalute"], "did you mean 'evaluate'?"),
        (["run", "--seeds", 3], "No such option '--seeds'; it is an option of ssmtl finetune"),
        (["run", "--stepz", 3], "--steps"),
        (["plugins", "show", "slice_sima"], "did you mean 'slice_siam'?; ssmtl plugins list shows all"),
    ],
)
def test_a_wrong_word_is_answered_with_where_it_belongs(ssmtl, arguments, told):
    done = ssmtl(*arguments)
    assert done.returncode == 2
    assert told in done.stderr


def test_lists_of_parts_fit_a_terminal_of_80_columns(ssmtl, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = ssmtl("plugins", "list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 130


def test_two_plugins_that_claim_a_command_are_both_named(file, tmp_path):
    known = Registry([])
    known.add_file(file)
    (tmp_path / "in_one_file_too.py").write_text(FILE.replace('"mine"', '"other"'))
    with pytest.raises(UsageError, match=r"command 'hello': in_one_file.py .* and in_one_file_too.py"):
        known.add_file(tmp_path / "in_one_file_too.py")
    assert isinstance(known.commands["hello"][0], click.Command)

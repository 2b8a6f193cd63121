"""`ssmtl plugins new`: a package of any kind and name passes its own tests and checks just as it was written."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from helpers.places import ROOT
from ssmtl_toolkit import SsmtlError, UsageError, scaffolding
from ssmtl_toolkit.cli import cli
from ssmtl_toolkit.registry import HOOKS, our_version, registry
from ssmtl_toolkit.scaffolding import check_name, write_plugin

LONG = "backbone-whose-name-is-as-long-as-can-be"
NAMES = {
    "task": "ab",
    "backbone": LONG,
    "head": "focal-head-2",
    "preparation": "pet-range",
    "augmentation": "bias-field",
    "metric": "volume-error",
    "balancer": "geometric",
    "reader": "npz-files",
    "dataset": "patients",
    "semi": "decided",
    "tracker": "lab-book",
    "export": "pth-file",
}


def command(*arguments, **options):
    """Run a command in a process of its own, and show what it said where it failed."""
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A package of each kind, all installed in one folder; and the environment that finds them."""
    base = tmp_path_factory.mktemp("packages")
    written = {kind: write_plugin(name, kind, base).folder for kind, name in NAMES.items()}
    target = base / "target"
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    command(sys.executable, "-m", "pip", "install", *offline, "--target", target, *written.values())
    paths = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(base / "cache")}
    environment.pop("SSMTL_DISABLE_PLUGINS", None)
    return written, environment


def test_there_is_a_template_for_every_kind():
    assert set(scaffolding.KINDS) == set(NAMES) == {kind.kind for kind in HOOKS.values()}
    assert (len(NAMES["task"]), len(LONG)) == (2, 40)


@pytest.mark.slow
def test_new_packages_pass_their_own_tests_as_installed(packages):
    folders, environment = packages
    # all in one process, for most of the time goes into starting it; the settings are the same for every kind
    base = folders["task"].parent
    options = ["-p", "no:cacheprovider", "-c", folders["task"] / "pyproject.toml", "--rootdir", base]
    tests = [folder / "tests" for folder in folders.values()]
    told = command(sys.executable, "-m", "pytest", *options, *tests, cwd=base, env=environment)
    for folder in folders.values():
        assert f"{folder.name}/tests/test_{folder.name.replace('-', '_')}.py ." in told


def test_every_new_package_has_the_same_settings_for_its_tests(packages):
    folders, _ = packages
    settings = [tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["pytest"] for folder in folders.values()]
    assert all(other == settings[0] for other in settings)


@pytest.mark.slow
def test_new_packages_are_well_typed(packages, request):
    folders, environment = packages
    # All in one run, for torch's types take longest; and these are kept from one run of the tests to the next. The
    # first run takes over what `make types` knows of them.
    cache = request.config.cache.mkdir("mypy")
    if (ROOT / ".mypy_cache").is_dir() and not any(cache.iterdir()):
        shutil.copytree(ROOT / ".mypy_cache", cache, dirs_exist_ok=True)
    sources = [folder / part for folder in folders.values() for part in ("src", "tests")]
    config = ["--config-file", folders["task"] / "pyproject.toml", "--cache-dir", cache]
    command(sys.executable, "-m", "mypy", *config, *sources, env=environment)


def test_new_packages_are_found_beside_all_that_is_bundled(packages):
    _, environment = packages
    told = json.loads(command(sys.executable, "-m", "ssmtl_toolkit", "plugins", "list", "--json", env=environment))
    assert told["broken"] == []
    found = {(row["kind"], row["name"]): (row["distribution"], row["help"]) for row in told["specs"]}
    for kind, name in NAMES.items():
        distribution, text = found[kind, name.replace("-", "_")]
        assert distribution == name
        assert text


@pytest.mark.parametrize("kind", NAMES)
def test_a_new_package_is_tidy_whatever_the_length_of_its_name(tmp_path, kind):
    for name in ("ab", "a-b-c", "zebra", LONG, "z" * 40):
        write_plugin(name, kind, tmp_path)
    command(sys.executable, "-m", "ruff", "check", "--no-cache", tmp_path)
    command(sys.executable, "-m", "ruff", "format", "--check", "--no-cache", tmp_path)


@pytest.mark.parametrize("kind", NAMES)
def test_nothing_of_the_template_is_left_in_a_new_package(tmp_path, kind):
    written = write_plugin("slice-order", kind, tmp_path)
    assert written.files == sorted(file for file in (tmp_path / "slice-order").rglob("*") if file.is_file())
    for file in written.files:
        text = file.read_text() + file.name
        for word in ("my_plugin", "my-plugin", "MyPlugin", "KIND", "PURPOSE", "COMMAND", "REQUIREMENTS", "FILE`"):
            assert word not in text, f"{word} in {file}"
    assert f"ssmtl-toolkit>={our_version()}" in (written.folder / "pyproject.toml").read_text()
    assert (written.folder / ".github/workflows/ci.yml").is_file()


def test_a_name_that_holds_a_word_of_the_template_is_put_in_once(tmp_path):
    written = write_plugin("my-plugin-my-plugin", "head", tmp_path)
    assert "class MyPluginMyPlugin(HeadSpec)" in (written.folder / "src/my_plugin_my_plugin/__init__.py").read_text()


@pytest.mark.parametrize("kind", NAMES)
def test_the_command_to_try_it_with_has_options_that_exist(tmp_path, kind):
    *_, trial = write_plugin("slice-order", kind, tmp_path).commands
    ssmtl, name, *arguments = shlex.split(trial)
    subcommand = cli.get_command(click.Context(cli), name)
    assert ssmtl == "ssmtl"
    given = subcommand.make_context(name, arguments).params
    assert any("slice_order" in str(value) for value in given.values()) or kind == "reader"


def test_files_are_on_stdout_and_what_to_do_next_on_stderr(ssmtl, tmp_path):
    (tmp_path / "with space").mkdir()
    done = ssmtl("plugins", "new", "slice-order", "--kind", "task", "--out", "with space")
    assert done.returncode == 0
    files = [tmp_path / line for line in done.stdout.splitlines()]
    assert files == sorted(file for file in (tmp_path / "with space" / "slice-order").rglob("*") if file.is_file())
    for line in (
        "cd 'with space/slice-order'",
        "pip install",
        "pytest",
        "ssmtl plugins check slice_order",
        "ssmtl run",
    ):
        assert line in done.stderr


def test_json_is_alone_on_stdout(ssmtl):
    done = ssmtl("plugins", "new", "slice-order", "--kind", "task", "--json")
    told = json.loads(done.stdout)
    assert done.stderr == ""
    assert (told["folder"], told["kind"]) == ("slice-order", "task")
    assert "slice-order/src/slice_order/module.py" in told["files"]
    assert told["next"][0] == "cd slice-order"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("SliceOrder", "did you mean 'slice-order'?"),
        ("slice_order", "did you mean 'slice-order'?"),
        ("a", "2 to 40"),
        ("a" * 41, "2 to 40"),
        ("2d", "a letter"),
        ("a--b", "did you mean 'a-b'?"),
        ("-ab", "did you mean 'ab'?"),
        ("ab\n", "lower case"),
        ("../ab", "lower case"),
        ("übung", "lower case"),
        ("class", "a Python keyword"),
        ("none", "a Python keyword"),
        ("json", "standard library"),
        ("torch", "installed package"),
        ("ssmtl-toolkit", "installed package"),
        ("pillow", "installed distribution"),
        ("pytest", "of every plugin"),
        ("dist", "of every plugin"),
        ("reconstruct-prev", "the task 'reconstruct_prev' of ssmtl-toolkit"),
        ("task-spec", "would make a class TaskSpec"),
        ("value-error", "would make a class ValueError"),
    ],
)
def test_a_name_that_will_not_do_is_refused_in_one_line(ssmtl, tmp_path, name, told):
    done = ssmtl("plugins", "new", "--kind", "task", "--", name)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_taken_only_by_a_part_of_its_kind():
    names = {kind: name for kind, name in registry().entries if "_" in name}
    kind, name = next(iter(names.items()))
    other = next(k for k in NAMES if (k, name) not in registry().entries)
    with pytest.raises(UsageError, match=r"is already the .*; choose another name"):
        check_name(name.replace("_", "-"), kind)
    check_name(name.replace("_", "-"), other)


def test_what_is_there_is_never_overwritten(ssmtl, tmp_path):
    (tmp_path / "a-folder").mkdir()
    (tmp_path / "a-file").write_text("mine")
    (tmp_path / "a-link").symlink_to(tmp_path / "nowhere")
    for name in ("a-folder", "a-file", "a-link"):
        done = ssmtl("plugins", "new", name, "--kind", "head")
        assert done.returncode == 2
        assert f"{name}: already exists; choose another name or --out" in done.stderr
    assert {file.name for file in tmp_path.rglob("*")} == {"a-folder", "a-file", "a-link"}
    assert (tmp_path / "a-file").read_text() == "mine"


def test_a_folder_that_is_missing_is_told(ssmtl, tmp_path):
    done = ssmtl("plugins", "new", "slice-order", "--kind", "head", "--out", "nowhere")
    assert done.returncode == 2
    assert "nowhere: no such folder; create it, or choose another --out" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "seen"), [(OSError(28, "No space left on device"), SsmtlError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_failure_half_way_leaves_nothing(tmp_path, monkeypatch, fault, seen):
    write, written = Path.write_text, []

    def fail_at_the_fourth(path, *arguments, **options):
        written.append(path)
        if len(written) == 4:
            raise fault
        return write(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fail_at_the_fourth)
    with pytest.raises(seen) as error:
        write_plugin("slice-order", "task", tmp_path)
    assert len(written) == 4
    assert list(tmp_path.iterdir()) == []
    if seen is SsmtlError:
        assert "slice-order: cannot be written (No space left on device, " in str(error.value)
        assert "MiB free); free some space, or choose another --out" in str(error.value)

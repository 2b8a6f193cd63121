"""Plugins: found by entry point, described from their specs, and a broken one does not disable the others."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from helpers.plugin_files import bundled_points, plugin
from ssmtl_toolkit import UsageError, foreign, hookspecs
from ssmtl_toolkit import registry as registry_module
from ssmtl_toolkit.cli import plugins as plugins_cli
from ssmtl_toolkit.declared import check_declared
from ssmtl_toolkit.registry import HOOKS, Registry, registry
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec, Spec, TaskSpec, check_needs, named

BUNDLED = {
    "task": {"reconstruct_prev", "reconstruct_next", "slice_siam", "moco_v2"},
    "backbone": {"unet", "fcn", "smp"},
    "balancer": {"fixed", "uncertainty", "dwa", "rlw", "famo", "pcgrad", "upgrad", "mgda"},
    "reader": {"nifti", "dicom", "nrrd", "metaimage", "mgh", "slices"},
    "export": {"torch", "onnx", "smp", "timm", "monai", "hf", "nnunet"},
    "dataset": {"folder", "phantom", "mmwhs", "manifest", "bids"},
}


TASK = """
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import TaskSpec
class Mine(TaskSpec):
    "My task."
    name = {name!r}
    def build(self, backbone): ...
@hookimpl
def ssmtl_tasks():
    return [Mine]
"""
ODD_TYPE = TASK.format(name="mine").replace("    name", "    odd: type('Odd', (), {}) = None\n    name")


@pytest.mark.parametrize("kind", BUNDLED)
def test_every_bundled_part_is_found_by_entry_point(kind):
    assert {name for k, name in registry().entries if k == kind} >= BUNDLED[kind]


def test_a_third_party_plugin_stands_beside_the_bundled_ones(tmp_path, monkeypatch):
    point = plugin(tmp_path, monkeypatch, "third_party_a", TASK.format(name="mine"))
    found = Registry([*bundled_points(), point])
    assert found.find(TaskSpec, "mine").__doc__ == "My task."
    assert found.origin(found.resolve(TaskSpec, "mine")) == {
        "spec": "mine:weight=1.0",
        "distribution": "dist-third-party-a",
        "version": "7.0",
    }


@pytest.mark.parametrize(
    ("name", "body", "told"),
    [
        ("broken_a", "import nothing_like_this", "nothing_like_this"),
        ("broken_b", "raise SystemExit(3)", "SystemExit"),
        ("broken_c", "1 / 0", "ZeroDivisionError"),
        ("broken_d", TASK.format(name="mine").replace("return [Mine]", "return [int]"), "subclasses of TaskSpec"),
        ("broken_e", TASK.format(name="mine").replace("    def build(self, backbone): ...\n", ""), "build"),
        ("broken_f", TASK.format(name="mine").replace("def ssmtl_tasks", "def ssmtl_taskz"), "ssmtl_taskz"),
        ("broken_g", TASK.format(name="mine").replace("ssmtl_tasks()", "ssmtl_tasks(torch)"), "torch"),
        ("broken_h", TASK.format(name="Not a name"), "lower-case"),
        ("broken_i", TASK.format(name="mine").replace("@hookimpl", ""), "registers nothing; is @hookimpl above"),
        ("broken_j", TASK.format(name="mine").replace("return [Mine]", "return Mine"), "must return a list of classes"),
        ("broken_l", ODD_TYPE, "Unable to generate pydantic-core schema"),
        ("broken_k", TASK.format(name="mine").replace("ssmtl_tasks", "ssmtl_task"), "did you mean 'ssmtl_tasks'?"),
    ],
)
def test_a_broken_plugin_is_reported_and_the_rest_works(tmp_path, monkeypatch, capsys, name, body, told):
    found = Registry([plugin(tmp_path, monkeypatch, name, body), *bundled_points()])
    (broken,) = found.broken
    assert told in broken.error
    assert str(broken) == f"dist-{name.replace('_', '-')} 7.0"
    assert found.find(TaskSpec, "slice_siam")
    with pytest.raises(UsageError) as error:
        found.find(TaskSpec, "mine")
    assert broken.distribution in str(error.value)
    monkeypatch.setattr(plugins_cli, "registry", lambda: found)
    plugins_cli.command.main(["list"], standalone_mode=False)
    assert told in capsys.readouterr().err


WRONG = {
    "HeadSpec, output = 'lables'": "Mine.output must be 'labels' or 'image', got 'lables'",
    "AugmentationSpec, changes = frozenset({'colours'})": "Mine.changes must be a frozenset of 'place', 'values'",
    "AugmentationSpec, ": "Mine.changes is missing; give it a frozenset of 'place', 'values' and 'batch'",
    "TaskSpec, needs = frozenset({'poold'})": "'pyramid', 'pooled', 'decoded' and 'dense', got frozenset({'poold'})",
    "TaskSpec, needs = 'pooled'": "Mine.needs must be a frozenset of",
    "TaskSpec, metrics = ('chance')": "Mine.metrics must be tuple[str, ...], got 'chance'",
    "TaskSpec, baselines = ('chance',)": "Mine.baselines has 'chance', which is not in its metrics",
    "TaskSpec, floor = '0'": "Mine.floor must be float, got '0'",
    "TaskSpec, least_correlation = 'much'": "Mine.least_correlation must be float | None, got 'much'",
    "BackboneSpec, provides = ['pooled']": "Mine.provides must be a frozenset of",
    "MetricSpec, digits = 2.5": "Mine.digits must be int, got 2.5",
    "SemiSpec, kind = 'task'": "Mine.kind must be 'semi', got 'task'; leave it out",
    "DatasetSpec, positional = 'root'": "Mine.positional must be the name of an option, got 'root'",
}


def test_a_class_that_says_wrong_things_of_itself_is_not_loaded(tmp_path, monkeypatch):
    points = []
    for i, given in enumerate(WRONG):
        kind, line = given.split(", ", 1)
        hook = next(hook for hook, spec in HOOKS.items() if spec.__name__ == kind)
        body = TASK.format(name="mine").replace("TaskSpec", kind).replace("ssmtl_tasks", hook)
        rest = "    scans = score = read = header = matches = lambda self, *given: None"
        body = body.replace("    def build(self, backbone): ...", f"{rest}\n    build = scans\n    {line}")
        points.append(plugin(tmp_path, monkeypatch, f"wrong_{i}", body))
    found = Registry([*points, *bundled_points()])
    errors = {broken.name: broken.error for broken in found.broken}
    for i, told in enumerate(WRONG.values()):
        assert told in errors[f"wrong_{i}"]


def test_all_bundled_classes_say_right_things_of_themselves():
    for kind in HOOKS.values():
        for spec in registry().of(kind):
            check_declared(spec, kind)


def test_a_list_may_stand_for_a_tuple_and_a_property_says_more_than_a_class(tmp_path, monkeypatch):
    said = "    metrics = ['chance']\n    baselines = ['chance']\n    needs = property(lambda self: frozenset())\n"
    body = TASK.format(name="mine").replace("    def build", f"{said}    def build")
    assert Registry([plugin(tmp_path, monkeypatch, "lists", body)]).find(TaskSpec, "mine")


def test_of_two_plugins_that_claim_one_name_neither_is_loaded_and_both_are_named(tmp_path, monkeypatch):
    points = [plugin(tmp_path, monkeypatch, name, TASK.format(name="mine")) for name in ("clash_a", "clash_b")]
    found = Registry([*bundled_points(), *points, plugin(tmp_path, monkeypatch, "other", TASK.format(name="other"))])
    assert [broken.name for broken in found.broken] == ["clash_a", "clash_b"]
    with pytest.raises(UsageError) as error:
        found.find(TaskSpec, "mine")
    for part in ("task 'mine'", "dist-clash-a 7.0", "dist-clash-b 7.0", "uninstall or rename one of them"):
        assert part in str(error.value)
    assert found.find(TaskSpec, "other")
    assert found.find(TaskSpec, "slice_siam")


def test_a_class_that_two_entry_points_register_is_no_clash(tmp_path, monkeypatch):
    point = plugin(tmp_path, monkeypatch, "same", TASK.format(name="mine"))
    again = EntryPoint("again", "same", "ssmtl")._for(point.dist)
    assert Registry([*bundled_points(), point, again]).broken == []


def test_one_plugin_with_two_classes_of_one_name_is_broken(tmp_path, monkeypatch):
    body = TASK.format(name="mine").replace("return [Mine]", "return [Mine, type('Other', (Mine,), {'name': 'mine'})]")
    (broken,) = Registry([plugin(tmp_path, monkeypatch, "twice", body)]).broken
    assert "it has two classes for the task 'mine'" in broken.error


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("import os; os._exit(0)", "SystemExit: os._exit(0)"),
        ("while True:\n try:\n  import time; time.sleep(60)\n except Exception: pass", "takes more than 0.2 s"),
        (
            "raise ValueError('red \\x1b[31m\\x07\\nline')",
            "ValueError: red \\x1b[31m\\x07 line",
        ),
    ],
)
def test_whatever_a_plugin_does_at_import_the_rest_works(tmp_path, monkeypatch, capsys, body, told):
    monkeypatch.setattr(foreign, "SLOW", 0.1)
    monkeypatch.setattr(foreign, "LONGEST", 0.2)
    exits, handler = os._exit, signal.getsignal(signal.SIGALRM)
    found = Registry([*bundled_points(), plugin(tmp_path, monkeypatch, f"odd_{len(body)}", body)])
    (broken,) = found.broken
    assert told in broken.error
    assert found.find(TaskSpec, "slice_siam")
    assert (os._exit, signal.getsignal(signal.SIGALRM)) == (exits, handler)
    if "sleep" in body:
        name = f"plugin {broken.name!r} of {broken.distribution} 7.0"
        assert f"{name} has been importing for 0 s; ssmtl --no-plugins does without it" in capsys.readouterr().err


def test_a_plugin_may_fork_at_import(tmp_path, monkeypatch):
    body = "import os\nif os.fork() == 0: os._exit(0)\nassert os.wait()[1] == 0\n" + TASK.format(name="mine")
    assert Registry([plugin(tmp_path, monkeypatch, "forks", body)]).broken == []


def install(folder, name, body):
    """Write a package that Python finds installed where its folder is on the path."""
    metadata = folder / f"dist_{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / f"{name}.py").write_text(body)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[ssmtl]\n{name} = {name}\n")


def test_plugins_list_names_what_would_end_any_process_and_no_plugins_does_without(ssmtl_process, tmp_path):
    install(tmp_path / "site", "segfault", "import ctypes; ctypes.string_at(0)")
    install(tmp_path / "site", "interrupt", "raise KeyboardInterrupt")
    install(tmp_path / "site", "good", TASK.format(name="mine"))
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    done = ssmtl_process("plugins", "list", "--json", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert {row["distribution"]: row["error"] for row in listed["broken"]} == {
        "dist-segfault": "its import ends the process, by signal 11",
        "dist-interrupt": "KeyboardInterrupt",
    }
    assert ("task", "mine", "dist-good") in {(row["kind"], row["name"], row["distribution"]) for row in listed["specs"]}
    assert ssmtl_process("plugins", "show", "mine", PYTHONPATH=path).returncode == -signal.SIGSEGV
    for arguments in (("--no-plugins", "plugins", "show", "mine"), ("plugins", "show", "mine", "--no-plugins")):
        done = ssmtl_process(*arguments, PYTHONPATH=path)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr


def test_a_part_that_is_not_bundled_is_named_with_its_distribution(tmp_path, monkeypatch):
    point = plugin(tmp_path, monkeypatch, "third_party_n", TASK.format(name="mine"))
    found = Registry([*bundled_points(), point])
    assert named(found.resolve(TaskSpec, "mine")) == "task 'mine' of dist-third-party-n 7.0"
    assert named(found.resolve(TaskSpec, "slice_siam:t=2")) == "task 'slice_siam:t=2'"


def test_plugins_that_are_not_bundled_can_be_left_out():
    code = "from ssmtl_toolkit.registry import registry; print({p.distribution for p in registry().plugins})"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"SSMTL_DISABLE_PLUGINS": "1", "PATH": ""}, capture_output=True, text=True
    )
    assert done.stdout == "{'ssmtl-toolkit'}\n", done.stderr


def test_a_plugin_may_have_nothing_to_offer_here_and_functions_of_any_name(tmp_path, monkeypatch):
    body = TASK.format(name="mine").replace("return [Mine]", "return []") + "def ssmtl_helper(): ..."
    assert Registry([plugin(tmp_path, monkeypatch, "offers_none", body)]).broken == []


def test_what_a_plugin_prints_is_no_result(tmp_path, monkeypatch, capsys):
    Registry([plugin(tmp_path, monkeypatch, "talks", "print('hello')\n" + TASK.format(name="mine"))])
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")


def test_a_plugin_that_takes_a_bundled_name_is_the_one_that_is_not_loaded(tmp_path, monkeypatch):
    point = plugin(tmp_path, monkeypatch, "takes", TASK.format(name="slice_siam"))
    found = Registry([*bundled_points(), point])
    (broken,) = found.broken
    assert "uninstall or rename it in dist-takes" in broken.error
    assert found.find(TaskSpec, "slice_siam").__module__ == "ssmtl_slice_siam"


def test_a_name_that_is_not_found_says_that_plugins_are_switched_off(monkeypatch):
    monkeypatch.setenv("SSMTL_DISABLE_PLUGINS", "1")
    with pytest.raises(UsageError, match="plugins are switched off"):
        Registry(bundled_points()).find(TaskSpec, "rotation")


def test_a_need_that_is_not_met_is_told_without_torch():
    class Poor(BackboneSpec):
        name = "poor"
        provides = frozenset({"pooled"})

        def build(self, in_channels): ...

    task = registry().resolve(TaskSpec, "reconstruct_prev")
    with pytest.raises(UsageError, match=r"'reconstruct_prev' needs dense features, which backbone 'poor'"):
        check_needs(Poor(), [task])


def test_each_hook_says_what_it_is_for_and_which_kind_of_spec_it_returns():
    assert all(getattr(hookspecs, hook).__doc__ for hook in HOOKS)
    assert HOOKS["ssmtl_tasks"] is TaskSpec
    assert HOOKS["ssmtl_heads"] is HeadSpec
    assert {hook.removeprefix("ssmtl_").removesuffix("s"): spec.kind for hook, spec in HOOKS.items()} == {
        spec.kind: spec.kind for spec in HOOKS.values()
    }


class PaletteSpec(Spec):
    """A kind of part that does not exist."""

    kind = "palette"


NEW_HOOK = """
import pluggy
from ssmtl_toolkit.hookspecs import *
from ssmtl_toolkit.hookspecs import hookspec
@hookspec
def ssmtl_palettes() -> "list[type[PaletteSpec]]":
    "Palettes."
"""
PALETTE = """
from pydantic import Field
from ssmtl_toolkit import hookimpl
from {module} import PaletteSpec
class Greys(PaletteSpec):
    "Shades of grey."
    name = "greys"
    levels: int = Field(2, description="How many.")
@hookimpl
def ssmtl_palettes():
    return [Greys]
"""


def test_a_kind_of_spec_is_a_class_and_a_hook(tmp_path, monkeypatch):
    changed = ModuleType("changed_hookspecs", hookspecs.__doc__)
    changed.PaletteSpec = PaletteSpec
    exec(compile(NEW_HOOK, "changed_hookspecs", "exec"), vars(changed))
    point = plugin(tmp_path, monkeypatch, "greys", PALETTE.format(module=__name__))
    assert "there is no hook ssmtl_palettes" in Registry([point]).broken[0].error
    monkeypatch.setattr(registry_module, "hookspecs", changed)
    monkeypatch.setattr(registry_module, "HOOKS", registry_module.hooks_of(changed))
    sys.modules.pop("greys")
    known = Registry([*bundled_points(), plugin(tmp_path, monkeypatch, "greys", PALETTE.format(module=__name__))])
    assert known.broken == []
    assert str(known.resolve(PaletteSpec, "greys:levels=5")) == "greys:levels=5"
    assert known.find(TaskSpec, "slice_siam")
    assert list(registry_module.HOOKS) == [*HOOKS, "ssmtl_palettes"]


def test_list_and_show_print_json_alone_on_stdout(ssmtl):
    listed = json.loads(ssmtl("plugins", "list", "--json").stdout)
    assert {(row["kind"], row["name"]) for row in listed["specs"]} >= {(k, n) for k in BUNDLED for n in BUNDLED[k]}
    assert listed["broken"] == []
    (shown,) = json.loads(ssmtl("plugins", "show", "slice_siam", "--json").stdout)["specs"]
    assert shown["distribution"] == "ssmtl-toolkit"
    t = next(option for option in shown["options"] if option["name"] == "t")
    assert t == {
        "name": "t",
        "type": "integer or millimetres or auto",
        "bounds": ">= 1, <= 100000",
        "default": "5",
        "help": t["help"],
    }
    assert t["help"]


def test_show_prints_every_option_with_type_bounds_default_help_and_where_it_is_from(ssmtl):
    shown = ssmtl("plugins", "show", "slice_siam").stdout
    for part in ("task slice_siam", "ssmtl-toolkit 0.1.0", "weight", "number", ">= 0", "0.333", "none | batch"):
        assert part in shown


def test_every_option_of_every_bundled_spec_has_a_help_text():
    for (_, name), entry in registry().entries.items():
        assert entry.spec.__doc__, name
        for option, field in entry.spec.model_fields.items():
            assert field.description, f"{name}:{option}"


def test_a_typo_in_show_is_told(ssmtl):
    done = ssmtl("plugins", "show", "slice_sam")
    assert done.returncode == 2
    assert "did you mean 'slice_siam'" in done.stderr

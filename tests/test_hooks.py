"""The hooks and what a plugin's author defines: all of it documented, and every example in a docstring is a plugin."""

import importlib
import inspect
import textwrap

import nibabel as nib
import numpy as np
import pytest

from helpers.places import ROOT
from helpers.plugin_files import bundled_points, plugin
from ssmtl_toolkit import hookspecs
from ssmtl_toolkit.data.readers import Readers
from ssmtl_toolkit.engine.balancer import Balancer, Shared
from ssmtl_toolkit.engine.head import Head
from ssmtl_toolkit.engine.metric import Comparison, Counts
from ssmtl_toolkit.engine.step import Step
from ssmtl_toolkit.registry import HOOKS, Registry
from ssmtl_toolkit.testing import cases

KINDS = [*HOOKS.values()]
TRAINED = {"ssmtl_tasks", "ssmtl_backbones", "ssmtl_balancers"}  # their checks train in two processes
MODULES = [Balancer, Comparison, Counts, Head, Shared, Step, Readers]


def example_of(hook):
    """The code in a hook's docstring."""
    _, found, code = inspect.getdoc(getattr(hookspecs, hook)).partition("Example:\n")
    assert found, f"{hook} has no Example: in its docstring"
    return textwrap.dedent(code)


def npy(folder):
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(5, 6, 7)))
    return folder / "x.npy"


def listed(cls):
    def example(folder):
        for name in ("P001_a", "P002_a"):
            volume = np.random.default_rng(0).normal(size=(5, 6, 7))
            nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"{name}.nii.gz")
        (folder / "list.txt").write_text("P001_a.nii.gz\nP002_a.nii.gz\n")
        return cls(file=folder / "list.txt")

    return example


@pytest.mark.parametrize(
    "hook", [pytest.param(hook, marks=pytest.mark.slow if hook in TRAINED else ()) for hook in HOOKS]
)
def test_the_example_of_each_hook_is_a_plugin_that_keeps_the_contract(hook, tmp_path, monkeypatch):
    name = f"example_of_{hook}"
    registry = Registry([*bundled_points(), plugin(tmp_path, monkeypatch, name, example_of(hook))])
    assert registry.broken == []
    (cls,) = getattr(importlib.import_module(name), hook)()
    assert registry.find(HOOKS[hook], cls.name) is cls
    example = {"ssmtl_readers": npy, "ssmtl_datasets": listed(cls)}.get(hook)
    found = cases(cls, example=example)
    assert len(found) > 7
    for case in found:
        case.run()


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_and_so_are_its_arguments(hook):
    function = getattr(hookspecs, hook)
    doc = inspect.getdoc(function)
    assert doc.splitlines()[0].endswith(".")
    assert HOOKS[hook].__name__ in doc.partition("Example:")[0]
    for argument in inspect.signature(function).parameters:
        assert f"`{argument}`" in doc
    assert f"`{hook}`" in (ROOT / "CONTRIBUTING.md").read_text()


def methods():
    for cls in (*KINDS, *MODULES):
        for name, method in vars(cls).items():
            if not name.startswith("_") and inspect.isfunction(method):
                yield pytest.param(cls, method, id=f"{cls.__name__}.{name}")


@pytest.mark.parametrize(("cls", "method"), list(methods()))
def test_every_method_that_an_author_defines_or_calls_says_what_its_arguments_are(cls, method):
    doc = inspect.getdoc(method)
    assert doc, f"{cls.__name__}.{method.__name__} has no docstring"
    silent = [
        name for name in inspect.signature(method).parameters if name != "self" and name not in f"{doc} {cls.__doc__}"
    ]
    assert silent == []


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
def test_every_class_attribute_that_an_author_sets_is_explained_where_it_is_defined(cls):
    lines = inspect.getsource(cls).splitlines()
    for line in lines:
        if ": ClassVar" in line and not line.strip().startswith("kind:"):
            name = line.strip().partition(":")[0]
            assert "#" in line or f"`{name}`" in (cls.__doc__ or ""), f"{cls.__name__}.{name}"

"""Options as keyword arguments: what help() and editors show is what the configurations have."""

import inspect

import pytest

import ssmtl_toolkit as ssmtl
from helpers.places import ROOT
from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.config.signatures import configs, source, types_of

FUNCTIONS = {config.__name__.removesuffix("Config").lower(): config for config in configs()}


def function(name):
    return getattr(ssmtl, {"run": "pretrain"}.get(name, name))


def test_the_types_for_editors_are_those_of_the_configurations():
    written = (ROOT / "ssmtl_toolkit" / "config" / "typed.py").read_text(encoding="utf-8")
    assert written == source(), "run: python -m ssmtl_toolkit.config.signatures > ssmtl_toolkit/config/typed.py"


@pytest.mark.parametrize(("name", "config"), FUNCTIONS.items())
def test_a_function_names_every_option_with_its_default_and_describes_it(name, config):
    signature, text = inspect.signature(function(name)), inspect.getdoc(function(name))
    assert set(config.model_fields) <= set(signature.parameters)
    assert not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for option, field in config.model_fields.items():
        assert f"\n    {option}: {field.description.split()[0]}" in text
    assert signature.parameters["out" if "out" in signature.parameters else "config"]


def test_types_say_what_may_be_given():
    types = types_of(RunConfig)
    assert types["tasks"] == "Sequence[TaskSpec | str] | TaskSpec | str"
    assert types["data"].startswith("Given | Sequence[Given]")
    assert types["precision"] == 'Literal["auto", "32", "bf16"]'
    assert types["without"] == "Path | str | None"
    assert types["window"] == "tuple[float, float] | None"

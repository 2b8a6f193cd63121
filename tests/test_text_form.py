"""Specs as text: what is written reads back equal, and what is wrong is reported in one line."""

from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import Spec, TaskSpec
from ssmtl_toolkit.text import read_options, split, write_options


class Sample(TaskSpec):
    """A spec with every type of option."""

    name: ClassVar[str] = "sample"
    positional: ClassVar[str | None] = "word"

    word: str = "a"
    number: int = 3
    real: float = 0.5
    flag: bool = False
    choice: Literal["x", "y"] = "x"
    some: str | None = None
    pair: tuple[int, int] = (1, 2)

    def build(self, backbone):
        raise AssertionError("not built here")


whole = st.integers(-(2**63) + 1, 2**63 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
samples = st.builds(
    Sample,
    word=st.text(),
    number=whole,
    real=finite,
    flag=st.booleans(),
    choice=st.sampled_from(["x", "y"]),
    some=st.none() | st.text(),
    pair=st.tuples(whole, whole),
    weight=st.floats(0, 1e300) | st.just("auto"),
)


def read_back(spec: Spec) -> Spec:
    name, options = split(str(spec))
    assert name == spec.name
    return type(spec).parse(options)


@given(samples)
def test_any_spec_reads_back_equal_from_its_text(spec):
    assert read_back(spec) == spec


@given(samples)
def test_the_full_text_reads_back_equal_and_names_every_option(spec):
    _, options = split(spec.full())
    assert type(spec).parse(options) == spec
    assert set(read_options(options)[1]) == set(Sample.model_fields)


@given(samples)
def test_the_text_is_the_shortest_one(spec):
    assert read_back(spec) == spec
    _, options = split(str(spec))
    positional, named = read_options(options)
    for key in named:
        without = {k: v for k, v in named.items() if k != key}
        assert Sample.model_validate({**without, **({"word": positional[0]} if positional else {})}) != spec


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True), st.text() | st.integers() | st.booleans()))
def test_options_written_are_options_read(options):
    read = read_options(write_options(options.items()))[1]
    assert {k: str(v) for k, v in read.items()} == {k: str(v) for k, v in options.items()}


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in registry().entries}))
def test_every_bundled_spec_reads_back_equal_by_default(kind):
    for (entry_kind, name), entry in registry().entries.items():
        required = {n for n, f in entry.spec.model_fields.items() if f.is_required()}
        if entry_kind == kind and not required and name != "resample":  # one of its options has to be given
            spec = registry().resolve(entry.spec, name)
            assert str(spec) == name
            assert read_back(spec) == spec


def test_the_documented_examples_read_as_documented():
    task = registry().resolve(TaskSpec, "reconstruct_prev:t=7,weight=0.5")
    assert (task.t, task.weight) == (7, 0.5)
    assert str(task) == "reconstruct_prev:t=7,weight=0.5"


def test_a_path_with_a_comma_and_an_equals_sign_survives():
    spec = dataset_of("/data/a,b=c d/scans", Path("/"))
    assert str(spec.root) == "/data/a,b=c d/scans"
    assert read_back(spec) == spec


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("reconstruct_prev:tt=5", ["no option 'tt'", "did you mean 't'", "options: weight, t"]),
        ("reconstruct_prev:t=0", ["'t'", "greater than or equal to 1", "got '0'"]),
        ("reconstruct_prev:t=2.5", ["'t'", "2.5"]),
        ("reconstruct_prev:t=1,t=2", ["'t'", "twice"]),
        ("reconstruct_prev:weight=nan", ["'weight'", "finite"]),
        ("reconstruct_prev:weight=-1", ["'weight'", "-1"]),
        ("reconstruct_prev:5", ["'5'", "key=value"]),
        ('reconstruct_prev:t="5', ["not closed"]),
        ("reconstruct_prv", ["no task named 'reconstruct_prv'", "did you mean 'reconstruct_prev'", "slice_siam"]),
        ("slice_siam:norm=layer", ["'norm'", "'none' or 'batch'", "'layer'"]),
    ],
)
def test_a_wrong_text_is_told_with_what_to_do(text, told):
    with pytest.raises(UsageError) as error:
        registry().resolve(TaskSpec, text)
    for part in told:
        assert part in str(error.value)


def test_all_wrong_options_are_told_at_once():
    with pytest.raises(UsageError) as error:
        registry().resolve(TaskSpec, "slice_siam:t=0,weigth=1")
    assert "'t'" in str(error.value)
    assert "'weigth'; did you mean 'weight'" in str(error.value)


def test_a_spec_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Sample().number = 4


def test_a_name_that_is_no_word_is_refused_where_the_class_is_made():
    with pytest.raises(TypeError, match="lower-case"):
        type("Bad", (Sample,), {"name": "Not a name", "__annotations__": {"name": ClassVar[str]}})

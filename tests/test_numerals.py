"""Numbers that users write: in plain digits, within bounds that the error names, wherever an option takes one."""

import re
from itertools import product

import pytest

from ssmtl_toolkit.config import FinetuneConfig, PredictConfig, RunConfig
from ssmtl_toolkit.config.signatures import configs
from ssmtl_toolkit.documents import parse_toml
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.launch import launch
from ssmtl_toolkit.numerals import _kinds
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import Spec

HUGE = [10**20, str(10**20), "9" * 401, 10**400, 10**5000, "9" * 5000]
ODD = ["1_0", "１", "-1_0", "1_0.5", "٣"]


def taking(fields, kind):
    """The options that are numbers of this kind, and no texts."""
    kinds = {name: set(_kinds(field.annotation)) for name, field in fields.items()}
    return [name for name, found in kinds.items() if kind in found and str not in found]


@pytest.mark.parametrize("config", configs())
def test_a_number_beyond_all_use_is_one_line_with_the_option_and_what_is_allowed(config):
    for name, value in product(taking(config.model_fields, int), HUGE):
        with pytest.raises(UsageError) as error:
            config.of({name: value})
        message = str(error.value)
        assert message.startswith(f"options: {name}: "), message
        assert re.search(r"at most \d|less than (or equal to )?\d|expected|valid integer", message), message
        assert len(message) < 600
        assert "\n" not in message


@pytest.mark.parametrize("config", configs())
def test_digits_that_only_python_takes_for_a_number_are_refused(config):
    names = [*taking(config.model_fields, int), *taking(config.model_fields, float)]
    for name, value in product(names, ODD):
        with pytest.raises(UsageError, match=f"^options: {name}: "):
            config.of({name: value})


def test_options_of_all_parts_refuse_the_same():
    tried = 0
    for entry in registry().entries.values():
        for kind, values in ((int, [10**20, 10**400, "9" * 5000, *ODD]), (float, [10**400, *ODD])):
            for name in taking(entry.spec.model_fields, kind):
                for value in values:
                    tried += 1
                    with pytest.raises(UsageError) as error:
                        entry.spec.parse(f"{name}={value}")
                    assert f"option {name!r}: " in str(error.value)
    assert tried > 500


@pytest.mark.parametrize(
    "text",
    [
        *(f"slice_siam:t={value}" for value in ("1_0", "１", "１mm", "9" * 5000, f"{'9' * 401}mm")),
        *(f"slice_siam:weight={value}" for value in ("1_0", "１", "9" * 401)),
        *(f"denoise:sigma={value}" for value in ("0.1..1_0", "１", "9" * 401)),
        *(f"contrast:near={value}" for value in ("0_1", "１mm")),
        *(f"nnunet:size={value}" for value in ("1_28", "１２８", 10**20)),
        "nnunet:features=32+１",
        "window:１:20",
        "folder:scans,channel=１",
        f"folder:scans,channel={'9' * 5000}",
    ],
)
def test_numbers_within_texts_of_options_are_plain_too(text):
    kinds = {entry.spec.name: entry.spec for entry in registry().entries.values()}
    with pytest.raises(UsageError):
        kinds[text.partition(":")[0]].parse(text.partition(":")[2])


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (RunConfig, {"normalise": "１/2"}),
        (RunConfig, {"on_nan": "skip:３"}),
        (RunConfig, {"window": ("1_0", "20")}),
        (RunConfig, {"schedule": "cosine:warmup=0_1"}),
        (FinetuneConfig, {"average": "0_9"}),
        (PredictConfig, {"volume": "１"}),
    ],
)
def test_numbers_within_other_texts_are_plain_too(config, options):
    with pytest.raises(UsageError):
        config.of(options)


@pytest.mark.parametrize("word", ["inf", "-inf", "nan"])
def test_words_for_what_is_no_number_are_refused_as_such(word):
    with pytest.raises(UsageError, match=r"lr: Input should be a finite number|lr: Input should be greater than 0"):
        RunConfig.of({"lr": word})


def test_usual_numbers_are_taken():
    config = RunConfig.of({"steps": "12", "lr": "1e-4", "seed": 2**62, "batch_size": " 8 ", "window": ["-1e3", 4]})
    assert (config.steps, config.lr, config.seed, config.batch_size) == (12, 1e-4, 2**62, 8)
    assert RunConfig.of(parse_toml("steps = 1_000")).steps == 1000  # as TOML writes numbers


class Counting(Spec):
    name = "counting"
    seed: int = 0
    share: float = 0.5


def test_a_part_of_others_gets_whole_numbers_that_torch_can_take():
    assert Counting.parse(f"seed={2**63 - 1}").seed == 2**63 - 1
    with pytest.raises(UsageError, match="option 'seed': should be at most 9223372036854775807, got '9223372036854775"):
        Counting.parse(f"seed={2**63}")
    with pytest.raises(UsageError, match="option 'share': should be at most"):
        Counting.parse(f"share={'9' * 400}")


@pytest.mark.parametrize("option", ["--steps=1_0", "--lr=1_0", "--steps=２", "--size=1_28"])
def test_the_command_line_refuses_them_before_it_reads(ssmtl, option):
    done = ssmtl("run", option)
    assert done.returncode == 2
    assert f"Invalid value for '{option.partition('=')[0]}'" in done.stderr
    assert "plain digits" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("data", "phantom", "there", "--seed", "9" * 20),
        ("data", "split", "phantom", "--folds", "1_0"),
        ("cache", "clean", "--older-than", "1_0"),
        ("fewshot", "phantom", "--minutes", "１"),
        ("run", "--cluster", "local:１"),
    ],
)
def test_so_do_commands_with_options_of_their_own(ssmtl, command):
    assert ssmtl(*command).returncode == 2


def test_so_does_what_a_launcher_sets(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1_0")
    with pytest.raises(SsmtlError, match="WORLD_SIZE: expected a number, got '1_0'"):
        launch()

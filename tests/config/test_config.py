"""The configurations of the commands: what resolving gives, what a change means, how help shows them."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from ssmtl_toolkit.cli import COMMANDS, cli
from ssmtl_toolkit.config import Config, EvaluateConfig, FinetuneConfig, PredictConfig, Role, RunConfig, check_pattern
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.specs import BackboneSpec, DatasetSpec, HeadSpec, TaskSpec

CONFIGS = [RunConfig, FinetuneConfig, PredictConfig, EvaluateConfig]


def test_a_regex_that_a_later_python_may_read_otherwise_is_taken_without_a_warning():
    assert check_pattern("[[a-z]+").fullmatch("[a")  # a warning would be an error here


@pytest.mark.parametrize("config", CONFIGS)
def test_every_option_stands_under_one_heading(config):
    listed = [name for names in config.sections.values() for name in names]
    assert sorted(listed) == sorted(config.model_fields)


def test_a_resolved_run_has_specs_and_resolves_to_itself():
    resolved = RunConfig(tasks=("slice_siam",), data="phantom:patients=4").resolve()
    assert isinstance(resolved.data, DatasetSpec)
    assert isinstance(resolved.backbone, BackboneSpec)
    assert all(isinstance(task, TaskSpec) for task in resolved.tasks)
    assert resolved.size == 64  # as the phantom suggests
    assert resolved.resolve() is resolved
    again = RunConfig.of({**RunConfig.of({}).model_dump(exclude_unset=True), "size": 32}).resolve()
    assert again.size == 32


def test_a_resolved_fine_tuning_has_specs_and_resolves_to_itself():
    resolved = FinetuneConfig(head="denoising:sigma=0.2", size=32).resolve()
    assert isinstance(resolved.head, HeadSpec)
    assert resolved.resolve() is resolved
    assert resolved.backbone is None  # the file of the pre-training says which


def test_a_resolved_configuration_written_and_read_is_the_same():
    import tomllib

    for config in (RunConfig(steps=7, window=(-100.0, 300.5), clip=1.0), FinetuneConfig(slices_per_scan=2)):
        resolved = config.resolve()
        again = type(config).of(tomllib.loads(resolved.write())).resolve()
        assert again.model_dump() == resolved.model_dump()


def test_fine_tuning_cuts_slices_as_the_pre_training_did_but_for_what_is_set():
    before = Slicing(axis="coronal", size=96, window=(-100, 300))
    assert FinetuneConfig().over(before) == before
    assert FinetuneConfig(size=256).over(before) == before.model_copy(update={"size": 256})
    assert FinetuneConfig(window=None).over(before).window is None


def test_what_is_only_where_or_how_fast_makes_no_other_run():
    first = RunConfig(data="phantom:patients=4").resolve()
    elsewhere = RunConfig(data="phantom:patients=4", accelerator="cpu", compile=True, log_every=3, epochs=7).resolve()
    assert elsewhere.differences(first) == []
    assert RunConfig(data="phantom:patients=4", lr=0.1).resolve().differences(first) == ["lr is 0.1, was 0.001"]


def test_the_roles_of_options_are_those_that_resuming_and_experiments_rely_on():
    roles = {name: RunConfig.role(name) for name in RunConfig.model_fields}
    assert {name for name, role in roles.items() if role is Role.PLACE} == {"data", "without"}
    assert {name for name, role in roles.items() if role is Role.EXTENT} == {
        *("epochs", "steps", "skip_bad", "snapshot_every", "probe", "probe_every", "probe_slices")
    }
    assert {"lr", "seed", "tasks", "backbone", "size", "precision"} <= {
        n for n, r in roles.items() if r is Role.NUMBERS
    }
    assert FinetuneConfig.role("seeds") is Role.REPETITIONS
    assert PredictConfig.role("largest_component") is Role.NUMBERS


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_begins_with_what_lists_of_commands_say_and_says_it_once(command):
    words = " ".join(CliRunner().invoke(cli, [command, "--help"]).output.split())
    usage, summary, _ = words.partition(COMMANDS[command])
    assert usage.startswith("Usage: ")
    assert "." not in usage.replace("...", "")
    assert words.count(summary) == 1
    assert " ".join(CliRunner().invoke(cli, ["--help"]).output.split()).count(f"{command} {summary}") == 1


@pytest.mark.parametrize("command", ["run", "finetune", "predict", "evaluate", "experiment", "reproduce"])
def test_help_fits_80_columns(command):
    shown = CliRunner().invoke(cli, [command, "--help"])
    assert shown.exit_code == 0, shown.output
    assert [line for line in shown.output.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("group", ["plugins", "data"])
def test_lists_of_subcommands_show_whole_sentences(group):
    shown = CliRunner().invoke(cli, [group, "--help"]).output
    subcommands = shown.partition("Commands:\n")[2].splitlines()
    assert subcommands
    assert all(line.endswith(".") and not line.endswith("...") for line in subcommands), shown


@pytest.mark.parametrize(
    ("command", "headings"),
    [
        ("evaluate", ["Files", "Labels", "Metrics"]),
        ("experiment", ["Data", "Rows", "Output", "Files", "Machine"]),
        ("reproduce", ["Rows", "Data", "Output", "Files", "Machine"]),
        ("data split", ["Patients", "Files"]),
    ],
)
def test_options_of_other_commands_stand_under_headings_too(command, headings):
    shown = CliRunner().invoke(cli, [*command.split(), "--help"]).output.splitlines()
    assert [line[:-1] for line in shown if re.fullmatch(r"\w[\w ]*:", line)] == [*headings, "Options"]


def test_help_shows_options_under_headings_in_order():
    shown = CliRunner().invoke(cli, ["run", "--help"]).output
    headings = [line[:-1] for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [*RunConfig.sections, "Files", "Options"]
    assert "[axial|coronal|sagittal|acquisition|time]" in shown


def test_predict_takes_a_file_of_options_and_flags_win_over_it(tmp_path):
    (tmp_path / "p.toml").write_text(PredictConfig(overlay=True, batch_size=3).write())
    config = PredictConfig.of(PredictConfig.read(tmp_path / "p.toml"))
    assert (config.overlay, config.batch_size) == (True, 3)
    with pytest.raises(UsageError, match="no option 'overlayy'; did you mean 'overlay'"):
        PredictConfig.of({"overlayy": True}, "p.toml")


def test_a_folder_given_as_a_configuration_is_refused_with_the_file_in_it(tmp_path):
    with pytest.raises(UsageError, match=r"is a folder; give a \.toml file; check --config"):
        FinetuneConfig.read(tmp_path)
    (tmp_path / "finetune.toml").write_text("")
    with pytest.raises(UsageError, match=rf"is a folder; give a \.toml file in it, {tmp_path}/finetune\.toml; check"):
        FinetuneConfig.read(tmp_path)


def test_a_configuration_without_options_of_its_own_is_refused_a_typo():
    with pytest.raises(UsageError, match="no option"):
        Config.of({"anything": Path("x")})

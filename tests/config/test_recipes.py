"""Recipes: the default one, the paper's, and those that users write."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtl_toolkit.config import FinetuneConfig, RunConfig
from ssmtl_toolkit.config.recipes import OPTIONS, names, read_recipe
from ssmtl_toolkit.config.schedules import Constant, Cosine, Poly, Schedule, read_schedule
from ssmtl_toolkit.errors import UsageError


def test_the_default_is_the_strong_recipe():
    assert FinetuneConfig().recipe == "strong"
    assert FinetuneConfig().resolve() == FinetuneConfig(recipe="strong").resolve()
    assert str(FinetuneConfig().resolve().head) == "segmentation"
    assert FinetuneConfig().resolve().head.loss == "ce+dice"
    assert "flip" not in [spec.name for spec in FinetuneConfig().resolve().augment]


def test_the_papers_recipe_is_that_of_version_0_1():
    paper = FinetuneConfig(recipe="paper").resolve()
    assert paper.augment == ()
    assert (paper.optimizer, paper.lr, paper.weight_decay, paper.clip) == ("adam", 1e-3, 0, None)
    assert (paper.schedule, paper.average, paper.sampling) == (Constant(), 0, "even")
    assert (paper.steps, paper.batch_size, paper.frozen_steps, paper.pretrained_lr) == (500, 16, 0, 1)
    assert paper.head.loss == "ce"


def test_what_is_given_wins_over_the_recipe():
    mixed = FinetuneConfig(recipe="paper", steps=70, augment=("noise",)).resolve()
    assert mixed.steps == 70
    assert [spec.name for spec in mixed.augment] == ["noise"]
    assert mixed.batch_size == 16


def test_a_head_takes_the_options_that_it_is_not_given_from_the_recipe():
    assert FinetuneConfig(recipe="paper", head="segmentation").resolve().head.loss == "ce"
    assert FinetuneConfig(recipe="paper", head="segmentation:loss=dice").resolve().head.loss == "dice"
    assert FinetuneConfig(recipe="paper", head="denoising:sigma=0.2").resolve().head.sigma == 0.2


def test_a_recipe_of_ones_own_builds_on_another(tmp_path):
    (tmp_path / "mine.toml").write_text('recipe = "paper"\nsteps = 90\nschedule = "poly"\n')
    mine = FinetuneConfig(recipe=str(tmp_path / "mine.toml")).resolve()
    assert (mine.steps, mine.schedule, mine.head.loss) == (90, Poly(), "ce")


def test_a_resolved_configuration_needs_its_recipe_no_more(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('steps = 90\naugment = ["noise:sigma=0.1"]\nhead = "segmentation:loss=ce"\n')
    resolved = FinetuneConfig(recipe=str(file)).resolve()
    written = tomllib.loads(resolved.write())
    file.unlink()
    again = FinetuneConfig.of(written).resolve()
    assert again.model_dump() == resolved.model_dump()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("steps = ", "cannot be read"),
        ("stepps = 3", r"'stepps' is not for a recipe to set; did you mean 'steps'\?"),
        ('data = "x"', "'data' is not for a recipe to set"),
        ("steps = 0", "recipe .*mine.toml: steps: "),
        ('schedule = "cosin"', r"no schedule 'cosin'; did you mean 'cosine'\?"),
        ("augment = 3", "augment: expected a spec or a list"),
        ('recipe = "mine.toml"', "leads back to itself"),
        ('recipe = "papers"', r"no recipe papers; did you mean 'paper'\?"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(tmp_path, monkeypatch, text, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=problem):
        FinetuneConfig(recipe="mine.toml").resolve()


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(UsageError, match=r"no recipe sttrong; did you mean 'strong'\? \(known: strong, paper"):
        FinetuneConfig(recipe="sttrong").resolve()
    assert names()[0] == "strong"
    assert all(read_recipe(name).keys() <= OPTIONS for name in names())


def test_a_recipe_as_a_flag_wins_over_a_files_options_but_not_over_other_flags():
    assert FinetuneConfig.gives_way("steps", {"recipe": "paper"})
    assert not FinetuneConfig.gives_way("steps", {"recipe": "paper", "steps": 3})
    assert not FinetuneConfig.gives_way("seeds", {"recipe": "paper"})
    assert not FinetuneConfig.gives_way("steps", {"seeds": 3})


def test_augmentations_are_named_once():
    with pytest.raises(UsageError, match="'noise' is given twice"):
        FinetuneConfig(augment=("noise", "noise:sigma=0.1")).resolve()
    with pytest.raises(UsageError, match=r"no augmentation named 'noize'; did you mean 'noise'\?"):
        FinetuneConfig(augment=("noize",)).resolve()
    assert FinetuneConfig.of({"augment": ("none",)}).resolve().augment == ()


def test_a_pre_training_refuses_to_mix_slices():
    with pytest.raises(UsageError, match="'cutmix' mixes slices"):
        RunConfig(augment=("cutmix",)).resolve()
    assert [spec.name for spec in RunConfig(augment=("affine",)).resolve().augment] == ["affine"]
    assert RunConfig().resolve().augment == ()  # as in the paper


schedules = st.one_of(
    st.just(Constant()),
    st.builds(Cosine, warmup=st.floats(0, 0.99)),
    st.builds(Poly, warmup=st.floats(0, 0.99), power=st.floats(0.1, 4)),
)


@given(schedules)
def test_the_text_of_a_schedule_reads_back_to_it(schedule: Schedule):
    assert read_schedule(str(schedule)) == schedule
    assert read_schedule(schedule.full()) == schedule
    again = FinetuneConfig.of(tomllib.loads(FinetuneConfig(schedule=schedule).resolve().write()))
    assert again.schedule == schedule

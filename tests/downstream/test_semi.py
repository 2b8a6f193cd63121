"""Fine-tuning with unlabelled scans beside the labelled ones: whose they are, what is recorded, what is learned."""

import json
import shutil
from typing import ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call
from torch.nn import functional as F

import ssmtl_toolkit as toolkit
from helpers.small import SMALL, write_channels, write_pair
from helpers.stopping import StopAt, assert_equal, ended
from ssmtl_toolkit import DataError, UsageError
from ssmtl_toolkit.config import FinetuneConfig
from ssmtl_toolkit.data.files import DigestMemo
from ssmtl_toolkit.data.sampling import in_turn
from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.split import Split
from ssmtl_toolkit.data.store import build_store
from ssmtl_toolkit.downstream.model import TODO, ModelSpec
from ssmtl_toolkit.downstream.pseudo import SURE, PseudoWatch
from ssmtl_toolkit.engine.semi import PseudoLabels, Semi, SemiOutput
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.about import Model
from ssmtl_toolkit.runtime.interrupt import InterruptedRunError
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import SemiSpec

QUICK = {
    "backbone": SMALL,
    "size": 32,
    "surface": False,
    "slices_per_scan": 2,
    "train_scans": 2,
    "test_scans": 2,
    "batch_size": 4,
    "steps": 4,
    "log_every": 3,
}
METHODS = ["mean_teacher:start=0.2", "unimatch:start=0.2,threshold=0.3", "pretext"]


class Notes(Progress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def finetune(data, out, **options):
    return toolkit.finetune(data=str(data), out=out, cache=out.parent / "cache", **{**QUICK, **options})


def records(done, name="scratch-0"):
    return [json.loads(line) for line in (done.folder / name / "metrics.jsonl").read_text().splitlines()]


def copied(labelled, patients, root, rename=lambda name: name):
    """A folder with the images of these patients, under other names."""
    root.mkdir(exist_ok=True)
    for file in sorted((labelled / "images").iterdir()):
        if file.name[0] in patients:
            shutil.copy(file, root / rename(file.name))
    return root


def test_scans_of_test_and_validation_patients_are_kept_from_it_and_the_summary_says_so(labelled, tmp_path):
    done = finetune(labelled, tmp_path / "f", semi="unimatch", validation_scans=2)
    said = done.summary["unlabelled"]
    assert (said["semi"], said["scans"], said["slices"]) == ("unimatch", 6, 60)
    assert (said["held_out"], said["validation_seen"], said["test_seen"], said["skipped"]) == (4, 0, 0, [])


def test_with_transductive_the_test_patients_are_learned_from_and_counted(labelled, tmp_path):
    heard = Notes()
    done = finetune(labelled, tmp_path / "f", semi="mean_teacher", transductive=True, progress=heard)
    said = done.summary["unlabelled"]
    assert (said["scans"], said["held_out"], said["validation_seen"], said["test_seen"]) == (10, 0, 0, 2)
    assert any("2 scans (2 of test patients) are learned from" in note for note in heard.notes)


def test_the_weights_say_how_they_learned_and_from_how_much(labelled, tmp_path):
    done = finetune(labelled, tmp_path / "f", semi='pretext:tasks=["reconstruct_next:t=2"]')
    about = weights.read(done.folder / "scratch-0" / "model.safetensors", TODO).about(Model)
    assert [origin.spec for origin in about.semi] == [
        'pretext:weight=0.1,start=0.0,tasks=["reconstruct_next:t=2"]',
        "reconstruct_next:weight=1.0,t=2,mask=0.0,patch=0.125,fill=zero",
    ]
    assert (about.unlabelled.scans, about.unlabelled.test_seen) == (8, 0)
    plain = finetune(labelled, tmp_path / "g")
    assert "semi" not in weights.read(plain.folder / "scratch-0" / "model.safetensors", TODO).said()


def test_a_model_knows_what_all_that_it_began_with_has_seen_without_labels(labelled, pretrained, tmp_path):
    root = tmp_path / "scans"
    write_pair(root, "x", seed=77)
    first = toolkit.finetune(
        pretrained, data=str(labelled), out=tmp_path / "f", **QUICK, semi="pretext", unlabelled=str(root / "images")
    )
    again = {**QUICK, "data": str(labelled), "split": first.folder / "split.json", "test_scans": None}
    second = toolkit.finetune(first.folder / "pretrained-0" / "model.safetensors", out=tmp_path / "g", **again)
    before, now = (
        Pretrained.open(file).scans for file in (pretrained, second.folder / "pretrained-0" / "model.safetensors")
    )
    (seen,) = list_scans(dataset_of(str(root / "images")), tmp_path / "cache")
    assert len(before) >= 10
    assert now > before
    assert installed_readers().digest(seen.path, DigestMemo(tmp_path / "memo.json"))[:16] in now


def test_the_report_has_a_line_on_unlabelled_scans(labelled, ssmtl):
    options = ["--data", labelled, "--backbone", SMALL, "--size", 32, "--steps", 1, "--test-scans", 2, "--no-surface"]
    done = ssmtl("finetune", *options, "--semi", "pretext", "--out", "f")
    assert done.returncode == 0, done.stderr
    assert (
        "unlabelled by pretext: 8 scans, 80 slices; 2 scans of validation or test patients kept from it" in done.stderr
    )
    done = ssmtl("finetune", *options, "--semi", "pretext", "--transductive", "--out", "g")
    assert "2 scans of test patients among them (transductive)" in done.stderr


def test_copies_of_test_scans_are_found_under_other_names_and_in_other_files(labelled, tmp_path):
    first = finetune(labelled, tmp_path / "f")
    (patient,) = Split.read(first.folder / "split.json").test
    other = "abcde".replace(patient, "")[0]
    root = copied(labelled, [patient, other], tmp_path / "scans", lambda name: f"x{name}")
    image = nib.load(root / f"x{patient}_pre.nii.gz")
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj).astype(np.float64) * 3 + 7, image.affine), root / "y.nii")
    (root / f"x{patient}_pre.nii.gz").unlink()
    done = finetune(labelled, tmp_path / "g", semi="mean_teacher", unlabelled=str(root))
    assert (done.summary["unlabelled"]["scans"], done.summary["unlabelled"]["held_out"]) == (2, 2)


@pytest.mark.parametrize("name", ["{}.nii.gz", "{}_0000.nii.gz", "{}/t2.nii.gz", "{}-late.nii.gz"])
def test_other_scans_of_a_test_patient_are_found_by_its_name(labelled, tmp_path, name):
    (patient,) = Split.read(finetune(labelled, tmp_path / "f").folder / "split.json").test
    root = copied(labelled, "abcde".replace(patient, "")[0], tmp_path / "scans", lambda name: f"x{name}")
    write_pair(tmp_path / "made", "z", seed=77)
    (root / name.format(patient)).parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "made" / "images" / "z.nii.gz", root / name.format(patient))
    done = finetune(labelled, tmp_path / "g", semi="mean_teacher", unlabelled=str(root))
    assert (done.summary["unlabelled"]["scans"], done.summary["unlabelled"]["held_out"]) == (2, 1)


def test_patients_are_told_apart_by_the_expression_that_the_split_was_made_with(tmp_path):
    for seed, name in enumerate(("s1-anna", "s2-anna", "s3-bert", "s4-carl", "s5-anna")):
        write_pair(tmp_path / "data", name, seed=seed)
    (tmp_path / "data" / "labels" / "s5-anna.nii.gz").unlink()
    split = {"patient": r"-(.+)", "train": ["bert", "carl"], "test": ["anna"]}
    (tmp_path / "s.json").write_text(json.dumps(split))
    done = finetune(tmp_path / "data", tmp_path / "f", semi="mean_teacher", split=tmp_path / "s.json", test_scans=None)
    assert (done.summary["unlabelled"]["scans"], done.summary["unlabelled"]["held_out"]) == (2, 3)


def test_unlabelled_scans_that_cannot_be_are_refused_before_training(labelled, tmp_path):
    (tmp_path / "empty").mkdir()
    shutil.copytree(labelled / "labels", tmp_path / "maps")
    write_channels(tmp_path / "two", "x")
    said = {
        "gone": "gone: no such file or folder",
        "empty": "no scan found",
        "maps": "looks like a label map",
        "two:channel=all": r"x_0000\.nii\.gz: has 2 channels, and the labelled scans have 1; give --unlabelled scans",
    }
    for name, words in said.items():
        place = tmp_path / name.partition(":")[0]
        given = f"folder:{place},channel=all" if ":" in name else str(place)
        with pytest.raises((DataError, UsageError), match=words):
            finetune(labelled, tmp_path / "f", semi="mean_teacher", unlabelled=given)
        assert not (tmp_path / "f").exists()


def test_nothing_but_test_patients_is_nothing_to_learn_from(labelled, tmp_path):
    (patient,) = Split.read(finetune(labelled, tmp_path / "f").folder / "split.json").test
    root = copied(labelled, patient, tmp_path / "scans")
    with pytest.raises(DataError, match="all of its 2 scans are of validation or test patients"):
        finetune(labelled, tmp_path / "g", semi="mean_teacher", unlabelled=str(root))


def test_label_maps_among_unlabelled_scans_are_skipped_and_named(labelled, tmp_path):
    root, heard = copied(labelled, "abcde", tmp_path / "scans", lambda name: f"x{name}"), Notes()
    shutil.copy(labelled / "labels" / "a_pre.nii.gz", root / "z.nii.gz")
    done = finetune(labelled, tmp_path / "f", semi="mean_teacher", unlabelled=str(root), progress=heard)
    assert [item["scan"] for item in done.summary["unlabelled"]["skipped"]] == ["z"]
    assert any("z.nii.gz: looks like a label map" in note for note in heard.notes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"semi": "unimach"}, "did you mean 'unimatch'"),
        ({"semi": "unimatch:treshold=0.9"}, "did you mean 'threshold'"),
        ({"semi": 'pretext:tasks=["reconstruct_nxt"]'}, "did you mean 'reconstruct_next'"),
        ({"semi": 'pretext:tasks=["slice_siam","slice_siam"]'}, "is given twice"),
        ({"semi": "unimatch", "recipe": "paper"}, "learns from averaged weights; give --average, such as 0.99"),
        ({"semi": "unimatch", "head": "denoising"}, "'denoising' gives slices"),
        ({"semi": "pretext", "source": "x", "freeze": "backbone"}, "its tasks train the encoder and decoder, which"),
        ({"semi": 'pretext:tasks=["slice_siam"]', "source": "x", "freeze": "encoder"}, "train the encoder, which"),
        (
            {"semi": 'pretext:tasks=["contrast"]', "augment": "none"},
            "'contrast' compares views of slices, which are all",
        ),
        ({"unlabelled": "x", "semi": "none"}, "--unlabelled: with --semi none nothing is learned"),
        ({"unlabelled": "x", "head": "denoising"}, "'denoising' gives slices"),
        ({"transductive": True}, "--transductive: unlabelled scans are for --semi"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError, match=said):
        FinetuneConfig.of(options).resolve()


def test_unlabelled_scans_are_learned_from_by_unimatch_unless_said_otherwise(tmp_path):
    where = {"unlabelled": str(tmp_path)}
    assert FinetuneConfig.of(where).resolve().semi.name == "unimatch"
    assert FinetuneConfig.of({**where, "semi": "mean_teacher"}).resolve().semi.name == "mean_teacher"
    assert FinetuneConfig.of({}).resolve().semi is None
    mine = tmp_path / "mine.toml"
    mine.write_text('semi = "mean_teacher"')
    assert FinetuneConfig.of({**where, "recipe": str(mine)}).resolve().semi.name == "mean_teacher"


def test_a_recipe_may_ask_for_it_and_the_command_line_say_none(tmp_path):
    (tmp_path / "mine.toml").write_text('semi = "unimatch:threshold=0.9"')
    recipe = {"recipe": str(tmp_path / "mine.toml")}
    assert FinetuneConfig.of(recipe).resolve().semi.threshold == 0.9
    assert FinetuneConfig.of({**recipe, "semi": "none"}).resolve().semi is None


def test_denoising_continues_with_pretext_tasks(labelled, tmp_path):
    done = finetune(labelled, tmp_path / "f", semi="pretext", head="denoising:sigma=0.2")
    assert all(record["semi/loss"] > 0 for record in records(done))


def test_pretext_tasks_that_compare_views_see_slices_changed_by_the_augmentations(labelled, tmp_path):
    alike = "vicreg:weight=1,invariance=1,variance=0,covariance=0"  # costs nothing if the views are the same
    done = finetune(labelled, tmp_path / "f", semi=f'pretext:tasks=["{alike}"]', log_every=1)
    assert all(line["semi/loss"] > 1e-4 for line in records(done))


def test_several_channels_are_learned_from(tmp_path):
    for seed, name in enumerate(("one", "two", "three")):
        write_channels(tmp_path / "scans", name, seed=seed)
    rows = ["image,image_2,label"]
    for seed, name in enumerate(("a", "b", "c")):
        files = write_channels(tmp_path / "labelled", name, seed=10 + seed)
        shape = nib.load(files[0])
        label = (np.asanyarray(shape.dataobj) > 400).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, shape.affine), tmp_path / "labelled" / f"{name}_label.nii.gz")
        rows.append(",".join([*(file.name for file in files), f"{name}_label.nii.gz"]))
    (tmp_path / "labelled" / "scans.csv").write_text("\n".join(rows))
    for method in METHODS:
        options = {"unlabelled": f"folder:{tmp_path / 'scans'},channel=all", "test_scans": 1, "semi": method}
        done = finetune(tmp_path / "labelled" / "scans.csv", tmp_path / method[:4], **options)
        assert done.summary["unlabelled"]["scans"] == 3


def test_a_frozen_backbone_keeps_every_bit(labelled, pretrained, tmp_path):
    saved = load_file(pretrained / "backbone.safetensors")
    options = {"source": pretrained, "freeze": "backbone", "semi": "unimatch:start=0,threshold=0.1"}
    done = toolkit.finetune(
        data=str(labelled), out=tmp_path / "f", **{k: v for k, v in QUICK.items() if k not in ("backbone", "size")},
        **options,
    )  # fmt: skip
    tuned = load_file(done.folder / "pretrained-0" / "model.safetensors")
    assert all(torch.equal(tuned[f"backbone.{name}"], tensor) for name, tensor in saved.items())
    assert all(record["semi/loss"] > 0 for record in records(done, "pretrained-0"))


def test_the_twin_learns_from_the_same_unlabelled_slices(labelled, pretrained, tmp_path):
    options = {k: v for k, v in QUICK.items() if k not in ("backbone", "size")}
    done = toolkit.finetune(
        pretrained, data=str(labelled), out=tmp_path / "f", semi="mean_teacher:start=0", baseline="scratch", **options
    )
    assert set(done.summary["training"]) == {"pretrained", "scratch"}
    for arm in done.summary["training"]:
        assert all(SURE in record for record in records(done, f"{arm}-0"))
        assert weights.read(done.folder / f"{arm}-0" / "model.safetensors", TODO).about(Model).semi


class Asks(SemiSpec):
    """Ask the averaged weights, and learn nothing from them."""

    name: ClassVar[str] = "asks"

    def build(self):
        return AsksModule()


class AsksModule(Semi):
    def forward(self, step):
        maps = step.teach(step.batch.anchor)
        assert not maps.requires_grad
        return SemiOutput(maps.float().sum() * 0)


def test_asking_the_averaged_weights_changes_nothing_of_the_network(labelled, tmp_path):
    plain = finetune(labelled, tmp_path / "f", validation_scans=2, check_every=2)
    asked = finetune(labelled, tmp_path / "g", validation_scans=2, check_every=2, semi=Asks(start=0))
    first, second = (load_file(done.folder / "scratch-0" / "model.safetensors") for done in (plain, asked))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_three_updates_with_mean_teacher_are_those_of_plain_torch(labelled, tmp_path):
    options = {"recipe": "paper", "average": 0.6, "steps": 3, "semi": "mean_teacher:start=0,ramp=0,weight=2"}
    done = finetune(labelled, tmp_path / "f", **options)
    split = Split.read(done.folder / "split.json")
    data = FinetuneConfig.of({"data": str(labelled)}).resolve().data
    scans = [scan for scan in list_scans(data, tmp_path / "cache") if scan.name[0] not in split.test]
    store = build_store(scans, installed_readers(), Slicing(size=32), tmp_path / "cache")
    rows, targets = [], []
    start = {stored.scan.name: stored.start for stored in store.scans}
    for name, drawn in split.slices[0].items():
        label = np.asanyarray(nib.load(labelled / "labels" / f"{name}.nii.gz").dataobj)
        rows += [start[name] + row for row in drawn]
        targets += [np.select([label[:, :, row].T == 10, label[:, :, row].T == 20], [1, 2]) for row in drawn]
    rows, targets = np.array(rows), torch.tensor(np.stack(targets))
    model_spec, _ = ModelSpec.load(done.folder / "scratch-0" / "model.safetensors")
    torch.manual_seed(step_seed(0, 4))
    model = model_spec.build().train()
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adam, seed = torch.optim.Adam(model.parameters(), lr=1e-3), step_seed(0, 5)
    for step in range(3):
        chosen = in_turn(np.arange(4), step * 4, 4, seed)
        loss = F.cross_entropy(model(store.slices[rows[chosen]].float()), targets[chosen])
        image = store.slices[in_turn(np.arange(len(store.slices)), step * 4, 4, seed)].float()
        model.eval()
        with torch.no_grad():
            truth = functional_call(model, average, (image,)).softmax(dim=1)
        model.train()
        different = (model(image).softmax(dim=1) - truth).square().sum(dim=1).mean()
        (loss + 2 * different).backward()
        adam.step()
        adam.zero_grad()
        decay = min(0.6, (2 + step) / (11 + step))
        for name, tensor in model.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * tensor if tensor.is_floating_point() else tensor
    saved = load_file(done.folder / "scratch-0" / "model.safetensors")
    for name, tensor in average.items():
        assert torch.allclose(tensor.float(), saved[name].float(), atol=2e-4, rtol=1e-3), name


def test_training_does_not_stop_early_before_unlabelled_slices_had_their_chance(labelled, tmp_path):
    options = {"steps": 60, "check_every": 2, "patience": 2, "validation_scans": 2, "lr": 1e-9, "average": 0.5}
    plain = finetune(labelled, tmp_path / "f", **options)
    with_semi = finetune(labelled, tmp_path / "g", semi="mean_teacher", **options)
    assert plain.summary["training"]["scratch"][0]["steps"] < 30
    assert with_semi.summary["training"]["scratch"][0]["steps"] >= 34  # two checks without a gain after step 30


@pytest.mark.parametrize("start", [0.9, 0.99])
def test_however_late_it_starts_the_last_step_uses_unlabelled_slices(labelled, tmp_path, start):
    done = finetune(labelled, tmp_path / "f", semi=f"mean_teacher:start={start}", log_every=1)
    assert [SURE in record for record in records(done)] == [False, False, False, True]


UNDEFINED = "the loss of semi 'undefined:start=0.75' on unlabelled slices is nan, beside labelled slices of "


def test_a_loss_that_is_not_a_number_is_an_error_even_in_the_last_step(labelled, tmp_path):
    with pytest.raises(toolkit.SsmtlError, match=UNDEFINED):
        finetune(labelled, tmp_path / "f", semi=Undefined(start=0.75))


def test_pseudo_labels_of_classes_that_there_are_not_are_the_methods_fault(labelled, tmp_path):
    with pytest.raises(toolkit.SsmtlError, match=r"semi 'beyond:start=0\.75': counting its pseudo"):
        finetune(labelled, tmp_path / "f", semi=Beyond(start=0.75))


class Undefined(Asks):
    """Give no number."""

    name: ClassVar[str] = "undefined"
    teaches: ClassVar[bool] = False

    def build(self):
        return UndefinedModule()


class Beyond(Undefined):
    """Give labels of classes that there are not."""

    name: ClassVar[str] = "beyond"

    def build(self):
        return BeyondModule()


class BeyondModule(Semi):
    def forward(self, step):
        maps = step.head(step.backbone(step.batch.anchor))
        labels = maps.argmax(dim=1)
        return SemiOutput(maps.mean(), PseudoLabels(labels + 100, labels >= 0))


class UndefinedModule(Semi):
    def forward(self, step):
        return SemiOutput(step.head(step.backbone(step.batch.anchor)).sum() * float("nan"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_training_that_was_stopped_ends_with_the_same_bits(labelled, tmp_path, method):
    options = {"semi": method, "steps": 12}
    whole = finetune(labelled, tmp_path / "whole", **options)
    for step in (1, 5, 6, 10):  # before the first unlabelled slices, between lines of the log, at one, between
        with pytest.raises(InterruptedRunError):
            finetune(labelled, tmp_path / "cut", **options, resume=step != 1, progress=StopAt(step))
    finetune(labelled, tmp_path / "cut", **options, resume=True)
    assert_equal(*(ended(tmp_path / name / "scratch-0") for name in ("whole", "cut")))
    assert all("semi/loss" in record for record in records(whole)[1:])


@pytest.mark.slow
def test_the_precision_bf16_is_resumed_too(labelled, tmp_path):
    options = {"semi": METHODS[1], "steps": 8, "precision": "bf16", "validation_scans": 2, "check_every": 3}
    finetune(labelled, tmp_path / "whole", **options)
    with pytest.raises(InterruptedRunError):
        finetune(labelled, tmp_path / "cut", **options, progress=StopAt(5))
    finetune(labelled, tmp_path / "cut", **options, resume=True)
    assert_equal(*(ended(tmp_path / name / "scratch-0") for name in ("whole", "cut")))


def test_a_run_resumes_with_the_same_unlabelled_scans_elsewhere_and_refuses_others(labelled, tmp_path):
    root = copied(labelled, "abcde", tmp_path / "scans", lambda name: f"x{name}")
    with pytest.raises(InterruptedRunError):
        finetune(labelled, tmp_path / "f", semi="mean_teacher", unlabelled=str(root), progress=StopAt(3))
    written = (tmp_path / "f" / "finetune.toml").read_text()
    (tmp_path / "other").mkdir()
    write_pair(tmp_path / "made", "z", seed=77)
    more = shutil.copytree(root, tmp_path / "more")
    shutil.copy(tmp_path / "made" / "images" / "z.nii.gz", more)
    with pytest.raises(UsageError, match="there are 9 scans with 90 slices, were 8 with 80"):
        finetune(labelled, tmp_path / "f", semi="mean_teacher", unlabelled=str(more), resume=True)
    assert (tmp_path / "f" / "finetune.toml").read_text() == written
    heard, moved = StopAt(), root.rename(tmp_path / "moved")
    done = finetune(labelled, tmp_path / "f", semi="mean_teacher", unlabelled=str(moved), resume=True, progress=heard)
    assert "scratch-0: resumed after step 3" in heard.notes
    with pytest.raises(UsageError, match="with other unlabelled scans"):  # a repetition more would learn from others
        finetune(labelled, tmp_path / "f", semi="mean_teacher", unlabelled=str(more), resume=True, seeds=2)
    assert done.summary["unlabelled"]["scans"] == 8


def a_watch(answers, sure, steps=100, validation=None, first=None):
    """What the watch says of a training: `answers` and `sure` by class at its end, `first` the answers at the start."""
    watch, lines = PseudoWatch(["liver", "kidney"]), []
    for step in range(5, steps + 1, 5):
        now = answers if first is None or step > steps / 2 else first
        shares = {f"semi/answers/{name}": share for name, share in zip(watch.names, now, strict=True)}
        shares |= {f"semi/share/{name}": share for name, share in zip(watch.names, sure, strict=True)}
        checked = {} if validation is None else {"validation": validation[0] if step < 50 else validation[1]}
        lines.append({"step": step, **checked, **({"semi/sure": sum(sure), **shares} if step >= 25 else {})})
    targets = torch.tensor([0] * 80 + [1] * 15 + [2] * 5 + [255] * 30)
    return watch.judge(lines, targets)


def test_pseudo_labels_of_all_classes_are_no_reason_to_warn():
    judged = a_watch(answers=(0.9, 0.08, 0.02), sure=(0.8, 0.03, 0.004), validation=(0.5, 0.48))
    assert (judged["warnings"], judged["taught"]) == ([], True)
    assert judged["sure"] == pytest.approx(0.834)
    assert judged["labelled"] == {"background": 0.8, "liver": 0.15, "kidney": 0.05}


@pytest.mark.parametrize(
    ("answers", "sure", "more", "said"),
    [
        ((0.85, 0.13, 0.02), (0, 0.04, 0.002), {}, "of 'background' hardly any pixel is sure, and of all pixels 4 %"),
        ((0.85, 0.13, 0.02), (0.8, 0.04, 0), {}, "of 'kidney' hardly any pixel is sure, and of all pixels 84 %"),
        ((0.98, 0.017, 0.003), (0.9, 0.01, 0.002), {"first": (0.8, 0.18, 0.02)}, "'liver' has all but vanished"),
        ((0.85, 0.13, 0.02), (0.8, 0.1, 0.01), {"validation": (0.5, 0.46)}, "fell from 0.500 to 0.460 with them"),
    ],
)
def test_pseudo_labels_that_do_harm_are_told(answers, sure, more, said):
    assert any(said in warning for warning in a_watch(answers, sure, **more)["warnings"])


def test_hardly_any_pseudo_labels_and_classes_that_were_never_found_are_no_reason_to_warn():
    judged = a_watch((0.85, 0.13, 0.02), (0, 0.008, 0))
    assert (judged["warnings"], judged["taught"]) == ([], False)
    assert a_watch((0.9, 0.1, 0.0), (0.8, 0.09, 0.0), first=(0.9, 0.0999, 0.0001))["warnings"] == []


def test_pseudo_labels_are_counted_by_class():
    watch = PseudoWatch(["liver", "kidney"])
    labels = torch.tensor([[[0, 1], [1, 2]], [[0, 0], [0, 1]]])
    for _ in range(2):
        watch.add(PseudoLabels(labels, torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 1]]]).bool()))
    line = watch.record()
    assert [line[f"semi/answers/{name}"] for name in watch.names] == [0.5, 0.375, 0.125]
    assert [line[f"semi/share/{name}"] for name in watch.names] == [0.125, 0.25, 0.0]
    assert line["semi/sure"] == 0.375
    assert watch.record() == {}


class OneSided(Asks):
    """Be sure of nothing but the first class."""

    name: ClassVar[str] = "one_sided"
    teaches: ClassVar[bool] = False

    def build(self):
        return OneSidedModule()


class OneSidedModule(Semi):
    def forward(self, step):
        labels = (step.batch.anchor[:, 0] > 1).long()
        return SemiOutput(step.batch.anchor.sum() * 0, PseudoLabels(labels, labels == 1))


def test_the_run_and_its_summary_say_that_pseudo_labels_are_in_doubt(labelled, tmp_path):
    heard = Notes()
    done = finetune(labelled, tmp_path / "f", semi=OneSided(start=0), progress=heard)
    said = "of 'background' hardly any pixel is sure"
    assert any(note.startswith("--semi one_sided") and said in note and "worse" in note for note in heard.notes)
    assert said in done.summary["training"]["scratch"][0]["pseudo_labels"]["warnings"][0]


def test_clipping_bounds_the_gradients_of_the_network_and_of_pretext_tasks_together(labelled, tmp_path, monkeypatch):
    norms, update = [], torch.optim.SGD.step

    def watched(optimizer, *args, **kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append((len(optimizer.param_groups), float(torch.stack([g.norm() for g in gradients]).norm())))
        return update(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    finetune(labelled, tmp_path / "f", semi="pretext", optimizer="sgd", clip=0.01, steps=3)
    assert [groups for groups, _ in norms] == [4] * 3  # encoder, decoder, head and the tasks
    assert all(norm == pytest.approx(0.01, rel=1e-3) for _, norm in norms)

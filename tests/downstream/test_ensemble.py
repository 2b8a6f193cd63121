"""Models that predict together: which are taken, the mean of what each gives alone, and what is refused."""

import json
import shutil
import tomllib
import weakref

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

import ssmtl_toolkit as toolkit
from helpers.small import write_pair, write_scan
from ssmtl_toolkit import DataError, UsageError
from ssmtl_toolkit.config import PredictConfig, RunConfig
from ssmtl_toolkit.data.prepare import standardise
from ssmtl_toolkit.data.volume import Stack
from ssmtl_toolkit.downstream.ensemble import flips_of
from ssmtl_toolkit.downstream.model import ModelSpec, Predictor
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.scans import installed_readers

QUICK = {"surface": False, "steps": 3, "slices_per_scan": 2, "train_scans": 2, "test_scans": 2}


class Lines(Progress):
    def __init__(self):
        self.notes, self.lines = [], []

    def note(self, text):
        self.notes.append(text)

    def say(self, text):
        self.lines.append(text)


def voxels(file):
    return np.asanyarray(nib.load(file).dataobj)


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def changed(source, target, seed=None, **about):
    """Write a model's file again: with other metadata, and noise on its weights."""
    model_spec, model = ModelSpec.load(source)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor += 0.3 * tensor.std() * torch.randn(tensor.shape, generator=generator)
    target.parent.mkdir(parents=True, exist_ok=True)
    model_spec.save(target, model, about)
    return target


@pytest.fixture
def scan(labelled):
    return labelled / "images" / "a_pre.nii.gz"


@pytest.fixture
def three(tuned, tmp_path):
    """A folder with three models of one kind that disagree in places."""
    first = tuned / "pretrained-0" / "model.safetensors"
    for i in range(3):
        changed(first, tmp_path / "three" / f"pretrained-{i}" / "model.safetensors", seed=i)
    return tmp_path / "three"


def test_several_models_give_the_mean_of_the_probabilities_that_each_gives_alone(three, scan, tmp_path):
    alone = []
    for i in range(3):
        toolkit.predict(three / f"pretrained-{i}", scan, out=tmp_path / str(i), probabilities=True)
        alone.append(voxels(tmp_path / str(i) / "a_pre_probabilities.nii.gz").astype(np.float64))
    toolkit.predict(three, scan, out=tmp_path / "all", probabilities=True)
    mean = np.mean(alone, axis=0)
    assert voxels(tmp_path / "all" / "a_pre_probabilities.nii.gz") == pytest.approx(mean, abs=1e-6)
    values = np.array([0, 10, 20])[mean.argmax(axis=-1)]
    first, second = np.sort(mean, axis=-1)[..., -1], np.sort(mean, axis=-1)[..., -2]
    clear = first - second > 1e-5
    labels = voxels(tmp_path / "all" / "a_pre.nii.gz")
    assert np.array_equal(labels[clear], values[clear])
    votes = [np.array([0, 10, 20])[part.argmax(axis=-1)] for part in alone]
    assert all((labels != vote).any() for vote in votes)  # each of them alone says something else


def test_a_model_alone_gives_its_own_bits_also_in_a_fine_tuning_of_one_repetition(tuned, scan, tmp_path):
    shutil.copytree(tuned / "pretrained-0", tmp_path / "one" / "pretrained-0")
    toolkit.predict(tmp_path / "one", scan, out=tmp_path / "a", probabilities=True)
    model_spec, model = ModelSpec.load(tuned / "pretrained-0" / "model.safetensors")
    volume = installed_readers().read(scan)
    stack = Stack.of(volume, model_spec.slicing.axis)
    image = torch.from_numpy(standardise(stack.slices, model_spec.slicing).slices)
    with torch.inference_mode():
        maps = model.eval()(image)
        maps = F.interpolate(maps, stack.grid[1:], mode="bilinear") if maps.shape[2:] != stack.grid[1:] else maps
    index = stack.back(maps.argmax(dim=1).numpy())
    assert np.array_equal(voxels(tmp_path / "a" / "a_pre.nii.gz"), np.array([0, 10, 20])[index])
    chances = stack.back(maps.softmax(dim=1).permute(0, 2, 3, 1).numpy())
    assert np.array_equal(voxels(tmp_path / "a" / "a_pre_probabilities.nii.gz"), chances)


def test_the_images_of_several_models_are_averaged(labelled, pretrained, scan, tmp_path):
    tuned = toolkit.finetune(pretrained, data=str(labelled), out=tmp_path / "f", head="denoising", seeds=2, **QUICK)
    for name in ("pretrained-0", "pretrained-1"):
        toolkit.predict(tuned.folder / name, scan, out=tmp_path / name)
    lines = Lines()
    toolkit.predict(tuned, scan, out=tmp_path / "both", progress=lines)
    alone = [voxels(tmp_path / f"pretrained-{i}" / "a_pre.nii.gz").astype(np.float64) for i in (0, 1)]
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    assert voxels(tmp_path / "both" / "a_pre.nii.gz") == pytest.approx(np.mean(alone, axis=0), abs=1e-3)
    assert f"models    pretrained-0, pretrained-1 of {tuned.folder}: the mean of their images" in lines.lines
    scores = tuned.summary["ensemble"]["pretrained"]
    assert scores["psnr"]["n"] == 1
    assert scores["noisy"] == tuned.summary["arms"]["pretrained"]["noisy"]  # the noise is the same for all


def test_pretrained_models_are_taken_and_those_from_scratch_if_there_are_no_others(tuned, ssmtl, scan, tmp_path):
    done = ssmtl("predict", "--from", tuned, scan, "-o", "out", "--json")
    assert f"models    pretrained-0, pretrained-1 of {tuned}: the mean of their probabilities" in done.stderr
    said = json.loads(done.stdout)
    digests = [weights.read(tuned / f"pretrained-{i}" / "model.safetensors", "").digest for i in (0, 1)]
    assert said["models"] == [{"name": f"pretrained-{i}", "digest": digests[i]} for i in (0, 1)]
    assert said["model"] == str(tuned)
    kept = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert (kept["models"], kept["digest"]) == (said["models"], said["digest"])
    assert said["digest"] not in digests
    for i in (0, 1):
        shutil.copytree(tuned / f"scratch-{i}", tmp_path / "scratch" / f"scratch-{i}")
    taken = toolkit.predict(tmp_path / "scratch", scan, out=tmp_path / "s")
    assert [member.name for member in taken.models] == ["scratch-0", "scratch-1"]
    done = ssmtl("predict", "--from", tuned / "scratch-1", scan, "-o", "out2", "--json")
    assert f"model     {tuned}/scratch-1/model.safetensors" in done.stderr
    assert [model["name"] for model in json.loads(done.stdout)["models"]] == ["scratch-1"]


def test_repetitions_are_in_the_order_of_their_numbers(three, scan, tmp_path):
    changed(three / "pretrained-0" / "model.safetensors", three / "pretrained-10" / "model.safetensors", seed=9)
    for odd in ("pretrained-01", "pretrained-²", "pretrained-", "old-pretrained-3"):
        changed(three / "pretrained-0" / "model.safetensors", three / odd / "model.safetensors", seed=5)
    taken = toolkit.predict(three, scan, out=tmp_path / "out")
    assert [member.name for member in taken.models] == [f"pretrained-{i}" for i in (0, 1, 2, 10)]


def test_repetitions_that_are_not_finished_are_named_and_the_others_predict(three, tuned, scan, tmp_path):
    text = (tuned / "finetune.toml").read_text()
    assert tomllib.loads(text)["seeds"] == 2
    (three / "finetune.toml").write_text(text.replace("seeds = 2", "seeds = 5"))
    lines = Lines()
    taken = toolkit.predict(three, scan, out=tmp_path / "out", progress=lines)
    assert len(taken.models) == 3
    assert lines.notes == [
        f"{three}: pretrained-3, pretrained-4 of this fine-tuning are not finished, and not used; finish with ssmtl "
        f"finetune --resume {three}"
    ]
    (three / "finetune.toml").write_text("seeds = [")
    assert toolkit.predict(three, scan, out=tmp_path / "again").digest == taken.digest


@pytest.mark.parametrize("difference", ["head", "backbone", "slicing", "classes", "channels"])
def test_models_that_do_not_belong_together_are_refused_and_named(three, scan, tmp_path, difference):
    from ssmtl_toolkit.data.classes import Classes
    from ssmtl_toolkit.registry import registry
    from ssmtl_toolkit.specs import BackboneSpec, HeadSpec

    model_spec, _ = ModelSpec.load(three / "pretrained-0" / "model.safetensors")
    others = {
        "head": registry().resolve(HeadSpec, "segmentation:loss=dice"),
        "backbone": registry().resolve(BackboneSpec, "unet:encoder=plain,width=4"),
        "slicing": model_spec.slicing.model_copy(update={"axis": "coronal"}),
        "classes": Classes.of_values([10, 30]),
        "channels": 2,
    }
    other = ModelSpec(**{**vars(model_spec), difference: others[difference]})
    other.save(three / "pretrained-1" / "model.safetensors", other.build(), {})
    with pytest.raises(UsageError) as error:
        toolkit.predict(three, scan, out=tmp_path / "out")
    assert f"pretrained-0 and pretrained-1 do not belong together: they differ in {difference} " in str(error.value)
    assert not (tmp_path / "out").exists()
    toolkit.predict(three / "pretrained-0", scan, out=tmp_path / "out")  # each by itself is as good as ever


def test_a_copy_does_not_count_twice(three, scan, tmp_path):
    shutil.copytree(three / "pretrained-1", three / "pretrained-3")
    with pytest.raises(UsageError, match="pretrained-3 is a copy of pretrained-1 and would count twice"):
        toolkit.predict(three, scan, out=tmp_path / "out")


def test_a_damaged_member_is_named_and_not_dropped(three, scan, tmp_path):
    (three / "pretrained-2" / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"pretrained-2/model.safetensors: cannot be read"):
        toolkit.predict(three, scan, out=tmp_path / "out")


def test_a_mistyped_repetition_is_told_with_those_that_exist(three, scan, tmp_path):
    with pytest.raises(
        UsageError, match=r"did you mean 'pretrained-.'\? \(.*three has pretrained-0, pretrained-1, pre"
    ):
        toolkit.predict(three / "pretraned-1", scan, out=tmp_path / "out")
    (three / "finetune.toml").touch()
    (three / "pretrained-4").mkdir()
    with pytest.raises(UsageError, match="pretrained-4: its fine-tuning is not finished"):
        toolkit.predict(three / "pretrained-4", scan, out=tmp_path / "out")


def test_predictions_of_an_ensemble_and_of_one_of_its_models_are_not_mixed(three, labelled, tmp_path):
    scans = [labelled / "images" / f"{name}_pre.nii.gz" for name in "ab"]
    toolkit.predict(three, scans[0], out=tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(UsageError, match="holds predictions of another model"):
        toolkit.predict(three / "pretrained-0", scans[1], out=tmp_path / "out")
    assert len(toolkit.predict(three, scans, out=tmp_path / "out", existing="skip").written) == 1
    assert files_of(tmp_path / "out")["a_pre.nii.gz"] == before["a_pre.nii.gz"]
    shutil.rmtree(three / "pretrained-2")  # with another member it is another ensemble
    with pytest.raises(UsageError, match="was not written by this model"):
        toolkit.predict(three, scans, out=tmp_path / "out", existing="skip")


def test_skip_accepts_what_was_written_before_an_option_existed_and_refuses_other_values(three, scan, tmp_path):
    toolkit.predict(three, scan, out=tmp_path / "out", largest_component=True)
    file = tmp_path / "out" / "prediction.json"
    said = json.loads(file.read_text())
    options = said["files"]["a_pre.nii.gz"]["options"]
    assert options == {"tta": "none", "smooth": 0.0, "largest_component": "all", "precision": "auto", "volume": None}
    for old in ("tta", "smooth"):
        del options[old]
    options["largest_component"] = True  # as it was written then
    file.write_text(json.dumps(said))
    again = toolkit.predict(three, scan, out=tmp_path / "out", largest_component="all", existing="skip")
    assert again.written == ()
    with pytest.raises(UsageError, match="was written with another --smooth"):
        toolkit.predict(three, scan, out=tmp_path / "out", largest_component="all", smooth=2, existing="skip")
    with pytest.raises(UsageError, match="was written with another --largest-component"):
        toolkit.predict(three, scan, out=tmp_path / "out", largest_component="big", existing="skip")


def test_smoothing_is_that_of_scipy_along_the_stack_by_the_scans_own_spacing(three, tmp_path):
    scan = write_pair(tmp_path, "x", slices=14, seed=3, affine=np.diag([-0.8, -0.8, 2.5, 1.0]))
    toolkit.predict(three, scan, out=tmp_path / "raw", probabilities=True)
    toolkit.predict(three, scan, out=tmp_path / "out", probabilities=True, smooth=4.0)
    raw = voxels(tmp_path / "raw" / "x_probabilities.nii.gz").astype(np.float64)
    smooth = ndimage.gaussian_filter1d(raw, 4.0 / 2.5, axis=2, mode="nearest")
    assert np.abs(smooth - raw).max() > 0.05
    found = voxels(tmp_path / "out" / "x_probabilities.nii.gz")
    assert found == pytest.approx(smooth, abs=1e-6)
    labels = voxels(tmp_path / "out" / "x.nii.gz")
    assert np.array_equal(labels, np.array([0, 10, 20])[found.argmax(axis=-1)])
    toolkit.predict(three, scan, out=tmp_path / "alone", smooth=4.0)  # the probabilities need not be kept
    assert sorted(files_of(tmp_path / "alone")) == ["prediction.json", "x.nii.gz"]
    assert np.array_equal(voxels(tmp_path / "alone" / "x.nii.gz"), labels)


@pytest.mark.parametrize("smooth", [1e-200, 1e9])
def test_no_sigma_takes_the_memory_or_the_sum_of_the_probabilities(tuned, scan, tmp_path, smooth):
    toolkit.predict(tuned, scan, out=tmp_path / "out", probabilities=True, smooth=smooth)
    assert voxels(tmp_path / "out" / "a_pre_probabilities.nii.gz").sum(axis=-1) == pytest.approx(1, abs=1e-5)


def test_blocks_of_columns_smooth_like_the_whole(monkeypatch):
    from ssmtl_toolkit.data import postprocess

    raw = np.random.default_rng(0).dirichlet(np.ones(3), (7, 5, 11)).astype(np.float32)
    whole, parts = raw.copy(), np.asfortranarray(raw)
    index = postprocess.smooth_slices(whole, 1.3)
    monkeypatch.setattr(postprocess, "_BLOCK", 7 * 5 * 3 * 4 * 4)
    assert np.array_equal(postprocess.smooth_slices(parts, 1.3), index)
    assert np.array_equal(parts, whole)
    assert not np.array_equal(whole, raw)


@pytest.mark.parametrize(
    ("text", "flips"),
    [
        ("flip:axes=lr", {"lr"}),
        ("flip:p=0.5,axes=ud", {"ud"}),
        ("flip:axes=both", {"lr", "ud"}),
        ("flip:both", {"lr", "ud"}),
        ("flip", set()),
        ("flip:axes=[", set()),
        ("flip:axes=diagonal", set()),
        ("gamma:low=0.7", set()),
    ],
)
def test_flips_are_read_from_the_specs_of_the_training_and_never_guessed(text, flips):
    assert flips_of([text, "noise"]) == flips


@pytest.mark.parametrize(
    ("axes", "chosen"),
    [("lr", [(), (-1,)]), ("ud", [(), (-2,)]), ("both", [(), (-1,), (-2,), (-2, -1)])],
)
def test_flips_average_what_mirrored_slices_give_when_they_are_mirrored_back(three, scan, tmp_path, axes, chosen):
    source = three / "pretrained-0" / "model.safetensors"
    model = changed(source, tmp_path / "m.safetensors", augment=["noise", f"flip:p=0.5,axes={axes}"])
    lines = Lines()
    toolkit.predict(model, scan, out=tmp_path / "out", probabilities=True, tta="flips", progress=lines)
    model_spec, network = ModelSpec.load(source)
    volume = installed_readers().read(scan)
    stack = Stack.of(volume, model_spec.slicing.axis)
    image = torch.from_numpy(standardise(stack.slices, model_spec.slicing).slices)
    with torch.inference_mode():
        parts = []
        for mirrored in chosen:
            chances = network.eval()(torch.from_numpy(np.flip(image.numpy(), mirrored).copy())).softmax(dim=1)
            parts.append(np.flip(chances.numpy(), mirrored))
    mean = stack.back(np.moveaxis(np.mean(parts, axis=0), 1, -1))
    assert np.abs(parts[0] - parts[1]).max() > 0.05
    assert voxels(tmp_path / "out" / "a_pre_probabilities.nii.gz") == pytest.approx(mean, abs=1e-5)
    shown = "lr, ud" if axes == "both" else axes
    assert lines.lines == [f"model     {model}, also of mirrored slices ({shown})"]


def test_flips_are_refused_for_models_that_were_trained_without(three, scan, ssmtl, tmp_path):
    first = three / "pretrained-0" / "model.safetensors"
    done = ssmtl("predict", "--from", first, scan, "-o", "out", "--tta", "flips")
    assert done.returncode == 2
    assert f"--tta flips: {first} was trained without flips, and mirrored slices would make its predictions worse" in (
        " ".join(done.stderr.split())
    )
    assert not (tmp_path / "out").exists()
    for i, axes in ((0, "lr"), (1, "lr"), (2, "both")):
        file = three / f"pretrained-{i}" / "model.safetensors"
        changed(file, file, augment=[f"flip:axes={axes}"])
    with pytest.raises(UsageError, match="pretrained-0 and pretrained-2 were trained with different flips"):
        toolkit.predict(three, scan, out=tmp_path / "out", tta="flips")
    done = ssmtl("predict", "--from", three, scan, "-o", "out", "--tta", "flip")
    assert (done.returncode, "'flip' is not one of 'none', 'flips'" in done.stderr) == (2, True)


def test_an_ensemble_with_flips_is_the_mean_of_all_its_models_and_flips(three, scan, tmp_path):
    for i in (0, 1, 2):
        file = three / f"pretrained-{i}" / "model.safetensors"
        changed(file, file, augment=["flip:axes=lr"])
        toolkit.predict(file, scan, out=tmp_path / str(i), probabilities=True, tta="flips")
    toolkit.predict(three, scan, out=tmp_path / "all", probabilities=True, tta="flips")
    alone = [voxels(tmp_path / str(i) / "a_pre_probabilities.nii.gz").astype(np.float64) for i in range(3)]
    assert voxels(tmp_path / "all" / "a_pre_probabilities.nii.gz") == pytest.approx(np.mean(alone, axis=0), abs=1e-6)


def test_no_more_than_a_batch_of_maps_of_one_model_is_kept(three, scan):
    """The mean of many models is made as it goes: what is kept does not grow with their number."""
    model_spec, model = ModelSpec.load(three / "pretrained-0" / "model.safetensors")
    alive, most = [], []

    class Counting(torch.nn.Module):
        def forward(self, image):
            maps = model.eval()(image)
            alive.append(weakref.ref(maps))
            most.append(sum(ref() is not None for ref in alive))
            return maps

    fabric = make_fabric(RunConfig(accelerator="cpu"), Progress())
    predictor = Predictor(model_spec, [Counting() for _ in range(6)], fabric, 3)
    predictor.labels(installed_readers().read(scan))
    assert len(most) == 6 * 4  # ten slices in batches of three
    assert max(most) <= 2


def lesser_parts(array):
    """How many voxels of each value are not in its largest part."""
    counts = {}
    for value in (10, 20):
        sizes = np.bincount(ndimage.label(array == value, np.ones((3, 3, 3)))[0].ravel())[1:]
        counts[value] = int(sizes.sum() - sizes.max(initial=0))
    return counts


def test_the_largest_part_is_kept_of_the_chosen_classes_only(three, labelled, ssmtl, tmp_path):
    images, folders = labelled / "images", {"none": [], "all": ["--largest-component"], "big": None, "both": None}
    folders["big"], folders["both"] = ["--largest-component", "big"], ["--largest-component", "small, big"]
    lesser = {}
    for name, flags in folders.items():
        done = ssmtl("predict", "--from", three / "pretrained-1", images, "-o", name, *flags)
        assert done.returncode == 0, done.stderr
        counts = [lesser_parts(voxels(file)) for file in sorted((tmp_path / name).glob("*.nii.gz"))]
        lesser[name] = {value: sum(count[value] for count in counts) for value in (10, 20)}
    assert min(lesser["none"].values()) > 0
    assert lesser["all"] == lesser["both"] == {10: 0, 20: 0}
    assert lesser["big"] == {10: 0, 20: lesser["none"][20]}
    labels = {name: files_of(tmp_path / name) for name in ("all", "both")}
    assert all(labels["all"][file] == labels["both"][file] for file in labels["all"] if file.endswith(".nii.gz"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["x.nii.gz", "--largest-component", "bgi"], "no class 'bgi'; did you mean 'big'? (known: big, small, and all"),
        (["x.nii.gz", "--largest-component", "big,"], ""),
        (["x.nii.gz", "--largest-component", ","], "no class ','"),
        (["--largest-component", "x.nii.gz"], "no scan is given"),
        (["--largest-component", "x.nii.gz"], "before a scan write --largest-component=all, not 'x.nii.gz'"),
        (["--largest-component", "x.nii.gz", "x.nii.gz"], "before a scan write --largest-component=all"),
        (["--largest-component=all", "x.nii.gz"], ""),
        (["x.nii.gz", "--largest-component", "--largest-component"], "--largest-component: given 2 times; give it"),
        (["x.nii.gz", "--smooth", "-1"], "smooth: Input should be greater than or equal to 0"),
        (["x.nii.gz", "--smooth", "inf"], "smooth: Input should be a finite number"),
        (["x.nii.gz", "--smoth", "2"], "--smooth"),
        ([], "SCANS are files, folders or datasets by name"),
    ],
)
def test_wrong_options_are_told(tuned, ssmtl, tmp_path, flags, said):
    write_scan(tmp_path / "x.nii.gz")
    done = ssmtl("predict", "--from", tuned, "-o", "out", *flags)
    assert done.returncode == (2 if said else 0), done.stderr
    assert said in " ".join(done.stderr.split())
    assert (tmp_path / "out").exists() is not bool(said)


def test_options_for_labels_are_refused_for_images(labelled, pretrained, scan, tmp_path):
    tuned = toolkit.finetune(pretrained, data=str(labelled), out=tmp_path / "f", head="denoising", **QUICK)
    for options in ({"smooth": 2.0}, {"largest_component": "all"}, {"largest_component": "big"}):
        flag = next(iter(options)).replace("_", "-")
        with pytest.raises(UsageError, match=f"--{flag} is for labels, and head 'denoising' gives none; omit it"):
            toolkit.predict(tuned, scan, out=tmp_path / "out", **options)


def test_a_toml_file_may_still_say_true_or_false(tmp_path):
    for text, value in (("true", "all"), ("false", "none"), ('"big"', "big")):
        (tmp_path / "x.toml").write_text(f"largest_component = {text}")
        assert PredictConfig.of(PredictConfig.read(tmp_path / "x.toml")).largest_component == value
    with pytest.raises(UsageError, match="largest_component: Input should be a valid string, got 3"):
        PredictConfig.of({"largest_component": 3})


def test_predicting_and_evaluating_gives_the_ensembles_scores_of_the_fine_tuning(tuned, labelled, ssmtl, tmp_path):
    summary = json.loads((tuned / "summary.json").read_text())
    kept = json.loads((tuned / "ensemble-pretrained.json").read_text())
    tested = [labelled / "images" / f"{name}.nii.gz" for name in kept["test"]]
    assert ssmtl("predict", "--from", tuned, *tested, "-o", "out").returncode == 0
    done = ssmtl("evaluate", "--pred", "out", "--label", labelled / "labels", "--no-surface", "--json")
    found = json.loads(done.stdout)
    scores = summary["ensemble"]["pretrained"]
    for key in ("iou", "dice"):
        assert scores[key]["values"] == [pytest.approx(found["mean"][key])]
        assert scores[key]["sd"] is None
    assert {k: v["iou"]["mean"] for k, v in scores["classes"].items()} == pytest.approx(
        {name: one["iou"] for name, one in found["classes"].items()}
    )
    assert set(summary["ensemble"]) == {"pretrained", "scratch"}
    assert [model["name"] for model in scores["models"]] == ["pretrained-0", "pretrained-1"]


def test_ensembles_are_tested_at_the_end_kept_and_done_again_when_a_model_is_added(
    labelled, pretrained, ssmtl, tmp_path
):
    options = ["--from", pretrained, "--data", labelled, "--test-scans", 2, "--steps", 2, "--no-surface"]
    assert ssmtl("finetune", *options, "--out", "f").returncode == 0
    assert "ensemble" not in json.loads((tmp_path / "f" / "summary.json").read_text())  # one model is none
    done = ssmtl("finetune", "--resume", "f", "--seeds", 2)
    assert done.returncode == 0, done.stderr
    assert "pretrained, ensemble of 2 models" in done.stderr
    assert any(line.strip().startswith("pretrained, ensemble ") for line in done.stderr.splitlines())
    file = tmp_path / "f" / "ensemble-pretrained.json"
    models = [(tmp_path / "f" / f"pretrained-{i}" / "model.safetensors").stat().st_mtime_ns for i in (0, 1)]
    before = (file.read_bytes(), file.stat().st_mtime_ns, (tmp_path / "f" / "summary.json").read_bytes())
    done = ssmtl("finetune", "--resume", "f")
    assert "ensemble of 2 models" not in done.stderr
    assert (file.read_bytes(), file.stat().st_mtime_ns, (tmp_path / "f" / "summary.json").read_bytes()) == before
    file.write_text("{")  # damaged, or killed while writing
    assert ssmtl("finetune", "--resume", "f").returncode == 0
    assert file.read_bytes() == before[0]
    assert ssmtl("finetune", "--resume", "f", "--seeds", 3).returncode == 0
    assert len(json.loads(file.read_text())["models"]) == 3
    now = [(tmp_path / "f" / f"pretrained-{i}" / "model.safetensors").stat().st_mtime_ns for i in (0, 1)]
    assert now == models  # nothing was trained again


def test_what_a_kill_leaves_of_an_ensembles_scores_is_removed(tuned, tmp_path):
    from ssmtl_toolkit.runtime.folder import FINETUNE, hold_folder

    (tmp_path / FINETUNE).touch()
    half = tmp_path / ".ensemble-scratch.json.12-3.part"
    half.touch()
    with hold_folder(tmp_path, resume=True, config=FINETUNE):
        assert not half.exists()


def test_a_fine_tuning_records_its_flips_for_the_prediction(labelled, pretrained, scan, tmp_path):
    options = {**QUICK, "steps": 2, "recipe": "paper"}
    for name, augment in (("with", ("flip:axes=both", "noise")), ("without", ("noise",))):
        toolkit.finetune(pretrained, data=str(labelled), out=tmp_path / name, augment=augment, **options)
    lines = Lines()
    toolkit.predict(tmp_path / "with", scan, out=tmp_path / "out", tta="flips", progress=lines)
    assert lines.lines[0].endswith(", also of mirrored slices (lr, ud)")
    with pytest.raises(UsageError, match="was trained without flips"):
        toolkit.predict(tmp_path / "without", scan, out=tmp_path / "out2", tta="flips")

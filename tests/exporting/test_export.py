"""Exports: each is opened by the real library, on real slices, without this package where it should not be needed."""

import json
import subprocess
import sys
from importlib.util import find_spec

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors import safe_open

from ssmtl_toolkit import SsmtlError, UsageError, export, load_backbone, load_model, predict, pretrain
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.exporting.card import card, steps
from ssmtl_toolkit.runtime.usage import Answer, Usage
from ssmtl_toolkit.specs import ExportSpec

WITHOUT_US = "import sys, runpy; sys.modules['ssmtl_toolkit'] = None; sys.argv = sys.argv[1:]; "
needs_onnx = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="the extra onnx is not installed")


@pytest.fixture
def model(tuned):
    return tuned / "pretrained-0"


@pytest.fixture
def real(hippocampus):
    """A real scan."""
    return min((hippocampus / "images").glob("*.nii.gz"))


@pytest.fixture(scope="module")
def resnet(labelled, made_once):
    """A pre-training of a network that smp and timm know."""

    def fill(base):
        options = {"backbone": "unet:encoder=resnet18", "size": 32, "steps": 1, "tasks": ["reconstruct_next:t=1"]}
        pretrain(data=str(labelled), out=base / "run", cache=base / "cache", **options)

    return made_once("resnet", fill) / "run"


def images(loaded, scan):
    """The slices of a scan as the network sees them."""
    return loaded.prepare_slices(np.moveaxis(np.asanyarray(nib.load(scan).dataobj), 2, 0))


def values(file):
    return np.asanyarray(nib.load(file).dataobj)


def predicted(model, scan, folder):
    return predict(model, scan, out=folder / "ours", cache=folder / "cache").written[0]


def python(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_script_beside_a_program_labels_a_scan_as_we_do_without_us(model, real, tmp_path):
    out = export(model, "torch", out=tmp_path / "torch")
    assert out.summary["difference"] <= 1e-5
    script = WITHOUT_US + "runpy.run_path(sys.argv[0], run_name='__main__')"
    python(script, tmp_path / "torch" / "predict.py", tmp_path / "theirs.nii.gz", real)
    ours = predicted(model, real, tmp_path)
    assert np.array_equal(values(tmp_path / "theirs.nii.gz"), values(ours))
    assert np.array_equal(nib.load(tmp_path / "theirs.nii.gz").affine, nib.load(ours).affine)


def test_usage_is_in_the_metadata_beside_every_export_and_in_words(model, tmp_path):
    export(model, "hf", out=tmp_path / "hf")
    with safe_open(model / "model.safetensors", "pt") as file:
        usage = json.loads(file.metadata()["ssmtl"])["usage"]
    assert usage == json.loads((tmp_path / "hf" / "usage.json").read_text())
    assert usage["resize"] == {"size": [32, 32], "mode": "bilinear", "align_corners": False, "antialias": True}
    assert (usage["axes"], usage["directions"]["axial"]) == (["axial"], ["S", "P", "L"])
    assert (usage["answer"]["names"], usage["answer"]["values"]) == (["background", "big", "small"], [0, 10, 20])
    card = (tmp_path / "hf" / "README.md").read_text()
    for words in ("to the patient's left", "anti-aliased", "unit variance", "map 2 is small, written as 20"):
        assert words in card


def test_the_card_cites_the_paper_and_the_tasks_of_the_pretraining(model):
    with safe_open(model / "model.safetensors", "pt") as file:
        about = json.loads(file.metadata()["ssmtl"])
    about["pretraining"]["tasks"] += [{"spec": "moco_v2:queue=10"}, {"spec": "not_installed:t=1"}]
    text = card(model / "model.safetensors", about, load_model(model).usage)
    assert text.count("10.1007/978-3-030-86523-8_47") == text.count("Momentum Contrast for Unsupervised") == 1


@pytest.mark.slow
@needs_onnx
def test_an_onnx_graph_takes_any_number_and_size_of_slices(model, real, tmp_path):
    import onnxruntime

    export(model, "onnx", out=tmp_path / "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    loaded = load_model(model)
    assert json.loads(session.get_modelmeta().custom_metadata_map["usage"])["axis"] == "acquisition"
    for shape in ((1, 32, 32), (5, 64, 96)):
        given = torch.nn.functional.interpolate(images(loaded, real)[: shape[0]], shape[1:])
        (maps,) = session.run(["maps"], {"image": given.numpy()})
        assert np.abs(maps - loaded(given).detach().numpy()).max() < 1e-4


OPEN_SMP = """
import sys
sys.modules["ssmtl_toolkit"] = None
import torch, segmentation_models_pytorch as smp
folder, given, out, width = sys.argv[1:]
if width != "0":
    sys.path.append(folder)
    import ssmtl_plain
    ssmtl_plain.plain(int(width))
with torch.no_grad():
    torch.save(smp.from_pretrained(folder).eval()(torch.load(given)), out)
"""


@pytest.mark.slow
def test_smp_opens_the_papers_network_with_its_head_without_us(model, real, tmp_path):
    export(model, "smp", out=tmp_path / "smp")
    given = images(load_model(model), real)[:8]
    torch.save(given, tmp_path / "given.pt")
    python(OPEN_SMP, tmp_path / "smp", tmp_path / "given.pt", tmp_path / "maps.pt", 8)
    assert torch.allclose(torch.load(tmp_path / "maps.pt"), load_model(model)(given), atol=1e-5)


@pytest.mark.slow
def test_smp_and_timm_open_a_backbone_of_theirs(resnet, real, tmp_path):
    import segmentation_models_pytorch as smp
    import timm

    given, ours = images(load_backbone(resnet), real)[:4], load_backbone(resnet)
    export(resnet, "smp", out=tmp_path / "smp")
    with pytest.warns(UserWarning, match="segmentation_head"):  # it is to be trained
        network = smp.from_pretrained(tmp_path / "smp", classes=3, strict=False).eval()
    assert torch.allclose(network.decoder(network.encoder(given)), ours.features(given).decoded[0], atol=1e-5)
    export(resnet, "timm", out=tmp_path / "timm")
    encoder = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, features_only=True).eval()
    for theirs, map_ in zip(encoder(given), ours.features(given).pyramid[1:], strict=True):
        assert torch.allclose(theirs, map_, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*NvImgCodec")  # MONAI makes all its readers, and warns of one
def test_monais_own_workflow_runs_a_bundle_and_labels_as_we_do(model, real, tmp_path):
    from monai.bundle import ConfigWorkflow

    out = export(model, "monai", out=tmp_path / "bundle")
    (tmp_path / "bundle" / "scans").mkdir()
    (tmp_path / "bundle" / "scans" / "a.nii.gz").symlink_to(real)
    config, meta = (str(out.folder / "configs" / name) for name in ("inference.json", "metadata.json"))
    workflow = ConfigWorkflow(config, meta, bundle_root=str(out.folder), workflow_type="infer", logging_file=False)
    workflow.initialize()
    workflow.run()
    theirs = tmp_path / "bundle" / "eval" / "a.nii.gz"
    assert np.array_equal(values(theirs), values(predicted(model, real, tmp_path)))


def test_a_folder_for_the_hub_loads_as_it_is_and_names_no_scan(model, pretrained, real, tmp_path):
    export(model, "hf:licence=cc-by-4.0", out=tmp_path / "model")
    given = images(load_model(model), real)[:4]
    assert torch.equal(load_model(tmp_path / "model")(given), load_model(model)(given))
    assert (tmp_path / "model" / "README.md").read_text().startswith("---\nlibrary_name: ssmtl-toolkit\nlicense: cc-by")
    for digests in (True, False):
        export(pretrained, f"hf:digests={digests}", out=tmp_path / f"{digests}")
        with safe_open(tmp_path / f"{digests}" / "backbone.safetensors", "pt") as file:
            assert bool(json.loads(file.metadata()["ssmtl"])["scans"]["digests"]) is digests
    assert torch.equal(load_backbone(tmp_path / "False")(given), load_backbone(pretrained)(given))


def test_without_a_network_nothing_is_sent_and_the_folder_stays(pretrained, tmp_path):
    with pytest.raises(SsmtlError, match=r"hub cannot be reached .*; the folder is in .*out, and can be sent later"):
        export(pretrained, "hf:push=user/name", out=tmp_path / "out")
    assert (tmp_path / "out" / "backbone.safetensors").is_file()


class Wrong(ExportSpec):
    """Writes, and opens something else."""

    name = "wrong"

    def write(self, exported, folder):
        (folder / "weights").write_bytes(b"1")
        return "open it"

    def outputs(self, exported, folder, images):
        yield exported.module(images), exported.module(images) + 1


def test_usage_of_frames_in_time_says_where_the_positions_lie():
    usage = Usage.of(Slicing(axis="time", size=32), 1, [("time", 40.0)], Answer(kind="features"))
    assert (usage.axis, usage.axes, set(usage.directions)) == ("time", (), {"axial", "coronal", "sagittal"})
    assert "frames of the 4-D scan" in next(steps(usage))


def test_what_computes_something_else_is_never_handed_out(model, tmp_path):
    with pytest.raises(SsmtlError, match="opened again it computes something else"):
        export(model, Wrong(), out=tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_wrong_calls_are_refused_by_name(ssmtl, tuned, pretrained, tmp_path):
    for arguments, words in (
        ([tuned, "--to", "torch"], "has 2 models, which predict together, and one can be exported"),
        ([tuned / "pretrained-0", "--to", "onyx"], "did you mean 'onnx'?"),
        ([pretrained, "--to", "monai"], "takes a fine-tuned model"),
        ([pretrained, "--to", "timm"], "timm has no network 'plain'"),
        ([pretrained], "--to is missing"),
        (["nowhere", "--to", "torch"], "no such file or folder"),
        ([pretrained, "--to", "torch", "--out", pretrained], "is not empty"),
    ):
        done = ssmtl("export", *arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr, arguments


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, model):
    class Lacking(Wrong):
        """Wants a package that is not there."""

        name = "lacking"
        packages = ("no_such_package",)
        extra = "'ssmtl-toolkit[extra]'"

    with pytest.raises(UsageError, match=r"needs no_such_package, .* pip install 'ssmtl-toolkit\[extra\]'"):
        export(model, Lacking())

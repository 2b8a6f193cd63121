"""Weights files: what is damaged, not finite or odd is refused, and nothing in them makes anything be fetched."""

import json
import random
import socket
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers.small import SMALL, write_scan
from ssmtl_toolkit import DataError, SsmtlError, UsageError, pretrain
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.downstream.model import ModelSpec
from ssmtl_toolkit.registry import Entry, Plugin, registry
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.about import LabelClasses, Pretraining
from ssmtl_toolkit.runtime.transfer import Pretrained
from ssmtl_toolkit.specs import BackboneSpec, HeadSpec


@pytest.fixture
def model(tuned):
    return tuned / "pretrained-0" / "model.safetensors"


def parts(file):
    """Tensors and metadata of a file, as anybody reads them."""
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def forged(file, target, change):
    """A copy whose JSON is changed and whose digest is right: a file as its author wants it."""
    tensors, metadata = parts(file)
    weights.write(target, tensors, change(json.loads(metadata["ssmtl"])))
    return target


def flipped(content, bit):
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def same(one, other):
    return one.keys() == other.keys() and all(
        a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in ((one[name], other[name]) for name in one)
    )


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(pretrained, tmp_path):
    tensors = {
        "encoder.a": torch.randn(3, 2),
        "encoder.n": torch.tensor(7),
        "decoder.b": torch.zeros(2, dtype=torch.half),
    }
    about = json.loads(parts(pretrained / "backbone.safetensors")[1]["ssmtl"])
    weights.write(tmp_path / "x", tensors, about)
    content = (tmp_path / "x").read_bytes()
    whole = weights.read(tmp_path / "x", "")
    header = 8 * (8 + int.from_bytes(content[:8], "little"))
    draw = random.Random(0)
    bits = [*range(64), *draw.sample(range(64, header), 1000), *range(header, 8 * len(content))]
    refused = 0
    for bit in bits:
        (tmp_path / "y").write_bytes(flipped(content, bit))
        try:
            found = weights.read(tmp_path / "y", "")
        except DataError:
            refused += 1
        else:
            assert same(found.tensors, tensors), bit
            assert found.about(Pretraining) == whole.about(Pretraining), bit
    assert refused > 0.99 * len(bits)


@pytest.mark.parametrize("where", ["header", "tensors"])
def test_a_flipped_bit_of_a_model_gives_no_label_map(model, tmp_path, ssmtl, where):
    content = model.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    byte = header // 3 if where == "header" else header + len(content) // 3
    (tmp_path / "x.safetensors").write_bytes(flipped(content, 8 * byte + 4))
    done = ssmtl("predict", "--from", "x.safetensors", write_scan(tmp_path / "s.nii.gz"), "-o", "out")
    assert done.returncode == 3
    assert "error: x.safetensors: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_nan_weights_are_refused_by_predict_and_finetune_and_never_written(model, pretrained, tmp_path, ssmtl):
    scan = write_scan(tmp_path / "s.nii.gz")
    for source, name in ((model, "m.safetensors"), (pretrained / "backbone.safetensors", "b.safetensors")):
        tensors, metadata = parts(source)
        broken = {k: v * float("nan") if v.is_floating_point() else v for k, v in tensors.items()}
        with pytest.raises(SsmtlError, match=r"not written.*NaN"):
            weights.write(tmp_path / name, broken, {})
        metadata["ssmtl_digest"] = weights._digest(broken, {k: v for k, v in metadata.items() if k != "ssmtl_digest"})
        save_file(broken, tmp_path / name, metadata)
    done = ssmtl("predict", "--from", "m.safetensors", scan, "-o", "out")
    assert (done.returncode, "hold NaN or infinite numbers, such as backbone." in done.stderr) == (3, True)
    done = ssmtl("finetune", "--from", "b.safetensors", "--data", "phantom:patients=3", "--size", 32, "--out", "f")
    assert (done.returncode, "hold NaN or infinite numbers, such as" in done.stderr) == (3, True)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_one_number_that_is_not_finite_in_a_foreign_file_is_refused_with_its_tensor(pretrained, tmp_path, number):
    tensors = load_file(pretrained / "backbone.safetensors")
    name = next(name for name in tensors if name.endswith("running_var"))
    tensors[name][0] = number
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match=f"1 of .* such as {name}"):
        Pretrained.open(tmp_path / "x.safetensors")


def test_a_file_that_says_it_is_ours_without_its_digest_is_refused(model, pretrained, tmp_path):
    for file in (model, pretrained / "backbone.safetensors"):
        tensors, metadata = parts(file)
        save_file(tensors, tmp_path / "x", {"format": "pt", "ssmtl": metadata["ssmtl"]})
        with pytest.raises(DataError, match="has no digest"):
            weights.read(tmp_path / "x", "")
        save_file(tensors, tmp_path / "x", {**metadata, "more": "1"})
        with pytest.raises(DataError, match="its digest differs"):
            weights.read(tmp_path / "x", "")
        save_file({**tensors, "encoder.more": torch.zeros(1)}, tmp_path / "x", metadata)
        with pytest.raises(DataError, match="its digest differs"):
            weights.read(tmp_path / "x", "")


ODD = {
    "classes missing": lambda said: {k: v for k, v in said.items() if k != "classes"},
    "classes a text": lambda said: {**said, "classes": "LV"},
    "class without values": lambda said: {**said, "classes": {**said["classes"], "classes": [{"name": "x"}]}},
    "backbone a list": lambda said: {**said, "backbone": ["unet"]},
    "backbone missing": lambda said: {k: v for k, v in said.items() if k != "backbone"},
    "head null": lambda said: {**said, "head": None},
    "spec a number": lambda said: {**said, "head": {**said["head"], "spec": 3}},
    "prepare a text": lambda said: {**said, "prepare": "axial"},
    "size of a billion": lambda said: {**said, "prepare": {**said["prepare"], "size": 10**9}},
    "size of 4000 digits": lambda said: {**said, "prepare": {**said["prepare"], "size": 10**4000}},
    "size a float": lambda said: {**said, "prepare": {**said["prepare"], "size": 32.5}},
    "one key more": lambda said: {**said, "flips": True},
    "no object": lambda said: [said],
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_metadata_of_a_model_is_refused_in_one_line(model, tmp_path, ssmtl, odd):
    forged(model, tmp_path / "x.safetensors", ODD[odd])
    done = ssmtl("predict", "--from", "x.safetensors", write_scan(tmp_path / "s.nii.gz"), "-o", "out")
    assert done.returncode == 3
    assert done.stderr.startswith("error: x.safetensors: ")
    assert len(done.stderr.strip().split("\n")) == 1
    assert "not expected" not in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda said: {**said, "fingerprint": {**said["fingerprint"], "size": 10**9}},
        lambda said: {**said, "fingerprint": {**said["fingerprint"], "pooled": ["x"]}},
        lambda said: {**said, "trained": ["encoder", 1]},
        lambda said: {**said, "scans": ["a"]},
        lambda said: {**said, "prepare": None},
        lambda said: {k: v for k, v in said.items() if k != "fingerprint"},
    ],
)
def test_odd_metadata_of_a_backbone_is_refused(pretrained, tmp_path, change):
    file = forged(pretrained / "backbone.safetensors", tmp_path / "x.safetensors", change)
    with pytest.raises(DataError, match=r"its metadata cannot be used"):
        Pretrained.open(file)


def test_a_probe_of_another_length_is_a_difference(pretrained, tmp_path):
    def shorter(said):
        return {**said, "fingerprint": {**said["fingerprint"], "pooled": said["fingerprint"]["pooled"][:3]}}

    file = forged(pretrained / "backbone.safetensors", tmp_path / "x.safetensors", shorter)
    with pytest.raises(SsmtlError, match="output differs"):
        Pretrained.open(file).load_into(registry().resolve(BackboneSpec, SMALL).build(1))


def test_metadata_nested_without_end_is_refused(model, tmp_path):
    tensors, metadata = parts(model)
    metadata["ssmtl"] = "[" * 100_000 + "]" * 100_000
    metadata["ssmtl_digest"] = weights._digest(tensors, {k: v for k, v in metadata.items() if k != "ssmtl_digest"})
    save_file(tensors, tmp_path / "x", metadata)
    for opened in (ModelSpec.load, Pretrained.open):
        with pytest.raises(DataError, match="its metadata is not JSON"):
            opened(tmp_path / "x")


@pytest.fixture
def no_network(monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given) or [])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return asked


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "unet:encoder=tu-hf-hub:evil/model",
            "unet:encoder=tu-hf_hub:evil/model",
            "unet:encoder=tu-HF-HUB:evil/model",
        ),
        *("unet:encoder=tu-local-dir:/etc", "smp:fpn,encoder=tu-hf-hub:evil/model", "fcn:encoder=hf-hub:evil/model"),
        *("fcn:encoder=hf_hub:evil/model", "fcn:encoder=local-dir:/etc", "fcn:encoder=file:///etc/passwd"),
        *("fcn:encoder=evil/model", "unet:width=1000000000,encoder=plain", "fcn:channels=1000000000"),
    ],
)
def test_what_a_file_names_is_neither_fetched_nor_read_nor_of_any_size(
    model, pretrained, tmp_path, ssmtl, no_network, spec
):
    def change(said):
        return {**said, "backbone": {**said["backbone"], "spec": spec}}

    forged(model, tmp_path / "m.safetensors", change)
    forged(pretrained / "backbone.safetensors", tmp_path / "b.safetensors", change)
    done = ssmtl("predict", "--from", "m.safetensors", write_scan(tmp_path / "s.nii.gz"), "-o", "out")
    assert done.returncode == 2
    assert "error: m.safetensors: was made with" in done.stderr
    with pytest.raises(UsageError, match=r"b.safetensors: was made with"):
        Pretrained.open(tmp_path / "b.safetensors").spec()
    assert no_network == []


@pytest.mark.parametrize("text", ["imagenet", "https://evil.example/x", "hf-hub:evil/model"])
def test_start_weights_in_a_file_are_not_fetched(model, tmp_path, no_network, text):
    def change(said):
        return {**said, "backbone": {**said["backbone"], "spec": f"{SMALL},weights={text}"}}

    ModelSpec.load(forged(model, tmp_path / "x", change))
    assert no_network == []


class Placed(HeadSpec):
    """A head of a third party that reads a file."""

    name: ClassVar[str] = "placed"
    options: dict[str, list[str]]

    def build(self, backbone, classes):
        raise AssertionError("it must not be built")


@pytest.mark.parametrize("place", ["/etc/passwd", "~/.ssh/id", "../x", "https://evil.example", "hf-hub:evil/model"])
def test_a_place_in_an_option_of_any_part_is_refused(model, tmp_path, monkeypatch, place):
    plugin = Plugin("third", "third-party", "1")
    monkeypatch.setitem(registry().entries, ("head", "placed"), Entry(Placed, plugin))
    said = {"spec": str(Placed(options={"file": [place]})), "distribution": "third-party", "version": "1"}
    forged(model, tmp_path / "x", lambda about: {**about, "head": said})
    with pytest.raises(UsageError, match="a file must not name a path, a URL or a model on a hub"):
        ModelSpec.load(tmp_path / "x")


def test_what_a_file_says_reaches_no_terminal_unescaped(model, pretrained, tmp_path, ssmtl):
    evil = "x\x1b[31mRED\x07\u202e\nfake line"
    origin = {"spec": "zz", "distribution": evil, "version": evil}
    odd = {"spec": f'fcn:encoder="{evil}"'.replace("\n", "\\n"), "distribution": evil, "version": evil}
    tensors, metadata = parts(pretrained / "backbone.safetensors")
    about = json.loads(metadata["ssmtl"])
    scan = write_scan(tmp_path / "s.nii.gz")
    outputs = []
    for change in (
        lambda said: {**said, "backbone": origin},
        lambda said: {**said, "head": origin},
        lambda said: {**said, "backbone": odd},
        lambda said: {**said, evil: 1},
        lambda said: {**said, "prepare": {**said["prepare"], "axis": evil}},
    ):
        forged(model, tmp_path / "m.safetensors", change)
        outputs.append(ssmtl("predict", "--from", "m.safetensors", scan, "-o", "out"))
    weights.write(tmp_path / "b.safetensors", {**tensors, f"encoder.{evil}": torch.zeros(1)}, about)
    report = Pretrained.open(tmp_path / "b.safetensors").load_into(registry().resolve(BackboneSpec, SMALL).build(1))
    outputs.append(type(outputs[0])(2, "", "\n".join(report.lines())))
    weights.write(
        tmp_path / "m.safetensors", {**parts(model)[0], evil: torch.zeros(1)}, json.loads(parts(model)[1]["ssmtl"])
    )
    outputs.append(ssmtl("predict", "--from", "m.safetensors", scan, "-o", "out"))
    for done in outputs:
        assert done.returncode in (2, 3)
        assert not any(c in done.stderr for c in "\x1b\x07\u202e"), done.stderr
        assert "\nfake line" not in done.stderr


def test_equal_runs_give_equal_bytes_that_others_load(labelled, tmp_path):
    options = {
        "backbone": SMALL,
        "size": 32,
        "steps": 2,
        "tasks": ["reconstruct_prev:t=1"],
        "cache": tmp_path / "cache",
    }
    first, second = (pretrain(data=str(labelled), out=tmp_path / name, **options).backbone for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    tensors, metadata = parts(first)
    assert metadata["format"] == "pt"
    assert same(tensors, load_file(first))
    assert first.stat().st_mode & 0o044  # readable by others, as any new file


def test_a_hundred_megabytes_are_checked_in_a_second_or_so(tmp_path):
    import time

    weights.write(tmp_path / "x", {f"encoder.{i}": torch.randn(1000, 1000) for i in range(25)}, {})
    started = time.process_time()
    weights.read(tmp_path / "x", "")
    assert time.process_time() - started < 3


@pytest.mark.slow
def test_without_a_network_start_weights_fail_at_once_and_without_raw_lines(ssmtl_process, tmp_path):
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        options = ["--data", "phantom:patients=2", "--size", 32, "--steps", 1, "--out", "r"]
        done = ssmtl_process(
            *("run", *options, "--backbone", "unet:encoder=resnet18,weights=imagenet"),
            HF_HUB_OFFLINE="0",
            HF_ENDPOINT=endpoint,
            HF_HOME=str(tmp_path / "hf"),
        )
    assert done.returncode == 1
    assert "could not be downloaded from the Hugging Face hub" in done.stderr
    assert "Retry" not in done.stderr
    assert "thrown while requesting" not in done.stderr


@pytest.mark.parametrize("text", ["unet:encoder=tu-hf-hub:timm/resnet18", "fcn:encoder=local-dir:/etc"])
def test_a_spec_names_networks_of_the_library_only(text):
    with pytest.raises(UsageError, match="names a model on a hub or a folder"):
        registry().resolve(BackboneSpec, text)


def test_numbers_of_every_type_are_kept(tmp_path):
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
    tensors = {str(kind): torch.tensor([[1, 0], [1, 1]]).to(kind) for kind in kinds}
    tensors |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "turned": torch.arange(6.0).reshape(2, 3).T}
    weights.write(tmp_path / "x", tensors, {"a": 1})
    found = weights.read(tmp_path / "x", "")
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert found.said() == {"a": 1}
    assert np.isfinite(found.tensors["scalar"].item())


@pytest.mark.parametrize("text", ["LV,RV", "ventricles=LV+RV", "left=500,right=600"])
def test_metadata_take_classes_however_they_were_chosen(text):
    classes = Classes.parse(text, {"LV": (500,), "RV": (600,), "LA": (420,)})
    written = classes.to_json()
    assert Classes.from_json(LabelClasses.model_validate_json(json.dumps(written)).model_dump()).to_json() == written


def test_figures_that_are_not_finite_are_refused_in_words(tmp_path):
    with pytest.raises(SsmtlError, match="not written: the network's output is not finite; lower the learning rate"):
        weights.write(tmp_path / "w.safetensors", {"a": torch.ones(2)}, {"probe": [float("nan")]})
    assert list(tmp_path.iterdir()) == []

"""Checks of exports, on a small backbone and on a head on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssmtl_toolkit.data.classes import Classes, LabelClass
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.downstream.model import ModelSpec
from ssmtl_toolkit.engine.backbone import Traceable
from ssmtl_toolkit.engine.export import Exported
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.exporting.export import README, missing_packages, write
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.usage import Answer, Usage
from ssmtl_toolkit.specs import BackboneSpec, ExportSpec, HeadSpec
from ssmtl_toolkit.testing.case import Bench, check, fail, require

_SIZE = 32
_KINDS = {"backbone", "model"}


def _here(spec: ExportSpec) -> bool:
    return not missing_packages(spec)


@check(ExportSpec, "it says what it takes, and how near its outputs come")
def it_says_what_it_takes(bench: Bench) -> None:
    spec = _spec(bench)
    takes = spec.takes
    require(bool(takes) and takes <= _KINDS, f"takes is {takes!r}; give a set of 'backbone' and 'model'")
    near = spec.tolerance
    require(0 < near <= 1e-2, f"tolerance is {near!r}; outputs are relative to the largest: give 1e-5, or up to 1e-2")


@check(ExportSpec, "what it writes computes the same in its library", applies=_here)
def it_computes_the_same(bench: Bench) -> None:
    for exported, folder in _written(bench):
        require((folder / README).is_file(), f"it removes {README} of its folder; leave it there")
        files = [file for file in folder.iterdir() if file.name not in (README, "usage.json")]
        require(bool(files), "it writes nothing; write into the folder that write() is given")
        require(not exported.module.training, "it leaves the network in training mode; do not change it")


@check(ExportSpec, "it opens what it has written", applies=_here)
def it_opens_its_folder(bench: Bench) -> None:
    spec = _spec(bench)
    for exported, folder in _written(bench):
        images = exported.images(2)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = [theirs.clone() for _, theirs in spec.outputs(exported, folder, images)]
            for parameter in exported.module.parameters():
                parameter.add_(0.1)
            pairs = list(spec.outputs(exported, folder, images))
        if not all(torch.equal(old, theirs) for old, (_, theirs) in zip(before, pairs, strict=True)):
            fail("its second outputs change with `exported`: the second of each pair must come from the folder alone")
        if all(torch.equal(ours, theirs) for ours, theirs in pairs):
            fail("its outputs are equal whatever the folder holds; the first of each pair is what `exported` computes")


@check(ExportSpec, "it writes nothing outside its folder", applies=_here)
def it_writes_inside(bench: Bench) -> None:
    names = {folder.name for _, folder in _written(bench)}
    left = {path.name for path in bench.folder.iterdir()} - names
    require(not left, f"it writes {', '.join(sorted(left))} beside its folder; write into the folder alone")


def _spec(bench: Bench) -> ExportSpec:
    assert isinstance(bench.spec, ExportSpec)
    return bench.spec


def _written(bench: Bench) -> Iterator[tuple[Exported, Path]]:
    """What is exported, and the folder that it was written into, for each kind that the export takes."""
    spec, refused = _spec(bench), list[str]()
    for kind in sorted(spec.takes):
        for text in ("unet:encoder=resnet18", "unet:encoder=plain,width=4"):
            exported, folder = _example(text, kind), bench.folder / f"{kind}-{len(refused)}"
            folder.mkdir()
            try:
                write(spec, exported, folder)
            except UsageError as error:
                refused.append(str(error))
                continue
            except SsmtlError as error:
                fail(str(error))
            yield exported, folder
            break
        else:
            fail(f"it refuses U-Nets with encoder resnet18 and plain: {refused[-1]}; check what it can write")


def _example(text: str, kind: str) -> Exported:
    """A small network with random weights, as if it had been trained on axial slices."""
    plugins = registry()
    spec = plugins.resolve(BackboneSpec, text)
    slicing = Slicing(axis="axial", size=_SIZE)
    classes = Classes((LabelClass("a", (1,)), LabelClass("b", (2,))))
    model_spec = ModelSpec(spec, plugins.resolve(HeadSpec, "segmentation"), slicing, classes, 1)
    torch.manual_seed(0)
    model = model_spec.build().eval()
    is_model = kind == "model"
    usage = Usage.of(slicing, 1, [("axial", 1.0)], Answer.of(classes) if is_model else Answer(kind="features"))
    about: dict[str, Any] = {"version": "0", "backbone": plugins.origin(spec), "prepare": {"size": _SIZE}}
    about |= {"head": plugins.origin(model_spec.head)} if is_model else {}
    module: nn.Module = model if is_model else _Dense(model.backbone)

    def save(file: Path, digests: bool) -> None:
        from safetensors.torch import save_file

        save_file((model if is_model else model.backbone).state_dict(), file)

    return Exported(
        spec=spec,
        backbone=model.backbone,
        head=model.head if is_model else None,
        module=module.eval(),
        about=about,
        usage=usage.model_dump(mode="json"),
        card="# A network of a check\n\nIts weights are random.\n",
        folder=Path(),
        save=save,
    )


class _Dense(Traceable):
    """The dense map alone, as `load_backbone` gives it."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(image)[0]

"""Bundled exports: torch programs, ONNX, timm, MONAI bundles, folders for the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import Exportable, ExportSpec

if TYPE_CHECKING:
    from torch import Tensor

    from ssmtl_toolkit.engine.export import Exported

Pairs = Iterable[tuple["Tensor", "Tensor"]]


class Torch(ExportSpec):
    """A program of `torch.export` (model.pt2): opened by torch alone, for any number of slices and most sizes.

    A fine-tuned model comes with predict.py, which makes a label map of a scan without this package.
    """

    name: ClassVar[str] = "torch"

    def write(self, exported: Exported, folder: Path) -> str:
        from ssmtl_export.programs import write_program

        return write_program(exported, folder)

    def outputs(self, exported: Exported, folder: Path, images: Tensor) -> Pairs:
        from ssmtl_export.programs import open_program

        yield exported.module(images), open_program(folder)(images)


class Onnx(ExportSpec):
    """An ONNX graph (model.onnx), for any number and size of slices that the network takes; for onnxruntime and others.

    Its metadata hold `usage`: how slices are prepared and what the maps mean.
    """

    name: ClassVar[str] = "onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    extra: ClassVar[str] = "'ssmtl-toolkit[onnx]'"
    tolerance: ClassVar[float] = 1e-4

    opset: int = Field(18, ge=18, le=99, description="Version of ONNX's operators.")

    def write(self, exported: Exported, folder: Path) -> str:
        from ssmtl_export.graphs import write_graph

        return write_graph(exported, folder, self.opset)

    def outputs(self, exported: Exported, folder: Path, images: Tensor) -> Pairs:
        from ssmtl_export.graphs import run_graph

        for given in (images, exported.images(2, larger=True)):
            yield exported.module(given), run_graph(folder, given)


class Timm(ExportSpec):
    """The encoder as a folder for `timm.create_model("local-dir:…")`, if timm has that network."""

    name: ClassVar[str] = "timm"

    network: str = Field("", description="timm's name of it; by default that of the backbone's encoder.")

    def write(self, exported: Exported, folder: Path) -> str:
        from ssmtl_export.encoders import write_encoder

        return write_encoder(exported, folder, self.network or str(getattr(exported.spec, "encoder", "")))

    def outputs(self, exported: Exported, folder: Path, images: Tensor) -> Pairs:
        from ssmtl_export.encoders import maps_of

        theirs = maps_of(folder, images)
        return zip(exported.backbone(images).pyramid[-len(theirs) :], theirs, strict=True)


class Monai(ExportSpec):
    """A MONAI bundle of a fine-tuned model: scans in, label maps out, by MONAI's own transforms and inferers."""

    name: ClassVar[str] = "monai"
    takes: ClassVar[frozenset[Exportable]] = frozenset({"model"})
    packages: ClassVar[tuple[str, ...]] = ("monai",)
    extra: ClassVar[str] = "'ssmtl-toolkit[metrics]'"

    def write(self, exported: Exported, folder: Path) -> str:
        from ssmtl_export.bundles import write_bundle

        return write_bundle(exported, folder)

    def outputs(self, exported: Exported, folder: Path, images: Tensor) -> Pairs:
        from ssmtl_export.bundles import network_of

        yield exported.module(images), network_of(folder)(images)


class Hf(ExportSpec):
    """A folder for the Hugging Face hub: weights, config.json and a model card; sent there only if `push` says where.

    `--from hf://USER/NAME` fetches it again.
    """

    name: ClassVar[str] = "hf"
    packages: ClassVar[tuple[str, ...]] = ("huggingface_hub",)
    extra: ClassVar[str] = "'ssmtl-toolkit[hf]'"

    push: str = Field("", description="Send it to this repository, USER/NAME, as the user who is logged in there.")
    public: bool = Field(False, description="Make a new repository public.")
    licence: str = Field("", description="Licence of the weights by its name on the hub, such as cc-by-4.0.")
    digests: bool = Field(
        False, description="Keep the digests of scans, by which who has a scan can tell that it was used."
    )
    pictures: bool = Field(False, description="Add the pictures of the run folder; they may show scans.")

    def write(self, exported: Exported, folder: Path) -> str:
        from ssmtl_export.hub import write_repository

        return write_repository(self, exported, folder)

    def outputs(self, exported: Exported, folder: Path, images: Tensor) -> Pairs:
        from ssmtl_export.hub import differing

        yield from differing(exported, folder)

    def publish(self, folder: Path) -> str:
        from ssmtl_export.hub import push

        return push(self, folder) if self.push else ""


@hookimpl
def ssmtl_exports() -> list[type[ExportSpec]]:
    return [Torch, Onnx, Timm, Monai, Hf]

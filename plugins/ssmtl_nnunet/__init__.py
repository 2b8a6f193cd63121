"""nnU-Net's own 2-D networks as backbones, and their weights as nnU-Net takes them: encoder and decoder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.places import user_path
from ssmtl_toolkit.specs import BackboneSpec, ExportSpec
from ssmtl_toolkit.text import brief, printable

if TYPE_CHECKING:
    from torch import Tensor

    from ssmtl_toolkit.engine.backbone import Backbone
    from ssmtl_toolkit.engine.export import Exported

_PACKAGE = "dynamic_network_architectures"
_NUMBERS = r"^[0-9]{1,4}(\+[0-9]{1,4})*$"
_SIDES = r"^[0-9]{1,4}(x[0-9]{1,4})?(\+[0-9]{1,4}(x[0-9]{1,4})?)*$"
_LEAST, _MOST, _FIRST, _SMALLEST = 2, 512, 32, 4  # stages, channels, channels of the first stage, pixels of the last
_KINDS = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual"}


class NnUnet(BackboneSpec):
    """nnU-Net's U-Net in 2-D (dynamic-network-architectures): of a plans.json, or as nnU-Net plans for a patch size.

    Pre-trained here, `ssmtl export --to nnunet` writes what `nnUNetv2_train -pretrained_weights` takes.
    """

    name: ClassVar[str] = "nnunet"

    kind_of: Literal["plain", "residual"] = Field("plain", description="PlainConvUNet or ResidualEncoderUNet.")
    features: str = Field("32+64+128+256+512+512", pattern=_NUMBERS, description="Channels of each stage.")
    strides: str = Field("1+2+2+2+2+2", pattern=_SIDES, description="Stride of each stage; 2x1: of rows and columns.")
    kernels: str = Field("3+3+3+3+3+3", pattern=_SIDES, description="Kernel of each stage, as strides.")
    blocks: str = Field("2+2+2+2+2+2", pattern=_NUMBERS, description="Convolutions, or residual blocks, of each stage.")
    decoder: str = Field("2+2+2+2+2", pattern=_NUMBERS, description="Convolutions of each stage of the decoder.")

    @model_validator(mode="before")
    @classmethod
    def _from_plans(cls, options: Any) -> Any:
        if not isinstance(options, Mapping) or not {"plans", "size"} & options.keys():
            return options
        given = dict(options)
        plans, size, configuration = given.pop("plans", None), given.pop("size", None), given.pop("configuration", "2d")
        if plans is not None and size is not None:
            raise ValueError("plans and size both say what the network is; give one")
        return (_of_plans(Path(str(plans)), str(configuration)) if plans is not None else _of_size(size)) | given

    @model_validator(mode="after")
    def _as_long(self) -> NnUnet:
        lengths = {name: len(getattr(self, name).split("+")) for name in ("features", "strides", "kernels", "blocks")}
        if len({*lengths.values()}) > 1 or len(self.decoder.split("+")) != lengths["features"] - 1:
            raise ValueError(f"stages differ in number: {lengths}; decoder has one less; give plans=… or size=…")
        return self

    def build(self, in_channels: int) -> Backbone:
        if find_spec(_PACKAGE) is None:
            raise UsageError(
                "backbone nnunet needs dynamic-network-architectures, which is not installed: pip install "
                "'ssmtl-toolkit[nnunet]'"
            )
        from ssmtl_nnunet.module import build

        return build(self, in_channels)


def _of_size(size: Any) -> dict[str, str]:
    """As nnU-Net plans: halve until a side has 4 to 7 pixels; channels double from 32 to 512."""
    if re.fullmatch("[0-9]{1,4}", str(size)) is None:
        raise ValueError(f"size should be a number of pixels up to 9999, such as 256, got {brief(size)}")
    side = int(size)
    number = 1
    while side // 2**number >= _SMALLEST:
        number += 1
    if number < _LEAST:
        raise ValueError(f"size {side} is too small; give at least {_SMALLEST * 2} pixels")
    return {
        "features": "+".join(str(min(_FIRST * 2**i, _MOST)) for i in range(number)),
        "strides": "+".join(["1"] + ["2"] * (number - 1)),
        "kernels": "+".join(["3"] * number),
        "blocks": "+".join(["2"] * number),
        "decoder": "+".join(["2"] * (number - 1)),
    }


def _of_plans(file: Path, configuration: str) -> dict[str, str]:
    """The network of a configuration in nnU-Net's plans."""
    try:
        return _network(file, read_json(user_path(file))["configurations"], configuration)
    except (OSError, LookupError, TypeError, AttributeError, UnicodeDecodeError, JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ValueError(f"{printable(file)}: cannot be read as nnU-Net's plans ({reason})") from error


def _network(file: Path, found: dict[str, Any], configuration: str) -> dict[str, str]:
    if configuration not in found or "architecture" not in found[configuration]:
        known = ", ".join(name for name in found if "architecture" in found[name])
        raise ValueError(f"{printable(file)}: has no configuration {configuration!r} with a network; it has {known}")
    architecture = found[configuration]["architecture"]
    kind, options = architecture["network_class_name"].rpartition(".")[2], architecture["arch_kwargs"]
    if kind not in _KINDS or not str(options.get("conv_op", "")).endswith("Conv2d"):
        what = f"{kind} of {options.get('conv_op')}"
        raise ValueError(f"{printable(file)}: its {configuration!r} is a {what}; a U-Net of nnU-Net in 2-D is wanted")
    blocks = options["n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"]
    return {
        "kind_of": _KINDS[kind],
        "features": "+".join(map(str, options["features_per_stage"])),
        "strides": "+".join(map(_side, options["strides"])),
        "kernels": "+".join(map(_side, options["kernel_sizes"])),
        "blocks": "+".join(map(str, blocks)),
        "decoder": "+".join(map(str, options["n_conv_per_stage_decoder"])),
    }


def _side(pair: Any) -> str:
    rows, columns = pair if isinstance(pair, list | tuple) else (pair, pair)
    return str(rows) if rows == columns else f"{rows}x{columns}"


class NnUnetExport(ExportSpec):
    """A file for `nnUNetv2_train -pretrained_weights`: encoder and decoder of backbone `nnunet`."""

    name: ClassVar[str] = "nnunet"
    packages: ClassVar[tuple[str, ...]] = (_PACKAGE,)
    extra: ClassVar[str] = "'ssmtl-toolkit[nnunet]'"

    def write(self, exported: Exported, folder: Path) -> str:
        from ssmtl_nnunet.module import write_weights

        if not isinstance(exported.spec, NnUnet):
            raise UsageError(
                f"export 'nnunet': backbone {exported.spec.name!r} is not nnU-Net's network; pre-train with --backbone "
                f"nnunet:plans=nnUNetPlans.json"
            )
        return write_weights(exported, folder)

    def outputs(self, exported: Exported, folder: Path, images: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        from ssmtl_nnunet.module import decoded

        assert isinstance(exported.spec, NnUnet)
        yield exported.backbone(images).decoded[0], decoded(exported.spec, folder, images)


@hookimpl
def ssmtl_backbones() -> list[type[BackboneSpec]]:
    return [NnUnet]


@hookimpl
def ssmtl_exports() -> list[type[ExportSpec]]:
    return [NnUnetExport]

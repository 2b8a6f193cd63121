"""The metadata of our weights files: which keys there are, of which types, within which bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import Field

from ssmtl_toolkit.data.slicing import LARGEST, Slicing
from ssmtl_toolkit.features import Part
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.usage import Usage
from ssmtl_toolkit.runtime.weights import About
from ssmtl_toolkit.specs import PreparationSpec, Spec

_Numbers = Annotated[list[float], Field(min_length=1, max_length=1024)]


_Channels = Annotated[int, Field(ge=1, le=1024)]


class Origin(About):
    """A spec and the distribution that it comes from, as `Registry.origin` returns it."""

    spec: str
    distribution: str
    version: str


def slicing_about(slicing: Slicing) -> dict[str, Any]:
    """What metadata say of how slices are made; `restored_slicing` reads it."""
    return {
        "prepare": slicing.model_dump(mode="json", exclude={"prepare"}),
        "preparations": [registry().origin(spec) for spec in slicing.preparations],
    }


def restored_slicing(
    prepare: Slicing, preparations: Sequence[Origin], place: str, classes: Iterable[type[Spec]] = ()
) -> Slicing:
    """How the slices of the weights in the file `place` are made; `classes` as for `Registry.restore`.

    Raises:
        UsageError: a preparation is not installed, or names a path or URL.
    """
    plugins = registry()
    specs = [plugins.restore(PreparationSpec, described.model_dump(), place, classes) for described in preparations]
    return prepare.model_copy(update={"prepare": tuple(specs)})


class Scans(About):
    """The scans that were seen; `digests` holds 16 digits each of the sha256 of their files, and of their voxels'."""

    number: int
    fingerprint: str
    digests: list[str]


class Fingerprint(About):
    """What the network makes of a fixed image, as `fingerprint` returns it."""

    size: int = Field(ge=1, le=LARGEST)
    pooled: _Numbers
    dense: _Numbers | None = None


class Probed(About):
    """By which labelled scans the step was chosen: as in `Scans.digests`, and its mean IoU."""

    digests: list[str]
    iou: float


class Pretraining(About):
    """The metadata of a backbone.safetensors, or of best.safetensors, which `probe` has chosen.

    Attributes:
        learned: as in `Model`, of the fine-tuned model that it started from, or of the probe that chose its step.
    """

    version: str
    backbone: Origin
    tasks: list[Origin]
    balancer: Origin
    prepare: Slicing
    preparations: tuple[Origin, ...] = ()
    channels: _Channels = 1
    usage: Usage | None = None
    trained: list[Part]
    scans: Scans
    fingerprint: Fingerprint
    probe: Probed | None = None
    learned: tuple[str, ...] = ()
    step: int
    seed: int
    torch: str


class LabelClass(About):
    """A class and its values in label files."""

    name: str
    values: list[int]


class LabelClasses(About):
    """What `Classes.to_json` returns."""

    classes: list[LabelClass]
    background: list[int]
    ignore: int | None
    known: tuple[LabelClass, ...] = ()


class UnlabelledScans(About):
    """What `--semi` learned from: scans of validation and test patients are those kept from it, or seen by it.

    Attributes:
        digests: as in `Scans`.
    """

    scans: int
    slices: int
    held_out: int
    validation_seen: int
    test_seen: int
    fingerprint: str
    digests: tuple[str, ...] = ()


class Model(About):
    """The metadata of a model.safetensors.

    Attributes:
        augment: specs of the augmentations that it was trained with.
        semi: the method that learned from unlabelled scans, and its pretext tasks.
        largest_component: classes whose largest part alone was better on the validation scans; None without these.
        learned: as in `Scans.digests`, of the scans that it was trained and validated on, and the model that it started
            from; None: not recorded.
        pretraining: the metadata of its backbone's file; not used.
    """

    version: str
    backbone: Origin
    head: Origin
    prepare: Slicing
    preparations: tuple[Origin, ...] = ()
    channels: _Channels = 1
    usage: Usage | None = None
    contrasts: tuple[str, ...] = ()
    classes: LabelClasses | None
    arm: str = ""
    seed: int = 0
    augment: tuple[str, ...] = ()
    semi: tuple[Origin, ...] = ()
    largest_component: tuple[str, ...] | None = None
    unlabelled: UnlabelledScans | None = None
    learned: tuple[str, ...] | None = None
    pretraining: dict[str, Any] | None = None

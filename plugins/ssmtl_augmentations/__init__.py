"""Bundled augmentations: slices turned, stretched, bent, brightened, blurred, mixed. Sizes are as small slices bear."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import AugmentationSpec, Change

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.augmentation import Augmentation

_PLACE: frozenset[Change] = frozenset({"place"})
_VALUES: frozenset[Change] = frozenset({"values"})


class Affine(AugmentationSpec):
    """Turn a slice about its centre, shift it and shear it."""

    name: ClassVar[str] = "affine"
    changes: ClassVar[frozenset[Change]] = _PLACE

    p: float = Field(0.5, gt=0, le=1, description="Probability that a slice is changed.")
    rotate: float = Field(15.0, ge=0, le=180, description="Largest angle, degrees, either way.")
    shift: float = Field(0.1, ge=0, le=1, description="Largest shift along each axis, as a share of the slice.")
    shear: float = Field(0.0, ge=0, le=1, description="Largest shear, columns per row, either way.")

    def build(self) -> Augmentation:
        from ssmtl_augmentations.place import Moved

        return Moved(self.rotate, self.shift, self.shear)


class Scale(AugmentationSpec):
    """Show a slice larger or smaller."""

    name: ClassVar[str] = "scale"
    changes: ClassVar[frozenset[Change]] = _PLACE

    p: float = Field(0.5, gt=0, le=1, description="Probability that a slice is changed.")
    by: float = Field(1.25, gt=1, le=4, description="Largest factor, larger or smaller.")
    stretch: float = Field(1.0, ge=1, le=4, description="Largest ratio of the two axes' factors.")

    def build(self) -> Augmentation:
        from ssmtl_augmentations.place import Scaled

        return Scaled(self.by, self.stretch)


class Elastic(AugmentationSpec):
    """Bend a slice by a smooth field of shifts, drawn at the nodes of a lattice."""

    name: ClassVar[str] = "elastic"
    changes: ClassVar[frozenset[Change]] = _PLACE

    shift: float = Field(0.04, gt=0, le=1, description="Standard deviation of a node's shift, as a share of the slice.")
    cells: int = Field(4, ge=2, le=64, description="Number of nodes along each axis.")

    def build(self) -> Augmentation:
        from ssmtl_augmentations.place import Bent

        return Bent(self.shift, self.cells)


class Flip(AugmentationSpec):
    """Mirror a slice. Only for anatomy that looks alike from both sides: left and right organs change places."""

    name: ClassVar[str] = "flip"
    changes: ClassVar[frozenset[Change]] = _PLACE

    p: float = Field(0.5, gt=0, le=1, description="Probability that a slice is mirrored.")
    axes: Literal["lr", "ud", "both"] = Field(
        "lr", description="lr: left to right; ud: top to bottom; both: either way, or both ways at once."
    )

    def build(self) -> Augmentation:
        from ssmtl_augmentations.place import Flipped

        return Flipped(self.axes)


class Intensity(AugmentationSpec):
    """Multiply a slice and add to it."""

    name: ClassVar[str] = "intensity"
    changes: ClassVar[frozenset[Change]] = _VALUES

    scale: float = Field(0.25, ge=0, lt=1, description="The factor is drawn from 1 - scale to 1 + scale.")
    shift: float = Field(0.25, ge=0, description="Largest number added; slices have unit variance.")

    def build(self) -> Augmentation:
        from ssmtl_augmentations.values import Brightened

        return Brightened(self.scale, self.shift)


class Contrast(AugmentationSpec):
    """Spread the values of a slice about their mean, or narrow them, within their range."""

    name: ClassVar[str] = "contrast"
    changes: ClassVar[frozenset[Change]] = _VALUES

    by: float = Field(1.33, gt=1, description="Largest factor, either way.")

    def build(self) -> Augmentation:
        from ssmtl_augmentations.values import Contrasted

        return Contrasted(self.by)


class Gamma(AugmentationSpec):
    """Raise the values of a slice, seen as 0 to 1 between its smallest and largest, to a power."""

    name: ClassVar[str] = "gamma"
    changes: ClassVar[frozenset[Change]] = _VALUES

    by: float = Field(1.5, gt=1, description="Largest power; the smallest is its inverse.")
    invert: float = Field(
        0.25, ge=0, le=1, description="Share of slices in which the dark and the bright end swap roles."
    )

    def build(self) -> Augmentation:
        from ssmtl_augmentations.values import Powered

        return Powered(self.by, self.invert)


class Noise(AugmentationSpec):
    """Add Gaussian noise."""

    name: ClassVar[str] = "noise"
    changes: ClassVar[frozenset[Change]] = _VALUES

    sigma: float = Field(0.3, gt=0, description="Largest standard deviation; slices have unit variance.")

    def build(self) -> Augmentation:
        from ssmtl_augmentations.values import Noisy

        return Noisy(self.sigma)


class Blur(AugmentationSpec):
    """Blur a slice by a Gaussian."""

    name: ClassVar[str] = "blur"
    changes: ClassVar[frozenset[Change]] = _VALUES

    sigma: float = Field(1.0, gt=0, le=16, description="Largest standard deviation, pixels.")

    def build(self) -> Augmentation:
        from ssmtl_augmentations.values import Blurred

        return Blurred(self.sigma)


class LowResolution(AugmentationSpec):
    """Show a slice as if it had been scanned with larger pixels."""

    name: ClassVar[str] = "low_resolution"
    changes: ClassVar[frozenset[Change]] = _VALUES

    by: float = Field(2.0, gt=1, le=16, description="Largest factor on the size of pixels.")

    def build(self) -> Augmentation:
        from ssmtl_augmentations.values import Coarse

        return Coarse(self.by)


class CutMix(AugmentationSpec):
    """Paste a box of another slice, with its labels (Yun et al., 2019)."""

    name: ClassVar[str] = "cutmix"
    changes: ClassVar[frozenset[Change]] = frozenset({"batch"})

    share: float = Field(0.5, gt=0, le=1, description="Largest share of the slice's area that a box takes.")

    def build(self) -> Augmentation:
        from ssmtl_augmentations.batch import Pasted

        return Pasted(self.share)


@hookimpl
def ssmtl_augmentations() -> list[type[AugmentationSpec]]:
    return [Affine, Scale, Elastic, Flip, Intensity, Contrast, Gamma, Noise, Blur, LowResolution, CutMix]

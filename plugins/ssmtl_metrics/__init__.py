"""Bundled metrics: IoU, Dice, HD95 and surface Dice of label maps, PSNR and SSIM of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import MetricSpec, Output

if TYPE_CHECKING:
    from ssmtl_toolkit.engine.metric import Comparison


class IoU(MetricSpec):
    """Intersection over union, pooled over all voxels of all scans (the paper's; its mean over classes is mIoU)."""

    name: ClassVar[str] = "iou"
    title: ClassVar[str] = "IoU"
    pooled: ClassVar[bool] = True
    mean_title: ClassVar[str] = "mIoU"

    def score(self, comparison: Comparison) -> float | None:
        return comparison.counts.iou


class Dice(MetricSpec):
    """Dice coefficient of each scan."""

    name: ClassVar[str] = "dice"
    title: ClassVar[str] = "Dice"

    def score(self, comparison: Comparison) -> float | None:
        return comparison.counts.dice


class HD95(MetricSpec):
    """Hausdorff distance, 95 %: that percentile of the distances between surface voxels, the larger of both ways."""

    name: ClassVar[str] = "hd95"
    title: ClassVar[str] = "HD95"
    unit: ClassVar[str] = "mm"
    digits: ClassVar[int] = 2
    higher_is_better: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ("monai",)

    def score(self, comparison: Comparison) -> float | None:
        from ssmtl_metrics.surfaces import hd95

        return hd95(comparison)


class SurfaceDice(MetricSpec):
    """Share of the surface voxels that are near the other surface (Nikolov et al. 2018, arXiv:1809.04430)."""

    name: ClassVar[str] = "surface_dice"
    title: ClassVar[str] = "surface Dice"
    packages: ClassVar[tuple[str, ...]] = ("monai",)

    tolerance: float = Field(1.0, ge=0, description="Distance up to which a surface voxel is right, mm.")

    def score(self, comparison: Comparison) -> float | None:
        from ssmtl_metrics.surfaces import surface_dice

        return surface_dice(comparison, self.tolerance)

    def remark(self) -> str:
        return f"within {self.tolerance:g} mm"


class PSNR(MetricSpec):
    """Peak signal-to-noise ratio of each slice; the peak is the range of the clean slice."""

    name: ClassVar[str] = "psnr"
    title: ClassVar[str] = "PSNR"
    unit: ClassVar[str] = "dB"
    digits: ClassVar[int] = 2
    output: ClassVar[Output] = "image"

    def score(self, comparison: Comparison) -> float | None:
        from ssmtl_metrics.images import of_slice, psnr

        return of_slice(psnr, comparison)


class SSIM(MetricSpec):
    """Structural similarity of each slice (Wang et al. 2004), in a Gaussian window of 11 pixels."""

    name: ClassVar[str] = "ssim"
    title: ClassVar[str] = "SSIM"
    output: ClassVar[Output] = "image"
    packages: ClassVar[tuple[str, ...]] = ("monai",)

    def score(self, comparison: Comparison) -> float | None:
        from ssmtl_metrics.images import of_slice, ssim

        return of_slice(ssim, comparison)


@hookimpl
def ssmtl_metrics() -> list[type[MetricSpec]]:
    return [IoU, Dice, HD95, SurfaceDice, PSNR, SSIM]

"""The losses: mean squared errors of a 1x1 convolution on the dense map of a corrupted slice."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_restore import Denoise as DenoiseSpec
from ssmtl_restore import Inpaint as InpaintSpec
from ssmtl_restore import Restore as RestoreSpec
from ssmtl_restore.corruptions import Mix, Noise
from ssmtl_toolkit.engine.baselines import trivial_answers
from ssmtl_toolkit.engine.masking import Masked, Masking
from ssmtl_toolkit.engine.step import Pictures, Step, TaskOutput


class Inpaint(nn.Module):
    """Mean over covered pixels p of (g(fθ(x'))_p - x_p)²: x a slice, x' the same with patches covered.

    Context encoders (Pathak et al. 2016, arXiv:1604.07379, eq. 1) without their adversarial loss, with the patches and
    the share of MAE (He et al. 2022, arXiv:2111.06377); for a U-Net and slices as in arXiv:2409.18100. Covered patches
    that show each other's pixels (`fill=swap`): context restoration, Chen et al. 2019, doi:10.1016/j.media.2019.101539.
    """

    def __init__(self, dense_channels: int, image_channels: int, spec: InpaintSpec) -> None:
        super().__init__()
        self.decode = nn.Conv2d(dense_channels, image_channels, kernel_size=1)
        self.masking = Masking(spec.mask, spec.patch, spec.fill)

    def forward(self, step: Step) -> TaskOutput:
        masked = self.masking.of(step)
        predicted = self.decode(step.encode(masked.image).dense).float()
        truth = step.clean.float()
        loss = _mean((predicted - truth).square(), masked.covered)
        return TaskOutput(loss, _trivial_answers(masked, truth), pairs=len(truth))

    def pictures(self, step: Step) -> Pictures:
        """The slice with patches covered, what comes of it, and the difference where it was covered."""
        masked = self.masking.of(step)
        predicted = self.decode(step.encode(masked.image).dense).float()
        error = (predicted - step.clean.float()) * masked.covered
        return Pictures({"seen": masked.image, "reconstruction": predicted}, {"error": error})


@torch.no_grad()
def _trivial_answers(masked: Masked, truth: Tensor) -> dict[str, Tensor]:
    """What zero costs on the covered pixels, and the mean of what is visible of each channel of each slice."""
    shown = (~masked.covered).sum(dim=(2, 3), keepdim=True)
    mean = masked.visible.float().sum(dim=(2, 3), keepdim=True) / shown
    answers = {"blank": truth, "mean": truth - mean}
    return {name: _mean(error.square(), masked.covered) for name, error in answers.items()}


def _mean(values: Tensor, covered: Tensor) -> Tensor:
    """The mean of values (N, C, H, W) over pixels (N, 1, H, W) and channels."""
    return (values * covered).sum() / (covered.sum() * values.shape[1])


class _GiveBack(nn.Module):
    """Mean over all pixels of (g(fθ(x')) - y)², where x' are slices corrupted and y is what to make of them."""

    def __init__(self, dense_channels: int, image_channels: int) -> None:
        super().__init__()
        self.decode = nn.Conv2d(dense_channels, image_channels, kernel_size=1)

    @abstractmethod
    def pair(self, step: Step) -> tuple[Tensor, Tensor]:
        """x' and y, (N, C, H, W)."""

    def forward(self, step: Step) -> TaskOutput:
        given, truth = self.pair(step)
        predicted = self.decode(step.encode(given).dense).float()
        loss = F.mse_loss(predicted, truth.float())
        return TaskOutput(loss, trivial_answers(given.float(), truth.float()), pairs=len(truth))

    def pictures(self, step: Step) -> Pictures:
        """x', y, what comes of x', and the difference."""
        given, truth = self.pair(step)
        predicted = self.decode(step.encode(given).dense).float()
        images = {"seen": given, "target": truth, "answer": predicted}
        return Pictures(images, {"error": predicted - truth.float()})


class Denoise(_GiveBack):
    """x' = x + σn with n ~ N(0, 1) for each pixel; y = n, or y = x with `predict=image`.

    Denoising autoencoders (Vincent et al. 2010, JMLR 11:3371); as pre-training for segmentation with few labels, with
    one σ and the noise to be predicted: Brempong et al. 2022, arXiv:2205.11423.
    """

    def __init__(self, dense_channels: int, image_channels: int, spec: DenoiseSpec) -> None:
        super().__init__(dense_channels, image_channels)
        self.noise, self.predict = Noise(*spec.levels()), spec.predict

    def pair(self, step: Step) -> tuple[Tensor, Tensor]:
        noisy = self.noise.of(step)
        return noisy.image, noisy.noise if self.predict == "noise" else step.clean


class Restore(_GiveBack):
    """x' = x after a mix of corruptions, each by chance; y = x.

    Our own mix of generic parts: rising intensity curves, Gaussian blur, PatchShuffle (Kang et al. 2017,
    arXiv:1707.07103), Gaussian noise, Cutout (DeVries and Taylor 2017, arXiv:1708.04552).
    """

    def __init__(self, dense_channels: int, image_channels: int, spec: RestoreSpec) -> None:
        super().__init__(dense_channels, image_channels)
        self.mix = Mix(spec.curve, spec.blur, spec.shuffle, spec.noise, spec.cutout)

    def pair(self, step: Step) -> tuple[Tensor, Tensor]:
        return self.mix.of(step), step.clean

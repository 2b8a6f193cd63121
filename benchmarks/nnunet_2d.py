"""Train nnU-Net 2-D for a given time of one core, and predict; peers.py runs it in the environment that it has made.

Where the planned data are and where the training may write is in nnU-Net's own environment variables, as is that
augmentation is done in the process that trains (nnUNet_n_proc_DA=0): its time is counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # type: ignore[import-not-found]
from nnunetv2.paths import nnUNet_preprocessed  # type: ignore[import-not-found]
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # type: ignore[import-not-found]

CPU = torch.device("cpu")


class TimedTrainer(nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's own training, ended by the CPU time it took: without validation, with its poly schedule over time."""

    mirroring = True
    bf16 = False

    @classmethod
    def of(cls, planned: Path, seconds: float, mirroring: bool, bf16: bool) -> TimedTrainer:
        """For planned data; all labelled scans are trained on ("all")."""
        plans, dataset = (json.loads((planned / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
        trainer = cls({**plans, "continue_training": False}, "2d", "all", dataset, CPU)
        trainer.num_epochs = seconds  # a second is an epoch, so that the rate falls to 0 just when the time is over
        trainer.mirroring, trainer.bf16 = mirroring, bf16
        return trainer

    def initialize(self) -> None:
        """Build the network, which computes in bf16 if asked to: on GPUs nnU-Net uses mixed precision as well."""
        super().initialize()
        if self.bf16:
            self.network.forward = in_bf16(self.network.forward)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """What nnU-Net does, or, as in its variant nnUNetTrainerNoMirroring, the same without mirroring."""
        rotation, dummy, size, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if not self.mirroring:
            axes = self.inference_allowed_mirroring_axes = None
        return rotation, dummy, size, axes

    def plot_network_architecture(self) -> None:
        """Plot nothing."""

    def run_training(self) -> dict[str, Any]:
        """Train until the time is over; returns what it was."""
        self.on_train_start()
        self.network.train()
        losses, began = [], time.process_time()
        while (used := time.process_time() - began) < self.num_epochs:
            self.lr_scheduler.step(used)
            losses.append(float(self.train_step(next(self.dataloader_train))["loss"]))
        self.set_deep_supervision_enabled(False)
        return {
            "minutes": round(used / 60, 2),
            "iterations": len(losses),
            "loss": [round(float(np.mean(part)), 3) for part in (losses[:10], losses[-10:])],
            "patch": self.configuration_manager.patch_size,
            "batch": self.batch_size,
            "spacing": self.configuration_manager.spacing,
            "axes": self.plans_manager.transpose_forward,
            "parameters": sum(one.numel() for one in self.network.parameters()),
        }


def in_bf16(forward: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    """The same in mixed precision, with maps in float32; with deep supervision a network returns a list of them."""
    mixed = torch.autocast("cpu", torch.bfloat16)(forward)

    def float32(maps: Any) -> Any:
        return [one.float() for one in maps] if isinstance(maps, list) else maps.float()

    return lambda images: float32(mixed(images))


def predict(trainer: TimedTrainer, images: Path, out: Path, mirroring: bool) -> None:
    """Predict all images as nnU-Net does, by default with mirroring."""
    out.mkdir(parents=True, exist_ok=True)
    predictor = nnUNetPredictor(use_mirroring=mirroring, device=CPU, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    predictor.predict_from_files_sequential(str(images), str(out))


def main() -> None:
    """Train and predict with and without mirroring, or only without; report.json says what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", help="its name, as nnU-Net knows it")
    parser.add_argument("images", type=Path, help="those to predict")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, required=True, help="of CPU time to train for")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--no-mirroring", action="store_true", help="neither in training nor in prediction")
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.manual_seed(given.seed)
    np.random.seed(given.seed)  # what nnU-Net draws by
    planned = Path(nnUNet_preprocessed) / given.dataset
    trainer = TimedTrainer.of(planned, given.seconds, not given.no_mirroring, given.bf16)
    report = trainer.run_training()
    for mirroring in (False,) if given.no_mirroring else (True, False):
        predict(trainer, given.images, given.out / ("mirrored" if mirroring else "unmirrored"), mirroring)
    (given.out / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()

"""Updates by every balancer on made-up batches: alone, or by torchrun on two ranks, each with half of every batch.

torchrun --standalone --nproc-per-node 2 tests/helpers/two_ranks.py FOLDER
"""

import sys
import time
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import save_file
from torch import nn

from ssmtl_toolkit.config import RunConfig, Training
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.balancer import PairMeans
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.ranks import sum_over_ranks
from ssmtl_toolkit.engine.step import Batch, Companion
from ssmtl_toolkit.pretraining.update import Updater
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.layout import choose_layout
from ssmtl_toolkit.runtime.log import RunningMeans
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import BackboneSpec, BalancerSpec, TaskSpec

PREV, NEXT, SIAM = "reconstruct_prev:t=2", "reconstruct_next:t=2,weight=0.5", "slice_siam:t=2"
TASKS = (PREV, NEXT, SIAM)
BALANCERS = (
    *("fixed", "uncertainty", "dwa:window=1", "rlw", "famo"),
    *("pcgrad:at=features", "pcgrad", "upgrad", "upgrad:at=features", "mgda", "mgda:at=backbone"),
)
AUTO = (PREV, NEXT, "slice_siam:t=2,weight=auto")
ACCUMULATE, UPDATES = 2, 3


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, image):
        first = torch.tanh(self.first(image))
        return [image, first, torch.tanh(self.second(first))]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.join = nn.ConvTranspose2d(6, 4, 2, stride=2), nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, maps):
        return torch.tanh(self.join(torch.cat([maps[1], self.up(maps[2])], dim=1)))


class Toy(BackboneSpec):
    """Without batch norm: a batch gives what its halves give."""

    name: ClassVar[str] = "toy"

    def build(self, in_channels):
        return Backbone(Encoder(), Decoder(), in_channels, 6, 5)


def specs_of(tasks):
    return [registry().resolve(TaskSpec, task) for task in tasks]


def model_of(balancer, tasks=TASKS):
    torch.manual_seed(0)
    return MultiTask.build(Toy(), specs_of(tasks), registry().resolve(BalancerSpec, balancer), 1).train()


def batch_of(index, tasks=TASKS, number=8, part=slice(None), first=True):
    """Anchors with a companion for each task, those of `part` of the batch alone."""
    draws = torch.randn(len(tasks) + 1, number, 1, 8, 8, generator=torch.Generator().manual_seed(100 + index))
    images = [draw[part] for draw in draws]
    offsets = torch.zeros(len(images[0]), dtype=torch.long)
    names = ["positive" if "siam" in task else "target" for task in tasks]
    named = {
        task: {name: Companion(image, offsets)} for task, name, image in zip(tasks, names, images[1:], strict=True)
    }
    return Batch(images[0], named, seed=7 + index, first=first)


UNEVEN = ((0, 1, 2, 3, 4), (1, 2))
"""Which of the 8 anchors of two batches have a slice before them: 4 of one rank and 1 of the other; 2 and none."""


def uneven_of(index, tasks=TASKS, part=slice(None), first=True):
    """Such a batch in which few anchors have a slice before them."""
    batch = batch_of(index, tasks, part=part, first=first)
    rows = torch.tensor([i for i, row in enumerate(range(8)[part]) if row in UNEVEN[index]], dtype=torch.long)
    whole = batch.companions[PREV]["target"]
    batch.companions[PREV]["target"] = Companion(whole.image[rows], whole.offsets[rows], rows)
    return batch


def updater_of(fabric, balancer, tasks=TASKS, lr=0.1, make=batch_of, **options):
    """An updater on such batches, by plain gradient descent."""
    model = model_of(balancer, tasks)
    wrapped, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=lr))
    rank, own = fabric.global_rank, 8 // fabric.world_size
    part = slice(rank * own, (rank + 1) * own)
    config = RunConfig.of({"gradient_norms": True, "log_every": 1, "accumulate": ACCUMULATE, **options})
    specs = specs_of(tasks)
    window = RunningMeans({str(task): task.metrics for task in specs}, sum_over_ranks)

    def load(index):
        return make(index, tasks, part=part, first=index % config.accumulate == 0)

    weights = {str(task): task.given_weight for task in specs}
    return Updater(fabric, config, wrapped, optimizer, load, window, weights)


def train_all(fabric):
    """What each balancer tells after each update, and all weights and buffers at the end."""
    found = {}
    cases = {balancer: (balancer, TASKS) for balancer in BALANCERS}
    cases |= {f"auto {balancer}": (balancer, AUTO) for balancer in ("fixed", "uncertainty")}
    for name, case in cases.items():
        update = updater_of(fabric, *case)
        for step in range(UPDATES):
            update(step)
            found |= {f"{name} {step} {k}": torch.tensor(v) for k, v in update.extra_metrics().items()}
        found |= {f"{name} {k}": v.detach().clone() for k, v in update.model.state_dict().items()}
    return found


def train_unevenly(fabric):
    """All weights after one update on batches with unequal numbers of pairs."""
    update = updater_of(fabric, "fixed", make=uneven_of)
    update(0)
    return {name: p.detach().clone() for name, p in update.model.named_parameters()}


class Busy(nn.Module):
    """Computes `factor` times as long in channels last as in the other layout."""

    def __init__(self, factor):
        super().__init__()
        self.weight, self.factor = nn.Parameter(torch.ones(2, 2, 3, 3)), factor

    def forward(self):
        seconds = 0.004 * (1 if self.weight.is_contiguous() else self.factor)
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass
        return self.weight.sum()


def trial_of(factor):
    return lambda: (Busy(factor), lambda model: model())


def main(folder):
    fabric = make_fabric(Training(accelerator="cpu"), Progress(), devices=2)
    fabric.launch()
    found = train_all(fabric) | {f"uneven {name}": p for name, p in train_unevenly(fabric).items()}
    means, rank = PairMeans(), fabric.global_rank
    chosen = choose_layout(Training(), fabric, 1000, trial_of(0.1), Progress())  # alone each would take channels last
    found["layout"] = torch.tensor(chosen == "on")
    means.add(
        {"a": torch.tensor(1.0 + rank), "b": torch.tensor(5.0), "c": torch.tensor(0.0)},
        {"a": 3 - 2 * rank, "b": rank, "c": 0},
    )
    save_file({**found, "means": means.get()}, folder / f"rank-{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Parts with one deliberate fault each, for the checks of `ssmtl_toolkit.testing` to find; MENDED has none."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import nibabel as nib
import numpy as np
import torch
from pydantic import AfterValidator, ConfigDict, Field
from torch import distributed, nn
from torch.nn import functional as F

from ssmtl_toolkit.data.volume import Volume
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.engine.balancer import Balancer
from ssmtl_toolkit.engine.head import IGNORE, Head
from ssmtl_toolkit.engine.semi import PseudoLabels, Semi, SemiOutput
from ssmtl_toolkit.engine.step import Companion, Pictures, TaskOutput
from ssmtl_toolkit.engine.tracker import Tracker
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.specs import (
    BackboneSpec,
    BalancerSpec,
    DatasetSpec,
    HeadSpec,
    MetricSpec,
    ReaderSpec,
    Scan,
    SemiSpec,
    TaskSpec,
    TrackerSpec,
)


class Faults(nn.Module):
    """A module that can have those faults which tasks, backbones, heads and balancers have in common.

    `trouble(x)` gives x back, scaled or not as the fault wants it.
    """

    def __init__(self, fault, width):
        super().__init__()
        self.fault = fault
        self.register_buffer("seen", torch.zeros(()))
        self.moved = nn.Parameter(torch.zeros(()), requires_grad=False)
        self.steps = 0
        self.looked = False
        self.scale = torch.rand(()) if fault == "state outside" else 1.0
        self.index = torch.arange(width)

    def trouble(self, x):
        if self.fault == "state in eval":
            self.seen += 1
        if self.fault == "counts outside" and self.training:
            self.steps += 1
        if self.fault == "remembers looks":
            self.looked |= not self.training
            x = x * (2 if self.looked and self.training else 1)
        if self.fault == "own randomness":
            x = x * (1 + random.random())
        if self.fault == "mixes types":  # refused by torch where x is bf16
            x = x + 0 * torch.zeros(1).index_add(0, torch.zeros(1, dtype=torch.long), x.flatten()[:1]).sum()
        if self.fault == "ranks differ":
            with torch.no_grad():
                self.moved += distributed.get_rank() + 1 if distributed.is_initialized() else 1
        if self.fault == "fails on one rank" and distributed.is_initialized() and distributed.get_rank():
            raise RuntimeError("only on rank 1")
        return x * self.scale * (1 + self.steps)


class BrokenTask(TaskSpec):
    """Tell a slice from its companion; FAULT says what is wrong with it."""

    name = "broken_task"
    needs = frozenset({"pooled"})
    metrics = ("chance",)
    baselines = ("chance",)

    fault: str = Field("none", description="What is wrong.")

    def companions(self, spacing):
        second = {"second": (1,)} if self.fault == "mixes companions" else {}
        return {"other": (0,)} if self.fault == "offset 0" else {"other": (-2, 3), **second}

    def build(self, backbone):
        return BrokenTaskModule(backbone, self.fault)


class Greedy(BrokenTask):
    """Says that it needs what it does not read."""

    name = "greedy"
    needs = frozenset({"pooled", "dense"})


class BrokenTaskModule(Faults):
    def __init__(self, backbone, fault):
        super().__init__(fault, backbone.pooled_channels)
        self.judge = nn.Linear(backbone.pooled_channels, 1)
        self.norm = nn.BatchNorm1d(1) if fault == "batch norm of one" else nn.Identity()
        self.idle = nn.Linear(3, 3) if fault == "idle weights" else nn.Identity()
        if fault == "keeps the backbone":
            self.backbone = backbone

    def forward(self, step):
        fault, other = self.fault, step.companion("other")
        if fault == "fails at once":
            raise RuntimeError("no more")
        if fault == "mixes companions":
            other = Companion(step.companion("second").image, other.offsets, other.rows)
        if fault == "in place":
            step.anchor.add_(1)
        if fault == "moves positions":
            step.position.index.add_(1)
        features = step.features()
        pooled = features.pooled + (features.dense.mean() if fault == "reads dense" else 0)
        pooled = pooled.detach() if fault == "detaches" else pooled
        first = self.judge(self.trouble(pooled[: len(other.image)] if fault == "ignores rows" else other.of(pooled)))
        first = self.norm(first) if len(first) else first
        with torch.no_grad():
            second = step.encode(other.image).pooled.mean(dim=1, keepdim=True)
        if fault == "one channel":
            second = other.image.mean(dim=(2, 3))
        terms = F.mse_loss(first.float(), second.float(), reduction="none")
        if not len(terms) and fault != "mean of nothing":
            return TaskOutput.nothing(first)
        loss = {"not a scalar": terms.flatten(), "not finite": terms.mean() / 0}.get(fault, terms.mean())
        loss = loss - 2 if fault == "below its floor" else loss
        metrics = {"chances" if fault == "other metrics" else "chance": second.square().mean()}
        if fault == "gives a tensor":
            return loss
        return TaskOutput(loss, metrics, pairs=1 if fault == "says no pairs" else len(terms))

    def pictures(self, step):
        other = step.companion("other")
        if self.fault == "draws others":
            return Pictures({"other": other.image[:3]})
        return Pictures({"other": other.image}, rows=other.rows)


class BrokenBackbone(BackboneSpec):
    """Two convolutions; FAULT says what is wrong."""

    name = "broken_backbone"

    fault: str = Field("none", description="What is wrong.")

    def build(self, in_channels):
        encoder = BrokenEncoder(self.fault, in_channels)
        decoder = BrokenDecoder(self.fault, encoder if self.fault == "shared weights" else None)
        backbone = Backbone(encoder, decoder, in_channels, 5 if self.fault == "wrong channels" else 8, 4)
        if self.fault == "weights beside":
            backbone.extra = nn.Linear(2, 2)
        return backbone


class BrokenEncoder(Faults):
    def __init__(self, fault, channels):
        super().__init__(fault, 8)
        self.taken = 1 if fault == "one channel" else channels
        self.convolve = nn.Conv2d(self.taken, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8, track_running_stats=fault != "statistics of the batch")
        if fault == "cannot be copied":
            self.kept = self.convolve.weight * 2

    def forward(self, image):
        maps = self.norm(self.convolve(image[:, : self.taken])).relu()
        if self.fault == "more maps in training" and self.training:
            return [maps, maps]
        return [self.trouble(maps.detach() if self.fault == "detaches" else maps)]


class BrokenDecoder(nn.Module):
    def __init__(self, fault, shared):
        super().__init__()
        self.fault = fault
        self.decode = nn.Conv2d(8, 4, 1)
        if shared is not None:
            self.again = shared.convolve

    def forward(self, maps):
        fine = self.decode(maps[-1])
        if self.fault == "detaches inner maps":
            return [fine, F.avg_pool2d(fine, 2).detach()]
        return [F.avg_pool2d(fine, 2), fine] if self.fault == "coarsest first" else fine


class BrokenHead(HeadSpec):
    """A convolution and cross-entropy; FAULT says what is wrong."""

    name = "broken_head"

    fault: str = Field("none", description="What is wrong.")

    def build(self, backbone, classes):
        return BrokenHeadModule(self.fault, backbone.dense_channels, classes)


class BrokenHeadModule(Faults, Head):
    def __init__(self, fault, channels, classes):
        super().__init__(fault, channels)
        self.classify = nn.Conv2d(channels, classes + (fault == "a class too many"), 1)

    def degrade(self, image):
        return image.mul_(2) if self.fault == "in place" else image

    def forward(self, features):
        dense = features.dense.detach() if self.fault == "detaches" else features.dense
        return self.classify(self.trouble(dense))

    def loss(self, maps, target):
        if self.fault == "takes what is not annotated":
            target = torch.where(target == IGNORE, 0, target)
        counted = (target != IGNORE).sum().clamp(min=1)
        return F.cross_entropy(maps.float(), target, ignore_index=IGNORE, reduction="sum") / counted


class BrokenOverlappingHead(BrokenHead):
    """The same, and classes that overlap; FAULT says what is wrong."""

    name = "broken_overlapping_head"
    overlapping = True

    def build(self, backbone, classes):
        return BrokenOverlappingModule(self.fault, backbone.dense_channels, classes)


class BrokenOverlappingModule(BrokenHeadModule):
    def loss(self, maps, target):
        if target.ndim < maps.ndim:
            return super().loss(maps, target)
        counted = (target != IGNORE) | (self.fault == "takes what is not annotated")
        wanted = (target == (0 if self.fault == "turned around" else 1)).float()
        each = F.binary_cross_entropy_with_logits(maps.float(), wanted, reduction="none")
        return each.where(counted, 0.0).sum() / counted.sum().clamp(min=1)


class BrokenImageHead(HeadSpec):
    """A convolution that gives the slice back; FAULT says what is wrong."""

    name = "broken_image_head"
    output = "image"

    fault: str = Field("none", description="What is wrong.")

    def build(self, backbone, classes):
        return BrokenImageHeadModule(
            backbone.dense_channels, 1 if self.fault == "one channel" else backbone.in_channels
        )


class BrokenImageHeadModule(Head):
    def __init__(self, channels, image_channels):
        super().__init__()
        self.decode = nn.Conv2d(channels, image_channels, 1)

    def forward(self, features):
        return self.decode(features.dense)

    def loss(self, maps, target):
        return (maps.float() - target).abs().mean()


class BrokenBalancer(BalancerSpec):
    """A sum; FAULT says what is wrong."""

    name = "broken_balancer"

    fault: str = Field("none", description="What is wrong.")

    def build(self, tasks):
        return BrokenBalancerModule(self.fault, {label: task.weight for label, task in tasks.items()})


class BrokenBalancerModule(Faults, Balancer):
    def __init__(self, fault, weights):
        super().__init__(fault, 1)
        self.weights_of = weights

    def forward(self, losses, shared):
        weighted = torch.stack([self.weights_of[label] * loss for label, loss in losses.items()])
        if self.fault == "mixes types":
            weighted = weighted.bfloat16() if torch.is_autocast_enabled("cpu") else weighted
        total = self.trouble(weighted)
        if self.fault == "not a scalar":
            return total
        if self.fault == "ignores weights":
            return torch.stack(list(losses.values())).sum()
        if self.fault == "means of nothing":
            return (total / shared.means(losses)).sum()
        if self.fault == "other labels":
            self.factors = {"a": total[0].detach()}
        if self.fault == "forgets a task":
            return next(iter(losses.values()))
        if self.fault == "spread of one":
            return total.sum() + ((total - total.mean()) ** 2).sum() / (len(total) - 1)
        if self.fault == "log of nothing":
            return (total.abs()).log().sum()
        return total.sum()


class BrokenMetric(MetricSpec):
    """How much the edges of cubes of the same volume differ, in mm; FAULT says what is wrong."""

    name = "broken_metric"
    title = "edge"
    unit = "mm"
    higher_is_better = False

    fault: str = Field("none", description="What is wrong.")

    def score(self, comparison):
        counts, voxel = comparison.counts, np.prod(comparison.spacing)
        if self.fault == "takes voxels for millimetres":
            voxel = 1
        if self.fault == "takes voxels for cubes":
            voxel = comparison.spacing[0] ** 3
        if self.fault == "in place":
            comparison.predicted[:] = comparison.predicted[::-1].copy()
        ours, theirs = ((size * voxel) ** (1 / 3) for size in (counts.tp + counts.fp, counts.tp + counts.fn))
        error = float(abs(ours - theirs))
        if counts.penalised:
            return {"skips empty masks": None, "likes empty masks": 0.0}.get(self.fault, error)
        if self.fault == "prefers far" and ours > 1.4 * theirs:
            return 0.1 * error
        wrong = {
            "signed": ours - theirs,
            "constant": voxel ** (1 / 3),
            "own randomness": error * (1 + 1e-6 * random.random()),
            "gives an array": np.array([error]),
        }
        return wrong.get(self.fault, error)


class Untidy(BrokenMetric):
    """Has more digits than a table has room for."""

    name = "untidy"
    digits = 12


class Taken(BrokenMetric):
    """Is called as something else in files of scores."""

    name = "penalised"


class BrokenPooledMetric(MetricSpec):
    """The Jaccard index over all scans; FAULT says what is wrong."""

    name = "broken_pooled_metric"
    pooled = True

    fault: str = Field("none", description="What is wrong.")

    def score(self, comparison):
        if self.fault == "reads masks":
            return float(np.mean(comparison.predicted == comparison.truth))
        return comparison.counts.iou


class BrokenImageMetric(MetricSpec):
    """The mean absolute error of a slice; FAULT says what is wrong."""

    name = "broken_image_metric"
    output = "image"
    higher_is_better = False

    fault: str = Field("none", description="What is wrong.")

    def score(self, comparison):
        error = np.abs(comparison.predicted - comparison.truth)
        return float((error * np.linspace(0, 2, error.shape[1])[:, None] if self.fault == "rows" else error).mean())


class BrokenTracker(TrackerSpec):
    """Writes down what it hears; FAULT says what is wrong."""

    name = "broken_tracker"

    fault: str = Field("none", description="What is wrong.")

    def open(self, run):
        if self.fault == "needs a package":
            import no_such_package  # noqa: F401
        (run.folder / ("notes.txt" if self.fault == "any name" else "broken_tracker.txt")).write_text(run.name)
        return object() if self.fault == "no tracker" else _Diary(self.fault, run.folder)


class _Diary(Tracker):
    def __init__(self, fault, folder):
        self.fault = fault
        if fault == "not twice":
            (folder / "broken_tracker").mkdir()

    def where(self):
        return "two\nlines" if self.fault == "two lines" else ""

    def scalars(self, part, step, values):
        if self.fault == "own randomness":
            random.random()
        if self.fault == "whole numbers":
            [round(value) for value in values.values()]


class BrokenSemi(SemiSpec):
    """Agree with the teacher; FAULT says what is wrong."""

    name = "broken_semi"

    start: float = Field(0.5, ge=0, lt=1, description="When.")
    fault: str = Field("none", description="What is wrong.")

    def build(self):
        return BrokenSemiModule(self.fault)


class BrokenSemiModule(Faults, Semi):
    def __init__(self, fault):
        super().__init__(fault, 1)
        self.temperature = nn.Parameter(torch.ones(()))
        self.idle = nn.Linear(3, 3) if fault == "idle weights" else nn.Identity()

    def forward(self, step):
        fault, image = self.fault, step.batch.anchor
        if fault == "keeps the network":
            self.network = step.backbone
        if fault == "one channel":
            image = image[:, :1]
        if fault == "in place":
            image.add_(1)
        if fault == "batch norm of one":
            F.batch_norm(image.mean(dim=(2, 3)), None, None, training=True)
        truth = (step.head(step.backbone(image)).detach() if fault == "never asks" else step.teach(image)).float()
        best, labels = truth.softmax(dim=1).max(dim=1)
        if fault == "teacher in place":
            step.teach(image).add_(1)
        sure = best > 0.9
        maps = step.head(step.backbone(image))
        answer = self.trouble(maps.detach() if fault == "detaches" else maps).float() * self.temperature
        different = (answer.softmax(dim=1) - truth.softmax(dim=1)).square().mean(dim=1)
        if fault == "mean of nothing":
            different = different[sure]
        if fault == "not a scalar":
            return SemiOutput(different)
        if fault == "gives a tensor":
            return different.mean()
        if fault == "counts from one":
            labels = labels + 1
        return SemiOutput(different.mean(), PseudoLabels(labels.byte() if fault == "bytes" else labels, sure))


class BrokenReader(ReaderSpec):
    """Raw float32 volumes of 4 x 5 x 6 voxels in files .raw4; FAULT says what is wrong."""

    name = "broken_reader"

    fault: str = Field("none", description="What is wrong.")

    def matches(self, path):
        if self.fault == "opens the path":
            path.open("rb").close()
        return path.suffix == ".raw4" and self.fault != "does not match" and not path.name.startswith(".")

    def read(self, path, volume=None):
        data = path.read_bytes()
        if self.fault == "errors without a number" and len(data) != 480:
            raise OSError("odd")
        if self.fault == "writes":
            path.write_bytes(data + b"x")
            data = data[:480]
        if len(data) != 480 and self.fault != "takes half a file":
            raise DataError(f"{path}: has {len(data)} bytes, expected 480; copy it again")
        array = np.frombuffer(data[:480].ljust(480, b"\0"), "<f4").reshape(4, 5, 6)
        return Volume(array, np.diag([1, 1, 2, 1.0]), (1.0, 1.0, 3.0 if self.fault == "other spacing" else 2.0))

    def header(self, path):
        header = super().header(path)
        return replace(header, shape=header.shape[::-1]) if self.fault == "header turned" else header

    def classes(self, path):
        return {"a": (1,), "b": (1,)} if self.fault == "one value" else {}


class BrokenLabelReader(ReaderSpec):
    """Label maps .lab4, the bytes of a scan of 4 x 5 x 6 voxels; FAULT says what is wrong."""

    name = "broken_label_reader"
    only_labels = True

    fault: str = Field("none", description="What is wrong.")

    def matches(self, path):
        return path.suffix == ".lab4" and not path.name.startswith(".")

    def read(self, path, volume=None):
        if self.fault == "alone":
            return Volume(np.zeros((4, 5, 6)), np.eye(4), (1.0, 1.0, 1.0))
        raise DataError(f"{path}: is a label map; give it as the label of a scan")

    def read_label(self, path, image):
        data = path.read_bytes()
        if len(data) != 120:
            raise DataError(f"{path}: has {len(data)} bytes, expected 120; copy it again")
        array = np.frombuffer(data, "u1").reshape(4, 5, 6)
        array = array[1:] if self.fault == "crops" else array + 7 if self.fault == "other values" else array
        return Volume(array, image.affine, image.spacing)

    def classes(self, path):
        return {"a": (1,)}


class BrokenDataset(DatasetSpec):
    """All scans of a folder; FAULT says what is wrong."""

    name = "broken_dataset"
    positional = "root"

    root: Path = Field(description="The folder.")
    fault: str = Field("none", description="What is wrong.")

    def scans(self, cache, readers):
        if not self.root.is_dir() and self.fault != "no root, no problem":
            raise DataError(f"{self.root}: no such folder")
        files = sorted(self.root.glob("*.nii.gz"))
        if self.fault == "another order":
            random.shuffle(files)
        names = ["scan" if self.fault == "one name" else file.name.partition(".")[0] for file in files]
        return [Scan(file, name, name) for file, name in zip(files, names, strict=True)]

    def classes(self):
        return {"a": (1,), "b": (1,)} if self.fault == "one value" else {}

    def suggested(self):
        return {"sizes": 3} if self.fault == "suggests nonsense" else {"size": 64}


def shifted(t):
    return t + 1


class Shifting(BrokenTask):
    """Reads another number than is written."""

    name = "shifting"

    t: Annotated[int, AfterValidator(shifted)] = Field(1, description="A number.")


class Lenient(BrokenTask):
    """Takes options that it does not know."""

    name = "lenient"
    model_config = ConfigDict(extra="ignore")


class Misspelt(BrokenTask):
    """Has baselines that nobody reads."""

    name = "misspelt"
    baseline: ClassVar[str] = "chance"


class Silent(BrokenTask):
    """Does not say what its option is."""

    name = "silent"

    t: int = 1


def raw_example(folder):
    file = folder / "x.raw4"
    file.write_bytes(np.random.default_rng(0).normal(size=120).astype("<f4").tobytes())
    return file


def folder_of_scans(fault):
    def example(folder):
        root = folder / "scans"
        root.mkdir()
        for i in range(8):
            nib.save(nib.Nifti1Image(np.random.default_rng(i).normal(size=(9, 8, 7)), np.eye(4)), root / f"{i}.nii.gz")
        return BrokenDataset(root=root, fault=fault)

    return example

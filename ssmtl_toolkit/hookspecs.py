"""The hooks a plugin may implement; each returns a list of spec classes. The example of each is a whole plugin."""

from __future__ import annotations

import click
import pluggy

from ssmtl_toolkit.specs import (
    AugmentationSpec,
    BackboneSpec,
    BalancerSpec,
    DatasetSpec,
    ExportSpec,
    HeadSpec,
    MetricSpec,
    PreparationSpec,
    ReaderSpec,
    SemiSpec,
    TaskSpec,
    TrackerSpec,
)

hookspec = pluggy.HookspecMarker("ssmtl")
hookimpl = pluggy.HookimplMarker("ssmtl")


@hookspec
def ssmtl_tasks() -> list[type[TaskSpec]]:  # type: ignore[empty-body]
    """Pretext tasks, for `--task`: each a `TaskSpec` whose module turns a `Step` into a `TaskOutput`.

    A `Step` has the anchors, their positions in their scans, their companions, and the features of all these.
    `step.view()` gives another view of the anchors by the run's augmentations, `step.view(moved=False)` one that shows
    every place where the anchor shows it, with other values; set `views` in the spec of a task that needs them.

    Example:
        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.specs import TaskSpec


        class Thumbnail(TaskSpec):
            \"\"\"Predict 4 x 4 pixels of a companion slice from the anchor's pooled features.\"\"\"

            name = "thumbnail"
            needs = frozenset({"pooled"})

            def companions(self, spacing):
                return {"next": (1,)}

            def build(self, backbone):
                from torch import nn
                from torch.nn import functional as F

                from ssmtl_toolkit.engine.step import TaskOutput

                class Module(nn.Module):
                    def __init__(self):
                        super().__init__()
                        self.predict = nn.Linear(backbone.pooled_channels, 16 * backbone.in_channels)

                    def forward(self, step):
                        companion = step.companion("next")
                        predicted = self.predict(companion.of(step.features().pooled)).float()
                        if not len(predicted):
                            return TaskOutput.nothing(predicted)
                        thumbnail = F.adaptive_avg_pool2d(companion.image, 4).flatten(1)
                        return TaskOutput(F.mse_loss(predicted, thumbnail), pairs=len(predicted))

                return Module()


        @hookimpl
        def ssmtl_tasks():
            return [Thumbnail]
    """


@hookspec
def ssmtl_backbones() -> list[type[BackboneSpec]]:  # type: ignore[empty-body]
    """Networks, for `--backbone`: each a `BackboneSpec` that builds a `Backbone` with encoder and decoder.

    The decoder gives one map, or several, finest first, that tasks can read as `decoded`. Channels and strides of all
    maps are measured by the toolkit (`Backbone.levels`).

    Example:
        from pydantic import Field

        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.specs import BackboneSpec


        class Two(BackboneSpec):
            \"\"\"Two convolutions, one of them the decoder.\"\"\"

            name = "two"

            width: int = Field(8, ge=1, description="Channels.")

            def build(self, in_channels):
                from torch import nn

                from ssmtl_toolkit.engine.backbone import Backbone

                class Encoder(nn.Module):
                    def __init__(self, width):
                        super().__init__()
                        self.convolve = nn.Conv2d(in_channels, width, 3, stride=2, padding=1)

                    def forward(self, image):
                        return [self.convolve(image).relu()]

                class Decoder(nn.Module):
                    def __init__(self, width):
                        super().__init__()
                        self.convolve = nn.Conv2d(width, width, 3, padding=1)

                    def forward(self, maps):
                        return self.convolve(maps[-1]).relu()

                return Backbone(Encoder(self.width), Decoder(self.width), in_channels, self.width, self.width)


        @hookimpl
        def ssmtl_backbones():
            return [Two]
    """


@hookspec
def ssmtl_heads() -> list[type[HeadSpec]]:  # type: ignore[empty-body]
    """Downstream tasks, for `--head`: each a `HeadSpec` that builds a `Head` on a backbone's features.

    Example:
        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.specs import HeadSpec


        class Pixels(HeadSpec):
            \"\"\"A class for each pixel, by cross-entropy.\"\"\"

            name = "pixels"

            def build(self, backbone, classes):
                from torch import nn
                from torch.nn import functional as F

                from ssmtl_toolkit.engine.head import IGNORE, Head

                class Module(Head):
                    def __init__(self):
                        super().__init__()
                        self.classify = nn.Conv2d(backbone.dense_channels, classes, 1)

                    def forward(self, features):
                        return self.classify(features.dense)

                    def loss(self, maps, target):
                        counted = (target != IGNORE).sum().clamp(min=1)
                        total = F.cross_entropy(maps.float(), target, ignore_index=IGNORE, reduction="sum")
                        return total / counted

                return Module()


        @hookimpl
        def ssmtl_heads():
            return [Pixels]
    """


@hookspec
def ssmtl_preparations() -> list[type[PreparationSpec]]:  # type: ignore[empty-body]
    """What is done to scans before training and prediction, for `--prepare`: each a `PreparationSpec`.

    `Stage.of_values` is for other values, `Stage.of_places` for other places. The toolkit takes labels along, brings
    predictions back onto the scan's grid, and prepares in `ssmtl predict` as in training.

    Example:
        from pydantic import Field

        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.specs import PreparationSpec


        class Border(PreparationSpec):
            \"\"\"Cut a border off each slice, such as burnt-in marks.\"\"\"

            name = "border"

            pixels: int = Field(8, ge=0, description="Width of the border.")

            def prepare(self, stack, size):
                from ssmtl_toolkit.data.lattice import Lattice, Line
                from ssmtl_toolkit.data.preparation import Stage

                slices, height, width = stack.grid
                width_of = min(self.pixels, (min(height, width) - 1) // 2)
                rows, columns = (Line.of(n).cropped(width_of, n - width_of) for n in (height, width))
                return Stage.of_places(stack, Lattice(Line.of(slices), rows, columns))


        @hookimpl
        def ssmtl_preparations():
            return [Border]
    """


@hookspec
def ssmtl_augmentations() -> list[type[AugmentationSpec]]:  # type: ignore[empty-body]
    """Changes of slices in training, for `--augment`: each an `AugmentationSpec` that builds an `Augmentation`.

    Example:
        from pydantic import Field

        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.specs import AugmentationSpec


        class Ramp(AugmentationSpec):
            \"\"\"Brighten a slice from one side to the other, as a coil that is near does.\"\"\"

            name = "ramp"
            changes = frozenset({"values"})

            by: float = Field(0.5, gt=0, description="Largest change at a side, in standard deviations of the slice.")

            def build(self):
                import torch

                from ssmtl_toolkit.engine.augmentation import Augmentation, uniform

                class Ramped(Augmentation):
                    def __init__(self, by):
                        self.by = by

                    def values(self, image):
                        height = uniform(len(image), -self.by, self.by, image.device)
                        ramp = torch.linspace(-1, 1, image.shape[-1], device=image.device)
                        return image + height[:, None, None, None] * ramp

                return Ramped(self.by)


        @hookimpl
        def ssmtl_augmentations():
            return [Ramp]
    """


@hookspec
def ssmtl_balancers() -> list[type[BalancerSpec]]:  # type: ignore[empty-body]
    """Ways to combine several losses into one, for `--balancer`: each a `BalancerSpec` that builds a `Balancer`.

    Example:
        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.specs import BalancerSpec


        class Average(BalancerSpec):
            \"\"\"The mean of the weighted losses: as many tasks as you like, one learning rate.\"\"\"

            name = "average"

            def build(self, tasks):
                import torch

                from ssmtl_toolkit.engine.balancer import Balancer

                class Module(Balancer):
                    def forward(self, losses, shared):
                        return torch.stack([tasks[label].given_weight * loss for label, loss in losses.items()]).mean()

                return Module()


        @hookimpl
        def ssmtl_balancers():
            return [Average]
    """


@hookspec
def ssmtl_semi() -> list[type[SemiSpec]]:  # type: ignore[empty-body]
    """Ways to learn from unlabelled slices beside labelled ones, for `--semi`: each a `SemiSpec` that builds a `Semi`.

    Example:
        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.specs import SemiSpec


        class Decided(SemiSpec):
            \"\"\"Make the network decide: the entropy of its answers on unlabelled slices is to be small.\"\"\"

            name = "decided"
            teaches = False

            def build(self):
                from ssmtl_toolkit.engine.semi import Semi, SemiOutput

                class Module(Semi):
                    def forward(self, step):
                        log_p = step.head(step.backbone(step.batch.anchor)).float().log_softmax(dim=1)
                        return SemiOutput(-(log_p.exp() * log_p).sum(dim=1).mean())

                return Module()


        @hookimpl
        def ssmtl_semi():
            return [Decided]
    """


@hookspec
def ssmtl_metrics() -> list[type[MetricSpec]]:  # type: ignore[empty-body]
    """Scores of test scans, for `--metric`: each a `MetricSpec` that compares a prediction with the truth.

    What several metrics need (counts of voxels, surfaces, distances) is computed once, when the first of them asks.

    Example:
        from pydantic import Field

        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.specs import MetricSpec


        class FBeta(MetricSpec):
            \"\"\"The F-beta score: recall counts beta times as much as precision; with beta=1 it is Dice.\"\"\"

            name = "f_beta"
            title = "F-beta"

            beta: float = Field(2.0, gt=0, description="How much recall counts.")

            def score(self, comparison):
                counts, square = comparison.counts, self.beta**2
                hits = (1 + square) * counts.tp
                return hits / (hits + square * counts.fn + counts.fp)  # 0 if the class is in only one of the masks

            def remark(self):
                return f"beta {self.beta:g}"


        @hookimpl
        def ssmtl_metrics():
            return [FBeta]
    """


@hookspec
def ssmtl_trackers() -> list[type[TrackerSpec]]:  # type: ignore[empty-body]
    """Records of runs beside their folders, for `--track`: each a `TrackerSpec` that opens a `Tracker`.

    Example:
        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.specs import TrackerSpec


        class Diary(TrackerSpec):
            \"\"\"A line of text for whatever happens, in diary.txt in the run folder.\"\"\"

            name = "diary"

            def open(self, run):
                from ssmtl_toolkit.engine.tracker import Tracker

                class Lines(Tracker):
                    def write(self, line):
                        with (run.folder / "diary.txt").open("a", encoding="utf-8") as file:
                            file.write(f"{line}\\n")

                    def scalars(self, part, step, values):
                        self.write(f"{part} {step}: {values}")

                    def end(self, state):
                        self.write(state)

                return Lines()


        @hookimpl
        def ssmtl_trackers():
            return [Diary]
    """


@hookspec
def ssmtl_exports() -> list[type[ExportSpec]]:  # type: ignore[empty-body]
    """Other libraries, for `ssmtl export --to`: each an `ExportSpec` that writes trained weights for one of them.

    What it has written is opened again by its own `outputs` and compared; a user gets no export that differs.

    Example:
        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.specs import ExportSpec


        class Scripted(ExportSpec):
            \"\"\"A traced module, for torch.jit.load in Python or C++.\"\"\"

            name = "scripted"

            def write(self, exported, folder):
                import torch

                torch.jit.trace(exported.module, exported.images()).save(folder / "model.ts")
                return "`torch.jit.load('model.ts')(images)`"

            def outputs(self, exported, folder, images):
                import torch

                yield exported.module(images), torch.jit.load(folder / "model.ts")(images)


        @hookimpl
        def ssmtl_exports():
            return [Scripted]
    """


@hookspec
def ssmtl_readers() -> list[type[ReaderSpec]]:  # type: ignore[empty-body]
    """File formats: each a `ReaderSpec` that turns a file or folder into a `Volume`.

    Its voxels are (I, J, K), or (I, J, K, C) if the file itself has several channels.

    Example:
        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.errors import DataError
        from ssmtl_toolkit.specs import ReaderSpec


        class Npy(ReaderSpec):
            \"\"\"Arrays saved by NumPy (.npy), (I, J, K), 1 mm apart.\"\"\"

            name = "npy"

            def matches(self, path):
                return path.suffix == ".npy" and not path.name.startswith(".")

            def read(self, path, volume=None):
                import numpy as np

                from ssmtl_toolkit.data.volume import Volume

                try:
                    array = np.load(path, allow_pickle=False)
                except (ValueError, EOFError) as error:
                    raise DataError(f"{path}: is damaged or not an array ({error}); save it again") from None
                return Volume(array, np.eye(4), (1.0, 1.0, 1.0), notes=("has no spacing; 1 mm is assumed",))


        @hookimpl
        def ssmtl_readers():
            return [Npy]
    """


@hookspec
def ssmtl_datasets() -> list[type[DatasetSpec]]:  # type: ignore[empty-body]
    """Places where scans are, for `--data`: each a `DatasetSpec` that lists them with patient and modality.

    If the channels of a scan are a file each, `Scan(first, …, more=(second, third))` is one scan of all of them.

    Example:
        from pathlib import Path

        from pydantic import Field

        from ssmtl_toolkit import hookimpl
        from ssmtl_toolkit.errors import DataError
        from ssmtl_toolkit.specs import DatasetSpec, Scan


        class Listed(DatasetSpec):
            \"\"\"Scans whose paths are the lines of a text file; a patient's files begin with P001_ and so on.\"\"\"

            name = "listed"
            positional = "file"  # so that --data listed:FILE does

            file: Path = Field(description="The text file.")

            def scans(self, cache, readers):
                if not self.file.is_file():
                    raise DataError(f"{self.file}: no such file; check its path")
                paths = [self.file.parent / line for line in self.file.read_text().splitlines() if line]
                return [Scan(path, path.name.partition(".")[0], path.name.partition("_")[0]) for path in paths]


        @hookimpl
        def ssmtl_datasets():
            return [Listed]
    """


@hookspec
def ssmtl_commands() -> list[click.Command]:  # type: ignore[empty-body]
    """Subcommands of `ssmtl`: each a `click.Command`, or a group, with a name that `ssmtl` does not have.

    It is imported whenever `ssmtl --help` is asked for: import what is heavy inside the command.

    Example:
        import click

        from ssmtl_toolkit import hookimpl


        @click.command("sides")
        @click.argument("run", type=click.Path(exists=True))
        def sides(run):
            \"\"\"Say which files a run has.\"\"\"
            from pathlib import Path

            for file in sorted(Path(run).iterdir()):
                click.echo(file.name)


        @hookimpl
        def ssmtl_commands():
            return [sides]
    """

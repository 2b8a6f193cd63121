"""Options of `ssmtl finetune`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, SerializeAsAny, field_validator

from ssmtl_toolkit.config.base import (
    STRONG,
    Config,
    Descent,
    Role,
    Training,
    absolute,
    resolved_preparations,
    with_absolute_paths,
)
from ssmtl_toolkit.config.recipes import DEFAULT, OPTIONS, read_recipe
from ssmtl_toolkit.config.schedules import Cosine, Schedule, read_schedule
from ssmtl_toolkit.config.scoring import Scoring
from ssmtl_toolkit.config.tracking import Tracking
from ssmtl_toolkit.data.slicing import EmptyFrames, Slicing
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.features import PARTS, Part, parts_of
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.sources import dataset_of
from ssmtl_toolkit.specs import (
    AugmentationSpec,
    BackboneSpec,
    DatasetSpec,
    HeadSpec,
    MetricSpec,
    PreparationSpec,
    SemiSpec,
    Spec,
    TaskSpec,
    TrackerSpec,
    check_needs,
)

STARTING = ("prefix", "freeze", "transfer", "min_transfer", "pretrained_lr", "frozen_steps")
"""Options for what is done with the weights to start from, beside `source`: from scratch they have no effect."""


class FinetuneConfig(Config, Slicing, Training, Descent, Scoring, Tracking):
    """Options of `ssmtl finetune`. Specs are given as text or as objects.

    Slices are cut as in the pre-training, except for what is set here.
    """

    sections: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Data": (
            "data",
            "classes",
            "ignore_value",
            "ignore_affine",
            "empty_frames",
            "axis",
            "prepare",
            "size",
            "volume",
            "window",
            "normalise",
            "skip_bad",
        ),
        "Patients and slices": (
            *("patient", "split", "fold", "folds", "train_scans", "slices_per_scan", "slices"),
            *("validation_scans", "test_scans"),
        ),
        "Unlabelled scans": ("semi", "unlabelled", "transductive"),
        "Network": ("source", "prefix", "backbone", "head", "freeze", "transfer", "min_transfer"),
        "Training": (
            *("recipe", "augment", "sampling", "steps", "batch_size", "optimizer", "lr", "schedule", "weight_decay"),
            *("clip", "on_nan", "average", "encoder_lr", "decoder_lr", "pretrained_lr", "frozen_steps", "patience"),
            *("check_every", "seed", "seeds", "baseline"),
        ),
        "Machine": ("precision", "accelerator", "channels_last", "checkpoint_activations"),
        "Output": ("metrics", "surface", "tolerance", "log_every", "report", "track"),
    }

    data: Annotated[SerializeAsAny[DatasetSpec] | str, Role.PLACE] = Field(
        "phantom",
        description="Labelled scans: a folder, URL, manifest (.csv, .toml), pattern or dataset by name; repeatable.",
    )
    source: Annotated[Path | None, Role.PLACE] = Field(
        None, description="Weights to start from: run folder, .safetensors, .pth or hf://USER/NAME."
    )
    prefix: str | None = Field(
        None, description="What stands before the names in a file from elsewhere.  [default: found]"
    )
    backbone: SerializeAsAny[BackboneSpec] | str | None = Field(
        None, description="Network; default: the pre-trained one, or unet from scratch."
    )
    head: SerializeAsAny[HeadSpec] | str = Field("segmentation", description="Downstream task, e.g. denoising.")

    classes: str | None = Field(
        None, description="Label classes by name, e.g. LV=500,LA=420+421, or known ones: LV,RV.  [default: all]"
    )
    ignore_value: int | None = Field(None, description="Label value that means 'not annotated'.")
    ignore_affine: bool = Field(
        False, description="Accept labels whose affine differs from the image's (match voxel by voxel)."
    )
    empty_frames: EmptyFrames = Field(
        "ignore", description="With --axis time, take frames without any label as: ignore (not annotated), background."
    )
    patient: str | None = Field(
        None, description="Regex on scan names; its first group is the patient, e.g. '(.+)_E[DS]'."
    )
    split: Annotated[Path | None, Role.PLACE] = Field(
        None, description="Take patients (and slices) from this file: of ssmtl data split, or nnU-Net's with --fold."
    )
    fold: int | None = Field(None, ge=0, description="Which fold of --split splits_final.json; its val is the test.")
    folds: Literal["all"] | Annotated[int, Field(ge=2)] | None = Field(
        None, description="Cross-validate: train and test each of so many folds; all: those of --split."
    )
    train_scans: int | None = Field(
        None, ge=1, description="Number of labelled scans to draw for training.  [default: all]"
    )
    slices_per_scan: int | None = Field(None, ge=1, description="Number of slices to draw from each.  [default: all]")
    slices: Literal["auto", "foreground", "any"] = Field(
        "auto",
        description="Take any annotated slice, or foreground: those that show a class; auto: foreground if only some "
        "of a scan are drawn.",
    )
    semi: SerializeAsAny[SemiSpec] | str | None = Field(
        None,
        description="Learn from unlabelled scans too: mean_teacher, unimatch, pretext; none.  [default: unimatch with "
        "--unlabelled, else none]",
    )
    unlabelled: Annotated[SerializeAsAny[DatasetSpec] | str | None, Role.PLACE] = Field(
        None,
        description="Unlabelled scans to learn from; repeatable.  [default with --semi: those of --data, without "
        "validation and test patients]",
    )
    transductive: bool = Field(
        False, description="Let --semi see the images of validation and test patients; scores are then optimistic."
    )

    validation_scans: int = Field(
        0, ge=0, description="Labelled scans held out for early stopping; 0: always train --steps."
    )
    test_scans: int | None = Field(None, ge=1, description="Labelled scans held out for the test.  [default: a fifth]")

    recipe: Annotated[str, Role.RECORD] = Field(
        DEFAULT, description="How to train, all options at once: strong, paper, or a .toml file of your own."
    )
    augment: tuple[SerializeAsAny[AugmentationSpec] | str, ...] = Field(
        STRONG, description="Change slices in training, e.g. affine:rotate=10; repeatable; none: as they are."
    )
    sampling: Literal["even", "rare"] = Field(
        "rare", description="rare: show slices with rare classes more often; even: all alike."
    )
    schedule: Annotated[Schedule, BeforeValidator(read_schedule), PlainSerializer(Spec.full)] = Field(
        Cosine(), description="Course of the rate: constant, cosine:warmup=0.05, poly:power=0.9."
    )
    average: float = Field(
        0.99, ge=0, lt=1, description="Keep a moving average of the weights with this decay; 0: the last weights."
    )
    pretrained_lr: float = Field(
        1.0, gt=0, le=10, description="Factor on the learning rate of parts with pre-trained weights."
    )
    frozen_steps: int = Field(0, ge=0, description="First steps in which parts with pre-trained weights stay frozen.")

    steps: int = Field(1200, ge=1, description="Optimizer steps; the maximum when stopping early.")
    patience: int = Field(5, ge=1, description="Stop after this many validation checks without improvement.")
    check_every: int = Field(50, ge=1, description="Steps between validation checks.")
    batch_size: int = Field(8, ge=1, le=65536, description="Slices per batch.")
    encoder_lr: float | None = Field(None, gt=0, description="Learning rate of the encoder.  [default: --lr]")
    decoder_lr: float | None = Field(None, gt=0, description="Learning rate of the decoder.  [default: --lr]")
    freeze: Literal["none", "encoder", "backbone"] = Field("none", description="Which part to freeze.")
    transfer: Literal["all", "encoder"] = Field("all", description="Which pre-trained parts to load.")
    min_transfer: float | None = Field(
        None, ge=0, le=1, description="Minimum share of the backbone's parameters to load.  [default: the encoder]"
    )
    baseline: Annotated[Literal["none", "scratch"], Role.REPETITIONS] = Field(
        "none", description="scratch: also train the twin without pre-training."
    )
    seed: int = Field(0, ge=0, lt=2**62, description="Seed of everything random; repetitions count up from it.")
    seeds: Annotated[int, Role.REPETITIONS] = Field(
        1, ge=1, description="Repetitions, each with other weights, scans and slices."
    )

    skip_bad: Annotated[bool, Role.EXTENT] = Field(
        False, description="Continue without scans or labels that cannot be used."
    )
    log_every: Annotated[int, Role.RECORD] = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")
    report: Annotated[bool, Role.RECORD] = Field(
        True, description="Draw the worst and best test scans, and write report.html at the end."
    )

    @field_validator("recipe")
    @classmethod
    def _absolute_recipe(cls, recipe: str) -> str:
        file = Path(recipe)
        return str(absolute(file)) if file.suffix == ".toml" else recipe

    @field_validator("source", "split")
    @classmethod
    def _absolute_path(cls, path: Path | None) -> Path | None:
        return absolute(path)

    @classmethod
    def gives_way(cls, name: str, flags: Mapping[str, Any]) -> bool:
        """Whether a file's value gives way to the recipe that a flag names."""
        return "recipe" in flags and name in OPTIONS and name not in flags

    @classmethod
    def default_text(cls, name: str) -> str:
        """The default of an option as `--help` shows it."""
        return "as pre-trained" if name in Slicing.model_fields else super().default_text(name)

    def resolve(self) -> ResolvedFinetune:
        """Turn texts into specs and check what can be checked without torch; `backbone` may stay None.

        Raises:
            UsageError: an unknown name, a wrong option, options that contradict each other.
        """
        plugins, recipe = registry(), self._of_recipe()
        cooked = self._over(recipe)
        head = cooked._head(recipe.get("head"))
        specs = {
            "data": with_absolute_paths(dataset_of(self.data)),
            "head": head,
            "metrics": self.named_metrics(head.output),
            "backbone": None if self.backbone is None else plugins.resolve(BackboneSpec, self.backbone),
            "augment": cooked.augmentations(),
            "semi": cooked._semi(),
            "track": self.trackers(),
            "unlabelled": None if self.unlabelled is None else with_absolute_paths(dataset_of(self.unlabelled)),
        }
        given = {*cooked.model_fields_set, *specs}  # slices are made as in the pre-training unless it is said otherwise
        specs["prepare"] = resolved_preparations(self.prepare)
        resolved = ResolvedFinetune.model_construct(given, **{**dict(cooked), **specs})
        resolved.check()
        return resolved

    def _of_recipe(self) -> dict[str, Any]:
        """The options of the recipe; none if all that it may set is given, as in the file of an earlier run."""
        may_set = {name for name in OPTIONS if type(self).model_fields[name].default is not None}
        return {} if may_set <= self.model_fields_set else read_recipe(self.recipe)

    def _over(self, recipe: Mapping[str, Any]) -> FinetuneConfig:
        """This configuration with the recipe's options where none were given."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        wanted = {name: value for name, value in recipe.items() if name not in given}
        if not wanted:
            return self
        FinetuneConfig.of(wanted, f"recipe {self.recipe}")
        return FinetuneConfig.of({**wanted, **given})

    def _head(self, of_recipe: Any) -> HeadSpec:
        """The head; options that are not given with it are those of the recipe's head of the same name."""
        head = registry().resolve(HeadSpec, self.head)
        usual = head if of_recipe is None else registry().resolve(HeadSpec, of_recipe)
        if type(usual) is not type(head):
            return head
        options = {name: getattr(usual, name) for name in usual.model_fields_set - head.model_fields_set}
        return head.model_copy(update=options)

    def _semi(self) -> SemiSpec | None:
        """How to learn from unlabelled scans: where they are given, as docs/results.md found best."""
        usual = "none" if self.unlabelled is None else "unimatch"
        chosen = usual if self.semi is None else self.semi
        return None if chosen == "none" else registry().resolve(SemiSpec, chosen)


class ResolvedFinetune(FinetuneConfig):
    """A configuration whose specs are objects that go together; `resolve` returns it."""

    data: Annotated[SerializeAsAny[DatasetSpec], Role.PLACE]
    head: SerializeAsAny[HeadSpec]
    metrics: Annotated[tuple[SerializeAsAny[MetricSpec], ...], Role.EXTENT]
    backbone: SerializeAsAny[BackboneSpec] | None  # None: that of the pre-training, whose file says which
    augment: tuple[SerializeAsAny[AugmentationSpec], ...]
    prepare: tuple[SerializeAsAny[PreparationSpec], ...] = ()
    track: Annotated[tuple[SerializeAsAny[TrackerSpec], ...], Role.RECORD] = ()
    semi: SerializeAsAny[SemiSpec] | None
    unlabelled: Annotated[SerializeAsAny[DatasetSpec] | None, Role.PLACE]

    def resolve(self) -> ResolvedFinetune:
        """Return this."""
        return self

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            UsageError: naming them.
        """
        if self.backbone:
            check_needs(self.backbone, [self.head])
        self._check_source()
        self._check_semi()
        self._check_folds()
        for option in ("test_scans", "validation_scans"):
            if self.split is not None and getattr(self, option):
                flag = option.replace("_", "-")
                raise UsageError(f"--{flag}: already set by {self.split}; omit --split or --{flag}")
        if self.patient is not None:
            check_pattern(self.patient)
        for option in ("classes", "ignore_value", "ignore_affine"):
            if self.head.output == "image" and getattr(self, option) not in (None, False):
                raise UsageError(f"head {self.head.name!r} uses no labels; omit --{option.replace('_', '-')}")

    def without_effect(self, *names: str, because: str) -> list[str]:
        """A line for each of these options that is set to something else than its default."""
        set_here = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        return [f"--{name.replace('_', '-')} {getattr(self, name)}: has no effect, {because}" for name in set_here]

    @property
    def drawn_from(self) -> Literal["foreground", "any"]:
        """Which slices are drawn from.

        Few slices are worth most where there is something to see; but of a whole scan those that show nothing teach
        where nothing is: without them organs are found beyond their ends. Of blank slices no image can be learned.
        """
        if self.slices != "auto":
            return self.slices
        whole = self.slices_per_scan is None and self.head.output == "labels"
        return "any" if whole else "foreground"

    @property
    def pretext_tasks(self) -> tuple[TaskSpec, ...]:
        """The pretext tasks that `semi` wants."""
        return () if self.semi is None else tuple(registry().resolve(TaskSpec, text) for text in self.semi.pretext())

    @property
    def frozen_parts(self) -> tuple[Part, ...]:
        """The parts of the backbone that `freeze` keeps as they are."""
        return {"none": (), "encoder": ("encoder",), "backbone": tuple(PARTS)}[self.freeze]

    @property
    def labelled_steps(self) -> int:
        """How many updates come before the first that uses unlabelled slices; 0 without `semi`."""
        return 0 if self.semi is None else min(round(self.semi.start * self.steps), self.steps - 1)

    def _check_semi(self) -> None:
        if self.semi is None:
            if self.unlabelled:
                raise UsageError(
                    "--unlabelled: with --semi none nothing is learned from unlabelled scans; omit one of them"
                )
            if self.transductive:
                raise UsageError("--transductive: unlabelled scans are for --semi; say how to learn from them")
            return
        if self.head.output not in self.semi.outputs:
            raise UsageError(
                f"--semi {self.semi.name}: needs a head that gives labels, and {self.head.name!r} gives slices; omit "
                f"it, or continue with pretext tasks by --semi pretext"
            )
        if self.semi.teaches and not self.average:
            raise UsageError(f"--semi {self.semi.name} learns from averaged weights; give --average, such as 0.99")
        self._check_pretext()

    def _check_pretext(self) -> None:
        """Refuse pretext tasks given twice, with open options, without views, or that train nothing that learns."""
        if not (tasks := self.pretext_tasks):
            return
        twice = sorted({str(task) for task in tasks if tasks.count(task) > 1})
        if twice:
            raise UsageError(f"--semi {self.semi}: task {twice[0]!r} is given twice; give it once, with a weight=…")
        if auto := next((task for task in tasks if task.weight == "auto"), None):
            raise UsageError(
                f"--semi {self.semi}: task {str(auto)!r}: weight=auto is measured by ssmtl run only; give a number, "
                f"such as the auto_weight in the summary.json of a run with this task"
            )
        if task := next((task for task in tasks if task.open_options), None):
            option = task.open_options[0]
            raise UsageError(
                f"--semi {self.semi}: task {str(task)!r}: {option}=auto is chosen by ssmtl run only; give a number; "
                f"ssmtl data info proposes one"
            )
        if (task := next((task for task in tasks if task.views), None)) and not self.augment:
            raise UsageError(
                f"--semi {self.semi}: task {str(task)!r} compares views of slices, which are all the same without "
                f"--augment; give some, such as --augment affine --augment intensity"
            )
        trained = parts_of(feature for task in tasks for feature in task.needs)
        if set(trained) <= set(self.frozen_parts):
            raise UsageError(
                f"--semi {self.semi}: its tasks train the {' and '.join(trained)}, which --freeze {self.freeze} keeps "
                f"as it is; omit one of them"
            )
        if self.backbone:
            check_needs(self.backbone, tasks)

    def _check_folds(self) -> None:
        if self.fold is not None and self.split is None:
            raise UsageError("--fold: chooses a fold of a list; give that by --split splits_final.json")
        if self.folds is None:
            return
        if self.fold is not None:
            raise UsageError("--fold trains one fold, --folds every one; omit one of them")
        if self.folds == "all" and self.split is None:
            raise UsageError(
                "--folds all: takes the folds of a list; give that by --split splits_final.json, or number"
            )
        for option in ("test_scans", "validation_scans"):
            if getattr(self, option):
                flag = option.replace("_", "-")
                raise UsageError(f"--{flag}: every fold tests on its own patients, and trains on all others; omit it")

    def _check_source(self) -> None:
        if self.source is None and self.baseline == "scratch":
            raise UsageError("--baseline scratch needs a pre-training to compare with; give one with --from")
        if self.source is None and self.freeze != "none":
            raise UsageError(f"--freeze {self.freeze}: without --from there are no pre-trained weights to keep")
        for part, frozen in (("encoder", {"encoder", "backbone"}), ("decoder", {"backbone"})):
            if self.freeze in frozen and getattr(self, f"{part}_lr") is not None:
                raise UsageError(f"--{part}-lr: the {part} does not learn under --freeze {self.freeze}; omit one")


def check_pattern(pattern: str) -> re.Pattern[str]:
    """Compile the regex that finds the patient in a scan's name.

    Raises:
        UsageError: it is not a valid regex.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a later version of Python may take it for
            return re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--patient {pattern!r} is not a regular expression: {error}") from None

"""Specs: frozen, validated options that have a name, say what they need, and build their torch module when asked."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from ssmtl_toolkit import text as spec_text
from ssmtl_toolkit.distance import AUTO, distances_among
from ssmtl_toolkit.distance import Distance as Distance
from ssmtl_toolkit.distance import slices_of as slices_of
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.features import FEATURES as FEATURES
from ssmtl_toolkit.features import Feature as Feature
from ssmtl_toolkit.numerals import check_number
from ssmtl_toolkit.text import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ssmtl_toolkit.data.files import Waiting
    from ssmtl_toolkit.data.preparation import Stage
    from ssmtl_toolkit.data.readers import Readers
    from ssmtl_toolkit.data.volume import Header, Stack, Volume
    from ssmtl_toolkit.engine.augmentation import Augmentation
    from ssmtl_toolkit.engine.backbone import Backbone
    from ssmtl_toolkit.engine.balancer import Balancer
    from ssmtl_toolkit.engine.export import Exported
    from ssmtl_toolkit.engine.head import Head
    from ssmtl_toolkit.engine.metric import Comparison
    from ssmtl_toolkit.engine.semi import Semi
    from ssmtl_toolkit.engine.tracker import TrackedRun, Tracker

Output = Literal["labels", "image"]
"""What a head gives for a scan: a label for each pixel, or a slice like the one that it was given."""

Change = Literal["place", "values", "batch"]
"""What an augmentation changes of a slice: where its pixels come from, their values, or what it shares with others."""

Exportable = Literal["backbone", "model"]
"""What can be written for another library: a pre-trained backbone, a fine-tuned model."""

Fill = Literal["zero", "noise", "swap"]
"""What covered patches of a slice show: zero, Gaussian noise of unit variance, or each other's pixels."""


class Spec(BaseModel, defer_build=True):
    """Options of one plugin part. `str(spec)` is the shortest text that reads back to an equal spec.

    >>> str(ReconstructPrev(t=5, weight=0.5))
    'reconstruct_prev:t=5,weight=0.5'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="strings")

    kind: ClassVar[str] = "spec"
    name: ClassVar[str]
    positional: ClassVar[str | None] = None  # the option that may be written without its key, as in `folder:scans/`
    citations: ClassVar[tuple[str, ...]] = ()  # BibTeX of what to cite when it is used; reports list it

    @field_validator("*", mode="before")
    @classmethod
    def _plain_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        return check_number(value, cls.model_fields[str(info.field_name)], 2**63 - 1)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.__dict__.get("name")
        if name is not None and not spec_text.NAME.fullmatch(name):
            raise TypeError(f"{cls.__qualname__}.name must be lower-case letters, digits and _, got {name!r}")

    def __str__(self) -> str:
        written, defaults = self.model_dump(mode="json"), self._defaults()
        changed = {k: v for k, v in written.items() if k not in defaults or getattr(self, k) != defaults[k]}
        first = [(None, changed.pop(self.positional))] if self.positional in changed else []
        own = sorted(changed.items(), key=lambda item: item[0] in TaskSpec.model_fields)  # what all tasks have: last
        options = spec_text.write_options([*first, *own])
        return f"{self.name}:{options}" if options else self.name

    def full(self) -> str:
        """Return the text with every option written out: it means the same whatever the defaults become."""
        options = self.model_dump(mode="json")
        return f"{self.name}:{spec_text.write_options(options.items())}" if options else self.name

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        fields = cls.model_fields.items()
        return {k: f.get_default(call_default_factory=True) for k, f in fields if not f.is_required()}

    @classmethod
    def parse(cls, options: str) -> Self:
        """Read the options of this spec, `key=value,…`, without its name.

        Raises:
            UsageError: with every wrong option at once, the accepted ones, and the nearest name for a typo.
        """
        values, named = spec_text.read_options(options)
        if values and (cls.positional is None or len(values) > 1 or cls.positional in named):
            raise UsageError(f"{cls.name}: cannot read {values[-1]!r}; write options as key=value ({cls._known()})")
        if values and cls.positional:
            named[cls.positional] = values[0]
        try:
            return cls.model_validate(named)
        except ValidationError as error:
            raise UsageError("\n".join(cls._explain(e) for e in spec_text.one_each(error.errors()))) from None
        except UnicodeEncodeError as error:  # pydantic fails to say what is wrong with such a text
            raise UsageError(f"{cls.name}: {error.object!r:.200} is no text in UTF-8") from None

    @classmethod
    def _explain(cls, error: Any) -> str:
        option = ".".join(str(part) for part in error["loc"]) or "options"
        if error["type"] == "extra_forbidden":
            return f"{cls.name}: no option {option!r}{did_you_mean(option, cls.model_fields)} ({cls._known()})"
        if error["type"] == "value_error" and not error["loc"]:  # options that do not go together
            return f"{cls.name}: {error['msg'].removeprefix('Value error, ')}"
        if error["type"] == "missing":
            return f"{cls.name}: option {option!r} is needed ({cls._known()})"
        said, given = error["msg"].removeprefix("Value error, "), spec_text.brief(error["input"])
        if error["type"] in ("tuple_type", "list_type"):
            said = f'expected a list, such as {option}=["a","b"]'
        return f"{cls.name}: option {option!r}: {said}, got {given}"

    @classmethod
    def _known(cls) -> str:
        return "options: " + ", ".join(cls.model_fields) if cls.model_fields else "it has no options"


_ORIGIN = "_origin"  # of a class that is not bundled: its distribution and version


def stamp(cls: type[Spec], origin: str) -> None:
    """Remember which distribution and version a class comes from, for errors."""
    setattr(cls, _ORIGIN, origin)


def named(spec: Spec) -> str:
    """What errors call a part: `task 'slice_siam:t=2'`, and for one that is not bundled ` of its-package 1.0`."""
    origin = vars(type(spec)).get(_ORIGIN, "")
    return f"{spec.kind} {str(spec)!r}{f' of {spec_text.printable(origin)}' if origin else ''}"


def _read_weight(value: Any) -> float | str:
    if value == "auto":
        return "auto"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ValueError("should be a finite number greater than or equal to 0, or auto")
    return number


Weight = Annotated[
    float | Literal["auto"],
    BeforeValidator(_read_weight),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"const": "auto"}]}),
]
"""Type of a task's weight: a number, or `auto`: measured in the first steps (`engine/auto_weight.py`)."""


class Slices(Protocol):
    """What a task may ask of the slices that it will be trained on, to set options that are left to it."""

    def distance(self, task: TaskSpec, option: str) -> int | str:
        """The distance between slices that suits them (`inspection/distance.py`), with enough pairs for this task."""


class TaskSpec(Spec):
    """A pretext task: which features and companion slices it needs, and the module that computes its loss."""

    kind: ClassVar[str] = "task"
    needs: ClassVar[frozenset[Feature]] = frozenset()  # what it reads: a backbone without it is refused early
    metrics: ClassVar[tuple[str, ...]] = ()  # what its TaskOutput.metrics holds
    baselines: ClassVar[tuple[str, ...]] = ()  # those that give the loss of trivial answers; the lowest is to be beaten
    beaten_untrained: ClassVar[bool] = False  # whether an untrained network may get below its trivial answers too
    least_correlation: ClassVar[float | None] = None  # of an anchor with its companion: below it, t is called too large
    views: ClassVar[bool] = False  # whether it compares views of slices: without --augment they would be the same
    floor: ClassVar[float] = 0.0  # what the loss cannot get below; balancers that take ratios or logs count from there

    weight: Weight = Field(
        1.0, description="Weight of this loss in the total; auto: its gradient is made as large as those of the others."
    )

    @property
    def given_weight(self) -> float:
        """The weight as a number; 1 if it is auto: then the loss that a balancer gets is already scaled."""
        return 1.0 if self.weight == "auto" else self.weight

    def companions(self, spacing: float) -> Mapping[str, Sequence[int]]:
        """Name the companion slices: for each, the candidate offsets from the anchor, in slices.

        Of several candidates the sampler draws one, uniformly among those inside the scan; if none is inside,
        the anchor has no such companion and is skipped for it. `spacing` is the scan's slice spacing in mm; with
        `--axis time` ms between frames, 0 if unknown.
        """
        return {}

    @property
    def open_options(self) -> list[str]:
        """The options that are to be set by what suits the data: every `Distance` that is `auto`."""
        return [name for name in distances_among(type(self).model_fields) if getattr(self, name) == AUTO]

    def fitted(self, slices: Slices) -> Self:
        """Set the open options; asked once, when the slices are known. What it returns is trained and written down."""
        chosen = {name: slices.distance(self, name) for name in self.open_options}
        return self.model_copy(update=chosen) if chosen else self

    def remarks(self, anchors: int) -> Sequence[str]:
        """What a user should know before this task trains on `anchors` slices, a line each."""
        return ()

    def warm_up(self) -> int:
        """How many anchors must be trained on before the loss can be compared with `baselines`."""
        return 0

    def collapsed(self, means: Mapping[str, float]) -> str:
        """What to do if the final means of loss and `metrics` show that all slices got the same features, or ""."""
        return ""

    def if_solved_at_once(self) -> str:
        """What to change if its metric `accuracy`, of picking a view among others, is near 1 before it has learned.

        "" for a task that picks no view.
        """
        return ""

    @abstractmethod
    def build(self, backbone: Backbone) -> nn.Module:
        """Make the task's module: `forward(step: Step) -> TaskOutput`. It must not keep the backbone as a submodule."""


class BackboneSpec(Spec):
    """A network fθ with encoder and decoder.

    Call an option for start weights `weights`: it is dropped if trained weights replace them.
    """

    kind: ClassVar[str] = "backbone"
    provides: ClassVar[frozenset[Feature]] = frozenset(FEATURES)  # without a decoder: pyramid and pooled

    @abstractmethod
    def build(self, in_channels: int) -> Backbone:
        """Make the network for images (N, in_channels, H, W), with fresh weights from torch's global generator."""


class HeadSpec(Spec):
    """A downstream task on top of a pre-trained backbone.

    `output` says what it learns from, is scored by and writes: `labels` (label maps; IoU, Dice, HD95) or `image` (the
    slices themselves; PSNR, SSIM). `overlapping` says that it learns classes that overlap, too (`engine/head.py`).
    """

    kind: ClassVar[str] = "head"
    needs: ClassVar[frozenset[Feature]] = frozenset({"dense"})  # what it reads: another backbone is refused
    output: ClassVar[Output] = "labels"
    overlapping: ClassVar[bool] = False

    @abstractmethod
    def build(self, backbone: Backbone, classes: int) -> Head:
        """Make the head's module for the features of `backbone`.

        `classes` is the number of maps: the classes and the background, or of classes that overlap these alone; 0
        without labels.
        """


class PreparationSpec(Spec):
    """What is done to a scan between its cut into slices and their normalisation, with its way back.

    Pre-training, fine-tuning and prediction prepare alike: the weights carry the list.
    """

    kind: ClassVar[str] = "preparation"
    revision: ClassVar[int] = 1  # raise it when the same scan would become other slices: cached ones are then rebuilt

    @property
    def reach(self) -> int:
        """How many neighbours on either side a slice shows beside itself; companions nearer than that overlap."""
        return 0

    @property
    def patches(self) -> bool:
        """Whether slices stay larger than the network's input: it learns from patches, and predicts by windows."""
        return False

    @abstractmethod
    def prepare(self, stack: Stack, size: int) -> Stage:
        """Return the slices as they are after it, and its way back; the network will see them at `size` x `size`.

        `stack.slices` are (S, C, H, W) in the scan's own units, and are not to be changed in place. Other values:
        `Stage.of_values`; other places (crop, pad, resample): `Stage.of_places`, which interpolates, while labels are
        taken from the nearest voxel. Equal scans must give equal slices.

        Raises:
            DataError: the scan cannot be prepared so (one line; its name is added).
        """


class AugmentationSpec(Spec):
    """How slices are changed in training, so that few of them look like many. Each slice is changed by its own draws.

    `changes` says what of a slice it changes: `place` (where pixels come from: labels, companions and targets follow),
    `values`, or `batch` (a slice gets parts of other slices and of their labels; pre-training refuses it).
    """

    kind: ClassVar[str] = "augmentation"
    changes: ClassVar[frozenset[Change]]

    p: float = Field(0.2, gt=0, le=1, description="Probability that a slice is changed.")

    @abstractmethod
    def build(self) -> Augmentation:
        """Make the object that changes slices, a batch at a time, on their device."""


class SemiSpec(Spec):
    """What unlabelled slices add to a fine-tuning.

    `outputs` are the outputs of heads that it works for; `teaches` says that it asks the averaged weights.
    """

    kind: ClassVar[str] = "semi"
    outputs: ClassVar[frozenset[Output]] = frozenset({"labels"})
    teaches: ClassVar[bool] = True

    weight: float = Field(1.0, gt=0, description="Weight of the loss on unlabelled slices.")
    start: float = Field(0.5, ge=0, lt=1, description="Share of the steps after which unlabelled slices are used.")

    def pretext(self) -> Sequence[str]:
        """The pretext tasks, as texts, whose companions and losses it wants; `weight` of each counts."""
        return ()

    @abstractmethod
    def build(self) -> Semi:
        """Make the module: `forward(step: SemiStep) -> SemiOutput`."""


class BalancerSpec(Spec):
    """How the losses of several tasks are combined into one scalar to minimise."""

    kind: ClassVar[str] = "balancer"
    weighs: ClassVar[bool] = True  # False if a task's weight cancels out by design, as under a logarithm

    @abstractmethod
    def build(self, tasks: Mapping[str, TaskSpec]) -> Balancer:
        """Make the balancer for `tasks`, by label; of their specs it uses `given_weight` and `floor`."""


class MetricSpec(Spec):
    """A score of predictions on test scans: of each class in each scan, or of each slice of an image.

    `output` says what it scores: `labels` (masks of label maps) or `image` (slices).
    """

    kind: ClassVar[str] = "metric"
    title: ClassVar[str] = ""  # its name in tables; "": its `name`
    unit: ClassVar[str] = ""  # of its values, such as mm; "": a ratio
    digits: ClassVar[int] = 3  # printed after the decimal point
    higher_is_better: ClassVar[bool] = True  # which way is better
    output: ClassVar[Output] = "labels"
    pooled: ClassVar[bool] = False  # a class's value is over all voxels of all scans: `score` reads `counts` only
    mean_title: ClassVar[str] = ""  # what its mean over the classes is called; "": as the metric
    packages: ClassVar[tuple[str, ...]] = ()  # what it imports that may be missing: then it is refused before training

    @abstractmethod
    def score(self, comparison: Comparison) -> float | None:
        """Score one class in one scan, or one slice; None: undefined, counted, and in no mean.

        `comparison` has the masks (I, J, K) `predicted` and `truth`, the `spacing` in mm, and, computed once for all
        metrics, `counts`, `surfaces` and `distances`. A class that is in neither mask is undefined without a call; of
        one that is in only one of them (`comparison.counts.penalised`) give the worst value, not None. Of an image,
        `predicted` and `truth` are slices (C, H, W), normalised.
        """

    def remark(self) -> str:
        """What a reader of its values should know, such as "within 1 mm"; it is printed below tables."""
        return ""


class TrackerSpec(Spec):
    """Where a run is recorded while it is running, beside its folder.

    Without options it must work without an account and without a network.
    """

    kind: ClassVar[str] = "tracker"

    group: str = Field("", description="Name for runs that belong together; an experiment gives its own.")

    @abstractmethod
    def open(self, run: TrackedRun) -> Tracker:
        """Begin to record a run, or continue if it was resumed: `run.id` is then what it was.

        Whatever it raises, also of packages that are missing: the run continues without this tracker.
        """


class ExportSpec(Spec):
    """Another library that trained weights are written for, so that it opens them by its own means.

    `takes` says what it can write: a pre-trained `backbone`, a fine-tuned `model`. What it has written is opened again
    and compared before a user gets it (`outputs`).
    """

    kind: ClassVar[str] = "export"
    takes: ClassVar[frozenset[Exportable]] = frozenset({"backbone", "model"})
    packages: ClassVar[tuple[str, ...]] = ()  # what it imports that may be missing: then it is refused
    extra: ClassVar[str] = ""  # what pip installs them by; "": their own names
    tolerance: ClassVar[float] = 1e-5  # largest difference of outputs, relative to the largest output

    @abstractmethod
    def write(self, exported: Exported, folder: Path) -> str:
        """Write `exported` into the empty `folder`; return how it is opened there, in Markdown, for its README.md.

        Raises:
            UsageError: these weights cannot be written for it (one line).
        """

    @abstractmethod
    def outputs(self, exported: Exported, folder: Path, images: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Open what `folder` holds with the library: pairs of what `exported` makes of `images`, and what that does."""

    def publish(self, folder: Path) -> str:
        """Send the folder, once compared, where its options say; return where it is then, "" if nowhere."""
        return ""


class ReaderSpec(Spec):
    """A file format: file or folder -> `Volume`.

    For your own `read`: `ssmtl_toolkit.data.source` (bytes, gzip or not, and one-line messages for errors),
    `data.values` (scaling, NaN, narrowing), `data.geometry` (whether an affine can be used).
    """

    kind: ClassVar[str] = "reader"
    revision: ClassVar[int] = 1  # raise it when the same file would read differently: cached slices are then rebuilt
    only_labels: ClassVar[bool] = False  # whether its files are always label maps of scans, never scans

    @abstractmethod
    def matches(self, path: Path) -> bool:
        """Tell whether `path`, a file or a folder, is readable by this reader, without reading it.

        The name should suffice. If it does not, look cheaply: at the names in a folder, or at the first 132 bytes of a
        file. Never fails: a path that does not exist or cannot be read does not match, or matches by its name.
        """

    def parts(self, path: Path) -> Mapping[str, Path]:
        """The scans that a matching `path` holds: for each its name within `path`, and what to pass to `read`.

        One scan is called "". Names become parts of file names: letters, digits, - and _, nothing from free text
        fields of a file, which may name a patient.

        Raises:
            DataError: what matches is not a scan, and why (one line); it is then listed as skipped.
        """
        return {"": path}

    def files(self, path: Path) -> Sequence[Path]:
        """All files that `read(path)` reads, so that a change in any of them is noticed."""
        return (path,)

    @abstractmethod
    def read(self, path: Path, volume: int | None = None) -> Volume:
        """Read the scan at `path`; of a 4-D file the volume with index `volume`, which a 3-D one ignores.

        Raises:
            DataError: naming the file, what is wrong with it, what was got and what to do.
        """

    def read_all(self, path: Path, volumes: int) -> Sequence[Volume]:
        """Read all volumes of the 4-D file at `path`, of which there are so many, each as `read` does.

        Override it if the file can be decoded once for all of them.

        Raises:
            DataError: as `read`.
        """
        return [self.read(path, i) for i in range(volumes)]

    def in_time(self) -> Self:
        """Return the reader to use with `--axis time`.

        Another one if single slices are frames then, so that `read` refuses to choose among them by
        `SeveralVolumesError`, and `read_all` returns volumes of one slice.
        """
        return self

    def header(self, path: Path) -> Header:
        """Describe the voxels at `path` as `read(path)` would give them; quickly, for `ssmtl data info`.

        By default the scan is read (of a 4-D file the first volume). If the format has a header, return what it says
        without reading voxels: damage behind it is not looked for.

        Raises:
            DataError: as `read`.
        """
        return self.read(path, 0).without_voxels()

    def read_label(self, path: Path, image: Volume) -> Volume:
        """Read the label map at `path` of the scan that was read as `image`.

        Override it if files of this format store labels otherwise than on the whole grid of their scan: cropped, as
        some of its slices, as contours. Elsewhere the grids are compared later.

        Raises:
            DataError: as `read` does, or it does not fit to `image`.
        """
        return self.read(path)

    def classes(self, path: Path) -> Mapping[str, tuple[int, ...]]:
        """Name the classes of the label map at `path` if the file does: for each the values that it has in it.

        Other files may number the same classes differently; they are matched by their names.

        Raises:
            DataError: the file cannot be read.
        """
        return {}

    def scan_of(self, path: Path, scans: Sequence[Path]) -> Path | None:
        """Which of `scans`, paths that readers' `parts` gave out, a label map refers to; None: it does not say.

        Asked only of readers with `only_labels`. Never fails: of a damaged file it is None.
        """
        return None


class Mask(NamedTuple):
    """The mask of one structure, a file of its own: what is not 0 in it has `value` in the label map of the scan.

    `path` is None if other scans have such a mask and this one has none.
    """

    name: str
    value: int
    path: Path | None


@dataclass(frozen=True)
class Scan:
    """One scan of a dataset: where it is and whose it is. `patient` is what a split must keep together.

    `path` is the file or folder that is read. If the channels of a scan are a file each (T1, T2, FLAIR on one grid) it
    is that of the first, and `more` are those of the others in order. `contrasts` names the channels as far as their
    files do (t1n and t2f, 0000 and 0001); () if nothing does. `unfit` says why a file cannot be used as a scan
    to train on; it is listed as skipped. `annotated` lists the slices of `label` that are annotated, counted from 0 in
    the file's own order along the axis of the cut; None: all of them. `named`: the user has named this file by itself,
    not a folder that it is in. `source`: which of several sources it is of, if there are several.

    `label` is the label map. If there is one mask file per structure instead, `masks` lists them, and `label` is the
    folder that they are in; `data.labels.read_label` reads both kinds.
    """

    path: Path
    name: str
    patient: str
    modality: str = ""
    label: Path | None = None
    unfit: str = ""
    annotated: tuple[int, ...] | None = None
    named: bool = False
    more: tuple[Path, ...] = ()
    source: str = ""
    masks: tuple[Mask, ...] = ()
    contrasts: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that is read for the scan, in the order of its channels."""
        return self.path, *self.more

    @property
    def label_paths(self) -> tuple[Path, ...]:
        """All that is read for the labels: the label map, or the masks; () without labels."""
        if self.masks:
            return tuple(mask.path for mask in self.masks if mask.path is not None)
        return () if self.label is None else (self.label,)


class DatasetSpec(Spec):
    """A root on disk -> scans with patient, modality and label.

    For your own `scans`: `ssmtl_toolkit.data.finding` lists everything below a folder that some reader can read.
    """

    kind: ClassVar[str] = "dataset"

    @abstractmethod
    def scans(self, cache: Path, readers: Readers) -> list[Scan]:
        """List the scans in a fixed order. `cache` is a folder for what must be created first;
        `readers.can_read(path)` tells whether some installed reader can read a file.

        Raises:
            DataError: the root is missing or holds no scan.
        """

    def fetch(self, cache: Path, readers: Readers, waiting: Waiting) -> None:
        """Bring into the cache what lies on another machine. It is called before `scans`, each time.

        Args:
            cache: the folder for it.
            readers: `readers.can_read(path)` tells whether some installed reader can read a file of this name.
            waiting: call its `check()` now and then, which raises when the user wants to leave, and tell by its `note`.

        Raises:
            DataError: it cannot be fetched.
        """

    def layout(self) -> str:
        """What a folder was taken for, in words ("nnU-Net v2, 2 channels"); "" if there is nothing to say."""
        return ""

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        """Name the label classes without background: for each the values that it has in the label files, the first of
        them the one to write. Empty if the dataset does not define them.

        Raises:
            DataError: the file that defines them cannot be understood.
        """
        return {}

    def ignored(self) -> int | None:
        """The value of the label files that means "nobody annotated this", unless --ignore-value says another."""
        return None

    def with_contrasts(self, contrasts: Sequence[str]) -> Self:
        """The same data with these `Scan.contrasts` as the channels of each scan, unless the user has chosen some."""
        return self

    def remarks(self, scans: Sequence[Scan]) -> Sequence[str]:
        """What a user should know about the scans that were listed, a line each."""
        return ()

    def with_paths(self, change: Callable[[Path], Path]) -> Self:
        """This dataset with every path among its options changed, such as made absolute."""
        paths = {name: change(value) for name, value in self if isinstance(value, Path)}
        return self.model_copy(update=paths) if paths else self

    def suggested(self) -> Mapping[str, Any]:
        """Options of a run that fit this dataset better than the general defaults, by name."""
        return {}


def check_needs(backbone: BackboneSpec, consumers: Iterable[TaskSpec | HeadSpec]) -> None:
    """Refuse a task or head that needs a feature which the backbone does not provide; torch is not needed for it."""
    for spec in consumers:
        missing = sorted(spec.needs - backbone.provides)
        if missing:
            raise UsageError(
                f"{spec.kind} {spec.name!r} needs {', '.join(missing)} features, "
                f"which backbone {backbone.name!r} does not provide "
                f"(it provides {', '.join(sorted(backbone.provides))}); choose another backbone"
            )


def spec_classes(given: Any) -> tuple[type[Spec], ...]:
    """Spec classes that no plugin registers, as a user gives them: one, or several.

    Raises:
        UsageError: it is something else, such as a spec object.
    """
    listed = tuple(given) if isinstance(given, list | tuple) else (given,)
    for cls in listed:
        if not (isinstance(cls, type) and issubclass(cls, Spec) and hasattr(cls, "name")):
            raise UsageError(f"spec: expected the class of a backbone, head or preparation, got {cls!r}")
    return listed

"""The options of the commands as types, for editors; written by `ssmtl_toolkit.config.signatures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from ssmtl_toolkit.sources import Given
from ssmtl_toolkit.specs import (
    AugmentationSpec,
    BackboneSpec,
    BalancerSpec,
    HeadSpec,
    MetricSpec,
    PreparationSpec,
    SemiSpec,
    TaskSpec,
    TrackerSpec,
)


class RunOptions(TypedDict, total=False):
    """Options of `RunConfig`."""

    data: Given | Sequence[Given] | str
    without: Path | str | None
    held_out: Literal["auto"] | int
    axis: Literal["axial", "coronal", "sagittal", "acquisition", "time"]
    prepare: Sequence[PreparationSpec | str] | PreparationSpec | str
    size: int
    volume: Literal["all"] | int | None
    window: tuple[float, float] | None
    normalise: str
    skip_bad: bool
    backbone: BackboneSpec | str
    tasks: Sequence[TaskSpec | str] | TaskSpec | str
    balancer: BalancerSpec | str
    head: HeadSpec | str | None
    source: Path | str | None
    prefix: str | None
    min_transfer: float | None
    epochs: int
    steps: int | None
    batch_size: int
    patients_per_batch: int | None
    read_order: Literal["shuffled", "blocks"]
    accumulate: int
    augment: Sequence[AugmentationSpec | str] | AugmentationSpec | str
    optimizer: str
    lr: float
    schedule: str
    weight_decay: float
    clip: float | None
    on_nan: str
    seed: int
    precision: Literal["auto", "32", "bf16"]
    accelerator: str
    devices: int
    nodes: int
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
    rank_timeout: float
    store: Literal["auto", "disk", "ram", "gpu"]
    channels_last: Literal["auto", "on", "off"]
    checkpoint_activations: bool
    compile: bool
    probe: Given | Sequence[Given] | str | None
    probe_every: int | None
    probe_slices: int
    checkpoint_every: int
    keep: int
    snapshot_every: int | None
    log_every: int
    gradient_norms: bool
    report: bool
    track: Sequence[TrackerSpec | str] | TrackerSpec | str


class FinetuneOptions(TypedDict, total=False):
    """Options of `FinetuneConfig`."""

    data: Given | Sequence[Given] | str
    classes: str | None
    ignore_value: int | None
    ignore_affine: bool
    empty_frames: Literal["ignore", "background"]
    axis: Literal["axial", "coronal", "sagittal", "acquisition", "time"]
    prepare: Sequence[PreparationSpec | str] | PreparationSpec | str
    size: int
    volume: Literal["all"] | int | None
    window: tuple[float, float] | None
    normalise: str
    skip_bad: bool
    patient: str | None
    split: Path | str | None
    fold: int | None
    folds: Literal["all"] | int | None
    train_scans: int | None
    slices_per_scan: int | None
    slices: Literal["auto", "foreground", "any"]
    validation_scans: int
    test_scans: int | None
    semi: SemiSpec | str | None
    unlabelled: Given | Sequence[Given] | str | None
    transductive: bool
    source: Path | str | None
    prefix: str | None
    backbone: BackboneSpec | str | None
    head: HeadSpec | str
    freeze: Literal["none", "encoder", "backbone"]
    transfer: Literal["all", "encoder"]
    min_transfer: float | None
    recipe: str
    augment: Sequence[AugmentationSpec | str] | AugmentationSpec | str
    sampling: Literal["even", "rare"]
    steps: int
    batch_size: int
    optimizer: str
    lr: float
    schedule: str
    weight_decay: float
    clip: float | None
    on_nan: str
    average: float
    encoder_lr: float | None
    decoder_lr: float | None
    pretrained_lr: float
    frozen_steps: int
    patience: int
    check_every: int
    seed: int
    seeds: int
    baseline: Literal["none", "scratch"]
    precision: Literal["auto", "32", "bf16"]
    accelerator: str
    channels_last: Literal["auto", "on", "off"]
    checkpoint_activations: bool
    metrics: Sequence[MetricSpec | str] | MetricSpec | str
    surface: bool | None
    tolerance: float
    log_every: int
    report: bool
    track: Sequence[TrackerSpec | str] | TrackerSpec | str


class PredictOptions(TypedDict, total=False):
    """Options of `PredictConfig`."""

    volume: Literal["all"] | int | None
    head: str | None
    tta: Literal["none", "flips"]
    batch_size: int
    precision: Literal["auto", "32", "bf16"]
    accelerator: str
    smooth: float
    largest_component: str
    probabilities: bool
    overlay: bool
    existing: Literal["error", "skip", "overwrite"]


class EvaluateOptions(TypedDict, total=False):
    """Options of `EvaluateConfig`."""

    classes: str | None
    ignore_value: int | None
    ignore_affine: bool
    empty_frames: Literal["ignore", "background"]
    volume: int | None
    metrics: Sequence[MetricSpec | str] | MetricSpec | str
    surface: bool | None
    tolerance: float


class FewshotOptions(TypedDict, total=False):
    """Options of `FewshotConfig`."""

    methods: Sequence[str] | str
    budgets: Sequence[str | int] | str | int
    draws: int
    pretrainings: int
    t: int | str
    backbone: BackboneSpec | str
    semi: SemiSpec | str | None
    recipe: str
    patient: str | None
    split: Path | str | None
    test_scans: int | None
    validation_scans: int
    score: Literal["test", "validation"]
    seed: int
    unlabelled: Given | Sequence[Given] | str | None
    classes: str | None
    ignore_value: int | None
    ignore_affine: bool
    axis: Literal["axial", "coronal", "sagittal", "acquisition", "time"]
    prepare: Sequence[PreparationSpec | str] | PreparationSpec | str
    size: int
    volume: Literal["all"] | int | None
    window: tuple[float, float] | None
    normalise: str
    skip_bad: bool
    precision: Literal["auto", "32", "bf16"]
    accelerator: str
    metrics: Sequence[MetricSpec | str] | MetricSpec | str
    surface: bool | None
    tolerance: float
    report: bool
    track: Sequence[TrackerSpec | str] | TrackerSpec | str
    pretrain: Mapping[str, Any]
    finetune: Mapping[str, Any]


class AffinityOptions(TypedDict, total=False):
    """Options of `AffinityConfig`."""

    tasks: Sequence[TaskSpec | str] | TaskSpec | str
    steps: int
    budget: str | int
    draws: int
    pretrainings: int
    slices: int
    backbone: BackboneSpec | str
    recipe: str
    patient: str | None
    split: Path | str | None
    validation_scans: int | None
    test_scans: int | None
    seed: int
    unlabelled: Given | Sequence[Given] | str | None
    classes: str | None
    ignore_value: int | None
    ignore_affine: bool
    axis: Literal["axial", "coronal", "sagittal", "acquisition", "time"]
    prepare: Sequence[PreparationSpec | str] | PreparationSpec | str
    size: int
    volume: Literal["all"] | int | None
    window: tuple[float, float] | None
    normalise: str
    skip_bad: bool
    precision: Literal["auto", "32", "bf16"]
    accelerator: str
    metrics: Sequence[MetricSpec | str] | MetricSpec | str
    surface: bool | None
    tolerance: float
    report: bool
    track: Sequence[TrackerSpec | str] | TrackerSpec | str
    pretrain: Mapping[str, Any]
    finetune: Mapping[str, Any]

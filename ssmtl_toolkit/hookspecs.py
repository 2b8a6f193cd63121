"""The six hooks a plugin may implement; each returns a list of spec classes."""

from __future__ import annotations

import pluggy

from ssmtl_toolkit.specs import BackboneSpec, BalancerSpec, DatasetSpec, HeadSpec, ReaderSpec, TaskSpec

hookspec = pluggy.HookspecMarker("ssmtl")
hookimpl = pluggy.HookimplMarker("ssmtl")


@hookspec
def ssmtl_tasks() -> list[type[TaskSpec]]:  # type: ignore[empty-body]
    """Pretext tasks, for `--task`: each a `TaskSpec` whose module turns a `Step` into a `TaskOutput`."""


@hookspec
def ssmtl_backbones() -> list[type[BackboneSpec]]:  # type: ignore[empty-body]
    """Networks, for `--backbone`: each a `BackboneSpec` that builds a `Backbone` with encoder and decoder."""


@hookspec
def ssmtl_heads() -> list[type[HeadSpec]]:  # type: ignore[empty-body]
    """Downstream tasks, for `--head`: each a `HeadSpec` that builds a module on a backbone's features."""


@hookspec
def ssmtl_balancers() -> list[type[BalancerSpec]]:  # type: ignore[empty-body]
    """Ways to make one loss of several, for `--balancer`: each a `BalancerSpec`."""


@hookspec
def ssmtl_readers() -> list[type[ReaderSpec]]:  # type: ignore[empty-body]
    """File formats: each a `ReaderSpec` that turns a file or folder into a `Volume`."""


@hookspec
def ssmtl_datasets() -> list[type[DatasetSpec]]:  # type: ignore[empty-body]
    """Places where scans are, for `--data`: each a `DatasetSpec` that lists them with patient and modality."""

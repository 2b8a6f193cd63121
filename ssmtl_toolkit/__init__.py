"""Self-supervised multi-task pre-training on sequential medical images, everything in it a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError

if TYPE_CHECKING:
    from ssmtl_toolkit.config import (
        AffinityConfig,
        EvaluateConfig,
        FewshotConfig,
        FinetuneConfig,
        PredictConfig,
        RunConfig,
    )
    from ssmtl_toolkit.downstream.finetune import Finetuned, finetune
    from ssmtl_toolkit.downstream.loading import load_backbone, load_model
    from ssmtl_toolkit.downstream.predict import predict
    from ssmtl_toolkit.downstream.predicted import Predicted
    from ssmtl_toolkit.evaluation.evaluate import Evaluated, evaluate
    from ssmtl_toolkit.experiments.affinity.execution import Affinity, affinity
    from ssmtl_toolkit.experiments.execution import Compared, experiment
    from ssmtl_toolkit.experiments.fewshot.execution import Fewshot, fewshot
    from ssmtl_toolkit.exporting.export import Export, export
    from ssmtl_toolkit.hookspecs import hookimpl
    from ssmtl_toolkit.inspection.info import DataInfo, data_info
    from ssmtl_toolkit.pretraining.pretrain import Run, pretrain
    from ssmtl_toolkit.reporting.report import report
    from ssmtl_toolkit.runtime.arrays import from_arrays

_LAZY = {
    "Affinity": "ssmtl_toolkit.experiments.affinity.execution",
    "AffinityConfig": "ssmtl_toolkit.config",
    "Compared": "ssmtl_toolkit.experiments.execution",
    "DataInfo": "ssmtl_toolkit.inspection.info",
    "EvaluateConfig": "ssmtl_toolkit.config",
    "Evaluated": "ssmtl_toolkit.evaluation.evaluate",
    "Export": "ssmtl_toolkit.exporting.export",
    "Fewshot": "ssmtl_toolkit.experiments.fewshot.execution",
    "FewshotConfig": "ssmtl_toolkit.config",
    "FinetuneConfig": "ssmtl_toolkit.config",
    "Finetuned": "ssmtl_toolkit.downstream.finetune",
    "PredictConfig": "ssmtl_toolkit.config",
    "Predicted": "ssmtl_toolkit.downstream.predicted",
    "Run": "ssmtl_toolkit.pretraining.pretrain",
    "RunConfig": "ssmtl_toolkit.config",
    "affinity": "ssmtl_toolkit.experiments.affinity.execution",
    "data_info": "ssmtl_toolkit.inspection.info",
    "evaluate": "ssmtl_toolkit.evaluation.evaluate",
    "experiment": "ssmtl_toolkit.experiments.execution",
    "export": "ssmtl_toolkit.exporting.export",
    "fewshot": "ssmtl_toolkit.experiments.fewshot.execution",
    "finetune": "ssmtl_toolkit.downstream.finetune",
    "from_arrays": "ssmtl_toolkit.runtime.arrays",
    "hookimpl": "ssmtl_toolkit.hookspecs",
    "load_backbone": "ssmtl_toolkit.downstream.loading",
    "load_model": "ssmtl_toolkit.downstream.loading",
    "predict": "ssmtl_toolkit.downstream.predict",
    "pretrain": "ssmtl_toolkit.pretraining.pretrain",
    "report": "ssmtl_toolkit.reporting.report",
}

__all__ = [
    "Affinity",
    "AffinityConfig",
    "Compared",
    "DataError",
    "DataInfo",
    "EvaluateConfig",
    "Evaluated",
    "Export",
    "Fewshot",
    "FewshotConfig",
    "FinetuneConfig",
    "Finetuned",
    "PredictConfig",
    "Predicted",
    "Run",
    "RunConfig",
    "SsmtlError",
    "UsageError",
    "affinity",
    "data_info",
    "evaluate",
    "experiment",
    "export",
    "fewshot",
    "finetune",
    "from_arrays",
    "hookimpl",
    "load_backbone",
    "load_model",
    "predict",
    "pretrain",
    "report",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch or pydantic when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'ssmtl_toolkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""The options of the commands, one validated object each: flags, TOML and Python share it.

Each is in a file of its own, which is imported when it is first asked for: a command needs not those of the others.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssmtl_toolkit.config.affinity import AffinityConfig as AffinityConfig
    from ssmtl_toolkit.config.base import Config as Config
    from ssmtl_toolkit.config.base import Machine as Machine
    from ssmtl_toolkit.config.base import Role as Role
    from ssmtl_toolkit.config.base import Training as Training
    from ssmtl_toolkit.config.base import explain_missing_plugin as explain_missing_plugin
    from ssmtl_toolkit.config.base import with_absolute_paths as with_absolute_paths
    from ssmtl_toolkit.config.evaluate import EvaluateConfig as EvaluateConfig
    from ssmtl_toolkit.config.few_labels import Budget as Budget
    from ssmtl_toolkit.config.few_labels import FewLabels as FewLabels
    from ssmtl_toolkit.config.fewshot import FewshotConfig as FewshotConfig
    from ssmtl_toolkit.config.finetune import FinetuneConfig as FinetuneConfig
    from ssmtl_toolkit.config.finetune import ResolvedFinetune as ResolvedFinetune
    from ssmtl_toolkit.config.finetune import check_pattern as check_pattern
    from ssmtl_toolkit.config.predict import PredictConfig as PredictConfig
    from ssmtl_toolkit.config.run import ResolvedRun as ResolvedRun
    from ssmtl_toolkit.config.run import RunConfig as RunConfig

_FILES = {
    "affinity": ("AffinityConfig",),
    "base": ("Config", "Machine", "Role", "Training", "explain_missing_plugin", "with_absolute_paths"),
    "evaluate": ("EvaluateConfig",),
    "few_labels": ("Budget", "FewLabels"),
    "fewshot": ("FewshotConfig",),
    "finetune": ("FinetuneConfig", "ResolvedFinetune", "check_pattern"),
    "predict": ("PredictConfig",),
    "run": ("ResolvedRun", "RunConfig"),
}
_FILE_OF = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_FILE_OF[name]}"), name)

"""The arms of the comparison: every method with all its options, and its twins: from scratch, and with --semi."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config import FewshotConfig, FinetuneConfig, ResolvedFinetune, ResolvedRun, RunConfig
from ssmtl_toolkit.config.finetune import STARTING
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.experiments.fewshot.methods import Method, read_methods
from ssmtl_toolkit.experiments.fewshot.weights import locate
from ssmtl_toolkit.experiments.overlays import merged
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, DatasetSpec, TaskSpec

_SHARED = ("precision", "accelerator", "skip_bad", *Slicing.model_fields)  # by pre-training and fine-tuning
_LABELS = ("recipe", "classes", "ignore_value", "ignore_affine", "metrics", "surface", "tolerance")
_SLICING = {name: f"--{name}" for name in Slicing.model_fields}
_OURS = {  # what an option of `ssmtl run` or `ssmtl finetune` is called here
    "pretrain": _SLICING
    | {"data": "DATA", "backbone": "--backbone", "tasks": "--method", "without": "--split", "seed": "--seed"},
    "finetune": _SLICING
    | {"data": "DATA", "backbone": "--backbone", "source": "--method", "baseline": "--method", "semi": "--semi"}
    | {"split": "--split", "fold": "--split", "folds": "--split", "patient": "--patient"}
    | {"train_scans": "--budget", "slices_per_scan": "--budget"}
    | {"test_scans": "--test-scans", "validation_scans": "--validation-scans", "unlabelled": "--unlabelled"}
    | {"seed": "--seed", "seeds": "--draws", "recipe": "--recipe"},
}
_WITHOUT_A_START = {name: FinetuneConfig.model_fields[name].default for name in ("source", *STARTING)}
"""Options without effect from scratch, in which an arm differs from its twin."""


@dataclass(frozen=True)
class Arm:
    """One line of the table at each budget.

    Attributes:
        id: the method's short name, with `+SEMI` if it also learns from unlabelled scans.
        twin: the id of the arm that it is compared with: its own network from scratch, fine-tuned in the same way; of
            an arm from scratch with --semi, that without; None: of nothing.
        pretrain: None: from scratch, or from a file; its data and seed are placeholders.
        finetune: its data, split, seed and source are placeholders.
        weights: the file to start from, as the method names it.
    """

    id: str
    name: str
    twin: str | None
    pretrain: ResolvedRun | None
    finetune: ResolvedFinetune
    weights: Path | None

    @property
    def starts_fresh(self) -> bool:
        """Whether it starts from scratch."""
        return self.pretrain is None and self.weights is None


def arms_of(config: FewshotConfig, dataset: DatasetSpec, methods: Mapping[str, Method] | None = None) -> list[Arm]:
    """All arms, each after its twin; `config` is resolved, and all options are checked.

    `methods`: instead of those that the options name.

    Raises:
        UsageError: an option is wrong, or weights or a plugin are missing.
    """
    _refuse_ours(config.pretrain, config.finetune, "--set")
    methods = read_methods(config.methods, config.t) if methods is None else methods
    arms = [_arm(id, method, config, dataset) for id, method in methods.items()]
    if config.semi is not None:
        arms += [_with_semi(arm, config) for arm in arms if arm.finetune.semi is None]
    return _Twins(arms, config.backbone).all()


def _refuse_ours(pretrain: Mapping[str, Any], finetune: Mapping[str, Any], where: str) -> None:
    """Refuse options that are those of this command, and the same for all methods."""
    for table, given in (("pretrain", pretrain), ("finetune", finetune)):
        for option in given:
            if option in _OURS[table]:
                raise UsageError(
                    f"{where}: {table}.{option} is set by this command for all methods; see {_OURS[table][option]}"
                )


def _arm(id: str, method: Method, config: FewshotConfig, dataset: DatasetSpec) -> Arm:
    """One arm, without its twin; a method may learn from unlabelled scans by itself."""
    where = f"method {id!r}"
    _refuse_ours(method.pretrain, {k: v for k, v in method.finetune.items() if k != "semi"}, where)
    try:
        backbone = registry().resolve(BackboneSpec, method.backbone or config.backbone)
        tasks = tuple(registry().resolve(TaskSpec, task) for task in method.tasks)
        options = {"held_out": 0, **config.given(_SHARED), **merged(config.pretrain, method.pretrain, where)}
        run = RunConfig.of(options | {"data": dataset, "backbone": backbone} | ({"tasks": tasks} if tasks else {}))
        run = run.resolve()
        if run.devices * run.nodes > 1:
            raise UsageError("trains on one device, not several; start the command once for each GPU")
        if run.probe is not None:
            raise UsageError("pretrain.probe would choose by labels that no budget has; omit it")
        options = {**dict(run.slicing), **config.given((*_SHARED, *_LABELS)), **config.finetune, **method.finetune}
        options |= {"data": dataset, "backbone": backbone}
        options |= {} if method.starts_fresh else {"source": Path("start")}
        options |= {"transfer": "encoder"} if method.weights else {}
        finetune = FinetuneConfig.of(options).resolve()
        weights = locate(method.weights) if method.weights else None
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return Arm(id, method.name, None, run if tasks else None, finetune, weights)


def _with_semi(arm: Arm, config: FewshotConfig) -> Arm:
    """The twin of an arm that learns from unlabelled scans too."""
    finetune = arm.finetune.model_copy(update={"semi": config.semi})
    finetune.check()
    return replace(arm, id=f"{arm.id}+{config.semi}", name=f"{arm.name} + {config.semi}", finetune=finetune)


class _Twins:
    """Finds the twin of each arm, and makes those that are missing."""

    def __init__(self, arms: Sequence[Arm], usual: BackboneSpec | str) -> None:
        self.arms, self.usual = arms, usual
        self.fresh = {arm.finetune.write(): arm for arm in arms if arm.starts_fresh}

    def all(self) -> list[Arm]:
        """The arms, each after its twin."""
        every = [each for arm in self.arms for each in self._line(arm)]
        return list({arm.id: arm for arm in every}.values())

    def _line(self, arm: Arm) -> list[Arm]:
        """An arm behind its twin, and that behind its own."""
        if arm.starts_fresh and arm.finetune.semi is None:
            return [arm]
        changes = {"semi": None} if arm.starts_fresh else _WITHOUT_A_START
        twin = replace(arm, pretrain=None, weights=None, finetune=arm.finetune.model_copy(update=changes))
        line = self._line(self._known(twin))
        return [*line, replace(arm, twin=line[-1].id)]

    def _known(self, twin: Arm) -> Arm:
        """The arm from scratch that is fine-tuned like this one; itself, under another name, if there is none."""
        recipe = twin.finetune.write()
        if recipe not in self.fresh:
            semi = f"+{twin.finetune.semi}" if twin.finetune.semi else ""
            base, _, _ = twin.id.partition("+")
            id, name = f"scratch{semi}", "from scratch"
            if twin.finetune.backbone != self.usual:
                id, name = f"scratch_{base}{semi}", f"from scratch ({twin.finetune.backbone})"
            elif id in {arm.id for arm in [*self.arms, *self.fresh.values()]}:
                id, name = f"scratch_{base}{semi}", f"from scratch, as {base}"
            name = f"{name} + {twin.finetune.semi}" if semi else name
            self.fresh[recipe] = replace(twin, id=id, name=name)
        return self.fresh[recipe]

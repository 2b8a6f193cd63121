"""The losses of slices that are not trained on, beside those of slices that are, now and then in a training.

Looking leaves no trace: a training with held-out scans ends with the same bits as one that never heard of them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.sampling import FixedSample, Plan
from ssmtl_toolkit.data.seeds import Stream, step_seed
from ssmtl_toolkit.data.split import choose
from ssmtl_toolkit.data.store import SliceStore
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import SharedEncoder
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.foreign import by_the_user, explained
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.runtime.device import seed_all
from ssmtl_toolkit.runtime.log import RunningMeans
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.text import counted, listed

_LOOKS, _FEWEST, _MOST = 10, 2, 4  # looks in a training, batches of each kind in a look
_SHARE = 0.056  # batches looked at for each that is trained on, which takes two (MoCo V2) to four times as long


@dataclass(frozen=True)
class HeldOut:
    """The scans that are not trained on, and which of their slices can be anchors."""

    store: SliceStore
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "scans": [stored.scan.name for stored in self.store.scans],
            "slices": len(self.store.slices),
            "anchors": len(self.plan.anchors),
        }

    def without_pairs(self) -> list[str]:
        """The tasks, by label, for which none of these slices has what it asks for."""
        return [
            label
            for label, names in self.plan.columns.items()
            if any(self.plan.pairs[column] == 0 for column in names.values())
        ]


class Watch:
    """Measures the losses of two fixed samples of slices: of the held-out scans, and of as many that are trained on.

    Attributes:
        steps: after which steps of the training it is to be done; the last is one of them.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: ResolvedRun,
        model: MultiTask,
        seen: tuple[SliceStore, Plan],
        held_out: HeldOut,
        steps: int,
    ) -> None:
        """`seen` is what is trained on, for so many steps."""
        self.fabric, self.config, self.model = fabric, config, model
        self.seed = step_seed(config.seed, Stream.HELD_OUT)
        allowed = _SHARE * steps * config.accumulate
        batches = max(_FEWEST, min(_MOST, int(allowed / 2 / _LOOKS)))
        looks = max(1, min(_LOOKS, int(allowed / 2 / batches)))
        self.steps = {math.ceil(i * steps / looks) for i in range(1, looks + 1)}
        store, plan = seen
        held = len(held_out.store.scans) - len(held_out.plan.idle)
        alike = choose(held, sorted(set(range(len(store.scans))) - set(plan.idle)), self.seed)
        anchors = {"held_out": held_out.plan.anchors, "seen": plan.anchors_of(alike)}
        number = min(batches * config.batch_size, *map(len, anchors.values()))
        sources = {"held_out": (held_out.store, held_out.plan), "seen": seen}
        self._augmenter = Augmenter(config.augment)
        self._samples: dict[str, tuple[Loader, int]] = {}
        for name, (slices, pairs) in sources.items():
            sample = FixedSample(pairs, anchors[name], number, config.batch_size, self.seed)
            self._samples[name] = Loader(slices, sample, fabric.device), len(sample.batches)

    def measure(self, step: int) -> dict[str, float]:
        """The losses and trivial answers, in eval mode; all ranks get the same. Nothing that is not finite is listed.

        Returns:
            `label/held_out` and `label/seen`, and for each trivial answer `label/held_out_NAME` and `label/seen_NAME`.

        Raises:
            SsmtlError: naming the task that cannot do without gradient or in eval mode.
        """
        measured: dict[str, float] = {}
        with self._naming_task(step), leaving_no_trace(self.model), uncompiled(self.config), torch.no_grad():
            self.model.eval()
            for name, (load, batches) in self._samples.items():
                measured |= self._means(name, load, batches)
        return {key: value for key, value in measured.items() if math.isfinite(value)}

    def _means(self, name: str, load: Loader, batches: int) -> dict[str, float]:
        """Means over the pairs of one sample's batches."""
        running = RunningMeans({str(task): task.metrics for task in self.config.tasks}, called=self.model.called)
        for index in range(batches):
            seed_all(step_seed(self.seed, index), self.fabric.device)
            batch = self._augmenter.with_views(load(index))  # tasks that compare views are watched at what they learn
            batch.first = False  # no weights were updated
            with self.fabric.autocast():
                running.add(self.model.outputs(batch, SharedEncoder(self.model.backbone)))
        means = running.means()
        wanted = {
            f"{task}/{metric}": f"{task}/{name}_{metric}" for task in self.config.tasks for metric in task.baselines
        }
        wanted |= {f"{task}/loss": f"{task}/{name}" for task in self.config.tasks}
        return {key: means[logged] for logged, key in wanted.items() if logged in means}

    @contextlib.contextmanager
    def _naming_task(self, step: int) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if isinstance(error, SsmtlError) or by_the_user(error):
                raise
            raise SsmtlError(
                f"{self.model.called(self.model.running or '')} failed on held-out slices, in eval mode and without "
                f"gradient, after step {step}: {explained(error)}; --held-out 0 trains without them"
            ) from error


def uncompiled(config: ResolvedRun) -> contextlib.AbstractContextManager[Any]:
    """Run a compiled network as it is: compiling once more, for eval mode, would take longer than it saves."""
    stance = getattr(torch.compiler, "set_stance", None)  # from torch 2.6 on
    return stance("force_eager") if config.compile and stance else contextlib.nullcontext()


@contextlib.contextmanager
def leaving_no_trace(model: nn.Module) -> Iterator[None]:
    """Put back what looking at other slices may change: modes, buffers, parameters without gradient, random numbers.

    Parts that keep the contract change none of it in eval mode but the modes; one that does not spoils nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in _moved_by_themselves(model)}
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for name, tensor in _moved_by_themselves(model):
                tensor.copy_(before[name])


def _moved_by_themselves(model: nn.Module) -> list[tuple[str, Tensor]]:
    """All that no optimizer moves: buffers, and parameters without gradient, such as those of momentum encoders."""
    frozen = [(name, parameter.detach()) for name, parameter in model.named_parameters() if not parameter.requires_grad]
    return [*model.named_buffers(), *frozen]


def tell_held_out(held_out: HeldOut | None, scans: int, progress: Progress) -> None:
    """Say before the first step which of so many scans are not trained on, and which tasks they say nothing about."""
    if held_out is None:
        progress.say(f"held out  none of {counted(scans, 'scan')}: learning cannot be told from memorising")
        return
    held, slices = len(held_out.store.scans), counted(len(held_out.store.slices), "slice")
    progress.say(f"held out  {held} of {scans} scans, {slices}: not trained on, their loss is watched")
    if labels := held_out.without_pairs():
        progress.note(
            f"{listed(labels, 5)}: the held-out scans have no pair for it, so its loss is not watched; hold out more "
            f"by --held-out N"
        )

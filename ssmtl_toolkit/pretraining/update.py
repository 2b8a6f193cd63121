"""One weight update: batches forward and backward, Adam, and what the balancer and the log get from it.

The loss that is minimised is the plain mean, over ranks and accumulated batches, of what each one's losses (means over
its own pairs) amount to, whether they have equally many pairs or not. Balancers and the log get means over all pairs.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from traceback import walk_tb

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor

from ssmtl_toolkit.config import ResolvedRun
from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.engine.auto_weight import MEASURED
from ssmtl_toolkit.engine.backbone import Features
from ssmtl_toolkit.engine.balancer import PairMeans, Shared
from ssmtl_toolkit.engine.contract import is_out_of_memory
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import Batch, SharedEncoder, TaskOutput
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.foreign import attributed, by_the_user, explained, foreign
from ssmtl_toolkit.pretraining.loader import Loader
from ssmtl_toolkit.runtime.device import seed_all
from ssmtl_toolkit.runtime.health import BadStep, Health, allowed_skips, buffers_of
from ssmtl_toolkit.runtime.heartbeat import position
from ssmtl_toolkit.runtime.log import RunningMeans
from ssmtl_toolkit.specs import named


class Updater:
    """Does weight updates, one after the other."""

    def __init__(
        self,
        fabric: Fabric,
        config: ResolvedRun,
        wrapped: _FabricModule,
        optimizer: _FabricOptimizer,
        load: Loader,
        running_means: RunningMeans,
        weights: Mapping[str, float],
        looks: Container[int] = (),
    ) -> None:
        """`wrapped` and `optimizer` come from `fabric.setup` of a `MultiTask`; `weights` are its tasks' own.

        In the steps `looks` gradients are measured, whatever --gradient-norms says.
        """
        self.fabric, self.config, self.load, self.running_means = fabric, config, load, running_means
        self.wrapped, self.optimizer, self.weights = wrapped, optimizer, weights
        model = wrapped.module
        assert isinstance(model, MultiTask)
        self.model = model
        self.looks, self._norms = looks, dict[str, Tensor]()
        self._modules, self._parameters = list(model.modules()), list(model.parameters())
        skips = allowed_skips(config.on_nan)
        self.health = Health(optimizer.optimizer, self._moved, fabric.device, skips)

    def __call__(self, step: int) -> BadStep | None:
        """Do the update after `step` others: forward and backward of `accumulate` batches, then Adam.

        Returns the step whose losses or gradient are not finite, if that is known now: this one, which has then changed
        nothing, or on a GPU an earlier one, after which no weight was changed.
        """
        if bad := self.health.begin():
            return bad
        feedback = self.model.balancer.feedback
        norms = GradientNorms(self.weights) if self._shows_norms(step + 1) else None
        buffers = self._buffers() if feedback == "change" else {}
        before, parts = PairMeans(), []
        for part in range(self.config.accumulate):
            outputs = self._descend(step, part, norms)
            parts.append(outputs)
            if feedback != "nothing":
                _add(before, outputs)
        losses = {k: torch.stack([one[k].loss.detach() for one in parts]).sum() for k in self.model.labels}
        if bad := self.health.check(step + 1, losses, self._parameters):
            self.optimizer.zero_grad(set_to_none=True)
            return bad
        for outputs in parts:
            self.running_means.add(outputs)
        if self.config.clip is not None:
            clip = self.config.clip
            self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if feedback != "nothing":
            after = self._again(step, buffers) if feedback == "change" else None
            with foreign(f"{self.model.called('')}, updated after step {step + 1},"):
                self.model.balancer.updated(before.get(), after)
        self._norms = norms.get() if norms else {}
        return None

    def extra_metrics(self) -> dict[str, float]:
        """What the log records of the last update besides losses, where known.

        That is `label/weight`, by the balancer, `label/auto_weight` and `label/gradient`.
        """
        weights = {f"{label}/weight": float(weight) for label, weight in self.model.balancer.factors.items()}
        auto = self.model.auto.values() if self.model.auto else {}
        weights |= {f"{label}/auto_weight": weight for label, weight in auto.items()}
        return weights | {f"{label}/gradient": float(norm) for label, norm in self._norms.items()}

    def _descend(self, step: int, part: int, norms: GradientNorms | None) -> dict[str, TaskOutput]:
        config = self.config
        with self.fabric.no_backward_sync(self.wrapped, enabled=part < config.accumulate - 1), self._memory():
            batch = self._batch(step, part)
            with self._task(step, part, batch):
                position.moved(lambda: self._place(step))
                measure = self.model.auto is not None and part == 0 and step + 1 in MEASURED
                loss, outputs = self.wrapped(batch, norms, measure) if norms or measure else self.wrapped(batch)
                position.moved(lambda: f"backward pass of step {step + 1}")
                self.fabric.backward(loss / config.accumulate)
        by_label: dict[str, TaskOutput] = outputs
        return by_label

    def _place(self, step: int) -> str:
        """Where in a forward pass this process is."""
        label = self.model.running
        return f"task {label!r} in step {step + 1}" if label else f"step {step + 1}"

    def _batch(self, step: int, part: int) -> Batch:
        """A batch of this update; torch's generators are seeded for it."""
        index = step * self.config.accumulate + part
        seed_all(step_seed(self.config.seed, index, self.fabric.global_rank), self.fabric.device)
        return self.load(index)

    @torch.no_grad()
    def _again(self, step: int, buffers: Mapping[str, Tensor]) -> Tensor:
        """Losses of this update's batches with the new weights, all else (draws, queues …) as it was before it.

        Leaves no trace: buffers are put back, and the tasks' parameters, which momentum encoders move by themselves.
        """
        now, parameters = self._buffers(), [parameter.clone() for parameter in self.model.tasks.parameters()]
        self._put_back(buffers)
        after = PairMeans()
        for part in range(self.config.accumulate):
            batch = self._batch(step, part)
            batch.first = False  # momentum encoders have already followed
            with self._memory(), self._task(step, part, batch), self.fabric.autocast():
                _add(after, self.model.outputs(batch, SharedEncoder(self.model.backbone)))
        self._put_back(now)
        for parameter, value in zip(self.model.tasks.parameters(), parameters, strict=True):
            parameter.copy_(value)
        return after.get()

    @contextmanager
    def _memory(self) -> Iterator[None]:
        """Say what to do if the memory is not enough."""
        config = self.config
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            which = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
            task = f" in {self.model.called(self.model.running)}" if self.model.running else ""
            raise SsmtlError(
                f"not enough {which} for {config.batch_size} slices of {config.size} x {config.size} pixels{task}; "
                f"try --checkpoint-activations, a smaller --batch-size with --accumulate, or --precision bf16"
            ) from error

    @contextmanager
    def _task(self, step: int, part: int, batch: Batch) -> Iterator[None]:
        """Name the part in whose code an error arises; a task with its pairs: batch norm wants more than one."""
        try:
            yield
        except SsmtlError as error:
            if (label := self.model.running) is None:
                raise
            raise attributed(error, f"{self.model.called(label)}, step {step + 1}", label) from error
        except BaseException as error:
            if is_out_of_memory(error):
                raise
            label, usual = self.model.running, isinstance(error, RuntimeError | ValueError)
            if by_the_user(error) or (usual and label is None and self.fabric.world_size > 1):  # a rank may be gone
                raise
            at = f"failed in step {step + 1}"
            if label is None:
                raise SsmtlError(f"{self._to_blame(step, part)} {at}: {explained(error)}") from error
            if not usual and _in_backbone(error):
                raise SsmtlError(f"{named(self.config.backbone)} {at}: {explained(error)}") from error
            companions = batch.companions.get(label, {}).values()
            pairs = min((len(companion.image) for companion in companions), default=len(batch.anchor))
            number = f"{pairs} pair{'' if pairs == 1 else 's'}"
            few = f"; a larger --batch-size makes such batches rarer; the task must take {number}" if pairs < 2 else ""
            on = f"on a batch of {len(batch.anchor)} slices with {number}"
            raise SsmtlError(f"{self.model.called(label)} {at} {on}: {explained(error, few)}") from error

    def _to_blame(self, step: int, part: int) -> str:
        """What failed outside of tasks' forward: backward passes, each tried again by itself, or the balancer."""
        failing, rest = list[str](), self.model.called("") if self.model.balancing else "the backward pass"
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with _quietly(), self.fabric.autocast():
            outputs = self.model.outputs(self._batch(step, part), SharedEncoder(self.model.backbone))
            for label, output in outputs.items():
                failing.append(self.model.called(label))
                with _quietly():
                    torch.autograd.grad(output.loss, parameters, retain_graph=True, allow_unused=True)
                    failing.pop()
        return f"the backward pass of {' and '.join(failing)}" if failing else rest

    def _moved(self) -> list[Tensor]:
        """What a step changes beside what the optimizer does: buffers, and the tasks' own (momentum encoders).

        These only where steps are skipped: a step that is repeated may follow them once more.
        """
        return [*buffers_of(self._modules), *(self.model.tasks.parameters() if self.health.skips else ())]

    def _buffers(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self.model.named_buffers()}

    def _put_back(self, buffers: Mapping[str, Tensor]) -> None:
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])

    def _shows_norms(self, step: int) -> bool:
        return step in self.looks or (self.config.gradient_norms and logs_after(step, self.config.log_every))


def logs_after(step: int, every: int) -> bool:
    """Whether metrics.jsonl gets a line after this step: the first, that of the untrained network, and every n-th."""
    return step == 1 or step % every == 0


class GradientNorms:
    """Norms of the gradients of each task's weight x loss at the backbone's parameters, over an update's batches."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._sum: Tensor | None = None
        self._batches = 0

    def __call__(self, losses: Mapping[str, Tensor], shared: Shared) -> None:
        rows = shared.backbone_gradients({label: self._weights[label] * loss for label, loss in losses.items()})
        self._sum = rows if self._sum is None else self._sum + rows
        self._batches += 1

    def get(self) -> dict[str, Tensor]:
        """By label, the norm of the mean over batches and ranks."""
        assert self._sum is not None
        norms = self._sum.norm(dim=1) / self._batches
        return dict(zip(self._weights, norms, strict=True))


@contextmanager
def _quietly() -> Iterator[None]:
    """Code that has failed once may do so again."""
    try:
        yield
    except BaseException as error:
        if by_the_user(error):
            raise


def _in_backbone(error: BaseException) -> bool:
    return any(frame.f_globals.get("__name__") == Features.__module__ for frame, _ in walk_tb(error.__traceback__))


def _add(means: PairMeans, outputs: Mapping[str, TaskOutput]) -> None:
    means.add({k: output.loss for k, output in outputs.items()}, {k: output.pairs for k, output in outputs.items()})

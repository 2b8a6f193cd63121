"""One fine-tuning: the loop, and what `until convergence` means here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.func import functional_call

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.data.store import slices_told
from ssmtl_toolkit.downstream.average import WeightAverage
from ssmtl_toolkit.downstream.convergence import Convergence
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.downstream.learner import Learner
from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.downstream.parts import Parts
from ssmtl_toolkit.downstream.pseudo import LOSS, PseudoWatch
from ssmtl_toolkit.downstream.unlabelled import Unlabelled
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.engine.contract import check_loss, check_maps, is_out_of_memory
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.features import Part
from ssmtl_toolkit.foreign import foreign, in_one_line
from ssmtl_toolkit.pretraining.verdict import rises_without_end
from ssmtl_toolkit.runtime.allocator import keep_memory
from ssmtl_toolkit.runtime.device import seed_all
from ssmtl_toolkit.runtime.health import GRADIENT, BadStep, Health, allowed_skips, buffers_of
from ssmtl_toolkit.runtime.layout import in_layout
from ssmtl_toolkit.runtime.metriclog import MetricLog
from ssmtl_toolkit.runtime.optimizer import make_optimizer
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.recomputing import recompute_blocks
from ssmtl_toolkit.runtime.shapes import Shapes
from ssmtl_toolkit.specs import named
from ssmtl_toolkit.text import counted

_LABELLED = "fine-tuning/loss"
_TOLD = 3  # skipped updates that are noted one by one


@dataclass
class Progressed:
    """How far a fine-tuning is, beside the state of network and optimizer.

    Attributes:
        step: updates done.
        losses: those that no line of metrics.jsonl holds yet.
        best: the best validation score, its step and its weights.
        average: the moving average of the weights, if there is one.
        semi: the losses on unlabelled slices that no line holds yet, and the counts of pseudo labels (or None).
        skipped: the updates that were not done, as their loss or gradient was not finite.
    """

    step: int = 0
    losses: list[Tensor] = field(default_factory=list)
    best: tuple[float, int, dict[str, Tensor]] | None = None
    average: dict[str, Tensor] = field(default_factory=dict)
    semi: tuple[list[Tensor], Tensor | None] = field(default_factory=lambda: ([], None))
    skipped: list[int] = field(default_factory=list)

    def is_done(self, config: ResolvedFinetune) -> bool:
        """Whether all steps are done, or nothing improved in `patience` checks since unlabelled slices are used."""
        waited = self.step - max(self.best[1], config.labelled_steps) if self.best else 0
        return self.step >= config.steps or (self.best is not None and waited >= config.patience * config.check_every)


class Keeper(Protocol):
    """Keeps the state of an unfinished fine-tuning on the disk.

    `learned` is all that the optimizer changes: the network itself, or the network and what `--semi` adds.
    """

    def load(self, model: Downstream, learned: nn.Module, optimizer: torch.optim.Optimizer) -> Progressed:
        """Restore weights and optimizer, and return how far they were; at step 0 if nothing was kept."""

    def is_due(self, *, last: bool) -> bool:
        """Whether it is time to save, or a signal has come; `last`: nothing is left to train."""

    def keep(self, learned: nn.Module, optimizer: torch.optim.Optimizer, at: Progressed) -> None:
        """Save, and raise if a signal has come."""


class Loop:
    """Trains one network in place.

    Without validation it takes `config.steps` updates. With it, training has converged when the validation score has
    not improved in `config.patience` checks, `config.check_every` steps apart; the weights of the best check are
    kept, and `config.steps` is the maximum.
    """

    def __init__(
        self,
        model: Downstream,
        examples: Examples,
        config: ResolvedFinetune,
        seed: int,
        fabric: Fabric,
        pretrained: Collection[Part] = (),
        unlabelled: Unlabelled | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        """`pretrained`: the parts of the network whose weights come from a pre-training; `classes` are names.

        Raises:
            UsageError: the optimizer cannot be made.
        """
        self.model, self.examples, self.config, self.seed, self.fabric = model, examples, config, seed, fabric
        keep_memory(fabric.device)
        in_layout(model, config.channels_last, fabric)
        if config.checkpoint_activations:
            recompute_blocks(model.backbone)
        self.augmenter = Augmenter(config.augment)
        self.parts = Parts(model, config, pretrained)
        self.learner = Learner(config, unlabelled, model, fabric, seed, self.augmenter) if unlabelled else None
        self.watch = PseudoWatch(classes)
        self.learned = nn.ModuleDict({"model": model, "semi": self.learner}) if self.learner else model
        self.optimizer = make_optimizer(config.optimizer, self._groups(), config.lr, config.weight_decay, fabric.device)
        self.schedule = config.schedule.build(self.optimizer, config.steps)
        self.module, self.wrapped = fabric.setup(model, self.optimizer)
        self.average = WeightAverage(model, config.average) if config.average else None
        self._modules, self._parameters = list(self.learned.modules()), list(self.learned.parameters())
        self._shapes = Shapes(self.learned.state_dict())
        self.health = Health(self.optimizer, self._moved, fabric.device, allowed_skips(config.on_nan))

    def run(
        self,
        log: Path,
        progress: Progress,
        validate: Callable[[], float] | None = None,
        keeper: Keeper | None = None,
    ) -> dict[str, Any]:
        """Train; with a `keeper` it resumes from the state that was kept.

        Returns:
            Steps taken, the step of the weights that are kept, the last losses, the validation score, and how the
            loss fell (`convergence`; None: stopped early, or too short to tell).

        Raises:
            UsageError: the network cannot be trained on such slices.
            SsmtlError: the loss is no longer a number.
        """
        config = self.config
        at = keeper.load(self.model, self.learned, self.optimizer) if keeper else Progressed()
        at.average = self._averaged(at)
        self.watch.counts = at.semi[1]
        self.health.skipped = at.skipped
        metrics = MetricLog(log)
        metrics.cut(at.step)
        progress.training(at.step, config.steps, config.batch_size)
        self.parts.train_mode(at.step)
        while not at.is_done(config):
            with foreign(f"fine-tuning of {self._network()}, step {at.step + 1},"):
                losses = self._update(at.step)
            if isinstance(losses, BadStep):
                self._skip(losses, progress)
            else:
                at.losses.append(losses[0])
                at.semi = ([*at.semi[0], *losses[1:]], self.watch.counts)
            at.step += 1
            progress.stepped(at.step)
            last = at.step == config.steps
            checked = validate is not None and (at.step % config.check_every == 0 or last)
            if at.step % config.log_every == 0 or last or checked:
                self._settle()
                self._shapes.check(self.learned.state_dict(), at.step, self._owner)
                record = {**_record(at), **self.watch.record()}
                at.semi = ([], None)
                if checked and validate is not None:
                    record["validation"] = self._check(at, validate)
                metrics.append(record)
                progress.logged(record)
            if keeper and keeper.is_due(last=at.is_done(config)):
                self._settle()
                keeper.keep(self.learned, self.optimizer, at)
        self._finish(at)
        return self._summed_up(at, metrics.records(), progress)

    def _summed_up(self, at: Progressed, records: Sequence[Mapping[str, Any]], progress: Progress) -> dict[str, Any]:
        """What `run` returns, by the lines of metrics.jsonl."""
        losses = [record[_LABELLED] for record in records if _LABELLED in record]
        if rises_without_end(losses):
            rise = f"from {losses[0]:.3g} to {losses[-1]:.3g}"
            progress.note(f"the loss of the fine-tuning rises without end, {rise}; try a lower --lr")
        score, kept = at.best[:2] if at.best else (None, at.step)
        converged = Convergence.of(losses) if at.step == self.config.steps else None
        done: dict[str, Any] = {
            "steps": at.step,
            "kept_step": kept,
            "loss": losses[-1] if losses else None,
            "validation": score,
            "convergence": converged and asdict(converged),
        }
        done |= {"skipped_steps": self.health.skipped} if self.health.skipped else {}
        return done | self._judged(records, progress)

    def _judged(self, records: Sequence[Mapping[str, Any]], progress: Progress) -> dict[str, Any]:
        """What became of the pseudo labels, if there were any."""
        if self.learner is None or self.examples.targets is None:
            return {}
        pseudo = self.watch.judge(records, self.examples.targets[torch.from_numpy(self.examples.rows)])
        for warning in pseudo.get("warnings", ()):
            progress.note(f"--semi {self.config.semi}: {warning}; this training may be worse than one without --semi")
        return {"pseudo_labels": pseudo} if pseudo else {}

    def _owner(self, name: str) -> str:
        """The part that has this tensor, as errors call it."""
        config, (first, *_) = self.config, name.removeprefix("model.").split(".")
        return named({"backbone": config.backbone, "semi": config.semi}.get(first) or config.head)

    def _network(self) -> str:
        """Head and backbone, as errors call them."""
        return " on ".join(named(part) for part in (self.config.head, self.config.backbone) if part)

    def _groups(self) -> list[dict[str, Any]]:
        """For the optimizer: the parts of the network, and what `--semi` adds."""
        more = list(self.learner.parameters()) if self.learner else []
        return [*self.parts.groups(), *([{"params": more, "lr": self.config.lr}] if more else [])]

    def _averaged(self, at: Progressed) -> dict[str, Tensor]:
        """The tensors of the moving average, restored if they were kept."""
        if self.average is None:
            return {}
        if at.average:
            self.average.load(at.average)
        return self.average.tensors

    def _update(self, step: int) -> list[Tensor] | BadStep:
        """Do the update after `step` others; returns its loss, and that of unlabelled slices if they are used.

        Or the update that is not finite: this one, which has then changed no weight, or on a GPU an earlier one.
        """
        config = self.config
        if bad := self.health.begin():
            return bad
        counts = self.watch.counts
        if step and step == config.frozen_steps:
            self.parts.train_mode(step)
        if self.schedule is not None:
            self.schedule.step(step)
        seed_all(step_seed(self.seed, step), self.fabric.device)
        rows = self.examples.drawn(step, config.batch_size, self.seed)
        image, target = self.augmenter.labelled(*self.examples.batch(rows, self.fabric.device))
        loss = self.model.loss(self._maps(self.model.head.degrade(image)), target)
        check_loss(named(config.head), loss, image)
        more = self._unlabelled(step)
        self.fabric.backward(sum(more, loss))
        losses = {_LABELLED: loss, **({LOSS: more[0]} if more else {})}
        if bad := self.health.check(step + 1, losses, self._parameters):
            self.wrapped.zero_grad(set_to_none=True)
            self.watch.counts = counts
            return bad
        if config.clip is not None:
            self.fabric.clip_gradients(self.learned, self.wrapped, max_norm=config.clip, error_if_nonfinite=False)
        self.wrapped.step()
        self.wrapped.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step + 1)
        return [one.detach() for one in (loss, *more)]

    def _moved(self) -> list[Tensor]:
        """What an update changes beside what the optimizer does, if skipping one undoes that.

        That is buffers, and what `--semi` adds.
        """
        if not self.health.skips:
            return []
        return [*buffers_of(self._modules), *(self.learner.parameters() if self.learner else ())]

    def _skip(self, bad: BadStep, progress: Progress) -> None:
        """Do without an update that is not finite, or end the training by it."""
        if not self.health.skips or self.health.too_many(bad.step):
            raise self._ended_by(bad)
        if len(self.health.skipped) <= _TOLD:
            more = "; the next are counted only" if len(self.health.skipped) == _TOLD else ""
            progress.note(f"{self._what(bad)}: skipped{more}")

    def _settle(self) -> None:
        """End the training by a bad step that was not known yet, before anything is written of it."""
        if bad := self.health.settle():
            raise self._ended_by(bad)

    def _ended_by(self, bad: BadStep) -> SsmtlError:
        skips = self.health.skips
        before = f"; {counted(skips, 'step')} before it skipped" if skips else "; --on-nan skip:3 skips such steps"
        return SsmtlError(f"{self._what(bad)}{before}; try a lower --lr, --clip 1 or --precision 32")

    def _what(self, bad: BadStep) -> str:
        """What of an update is not finite, of which part, and which labelled slices it saw."""
        config = self.config
        names = {_LABELLED: f"the loss of {named(config.head)}"}
        if config.semi:
            names[LOSS] = f"the loss of {named(config.semi)} on unlabelled slices"
        losses = [names[name] for name in bad.losses]
        value = bad.values[bad.losses[0] if losses else GRADIENT]
        what = f"{losses[0]} is {value}" if losses else f"the gradient is {value} though the loss is finite"
        rows = self.examples.drawn(bad.step - 1, self.config.batch_size, self.seed)
        seen = "on" if _LABELLED in bad.losses or not losses else "beside labelled slices of"
        return f"step {bad.step}: {what}, {seen} {slices_told(self.examples.store.scans, rows)}"

    def _unlabelled(self, step: int) -> list[Tensor]:
        """The loss on unlabelled slices, if they are used in the update after `step` others."""
        output = self.learner(step, lambda image: self._taught(image, step)) if self.learner else None
        if output is None:
            return []
        if output.pseudo is not None and self.config.semi:
            with foreign(f"{named(self.config.semi)}: counting its pseudo labels"):
                self.watch.add(output.pseudo)
        return [output.loss]

    @torch.no_grad()
    def _taught(self, image: Tensor, step: int) -> Tensor:
        """Maps of the averaged weights (of the weights themselves without an average), in eval mode."""
        tensors = self.average.tensors if self.average else dict(self.model.state_dict())
        self.model.eval()
        with self.fabric.autocast():
            maps: Tensor = functional_call(self.model, tensors, (image,))
        self.parts.train_mode(step)
        return maps

    def _maps(self, image: Tensor) -> Tensor:
        config = self.config
        try:
            maps: Tensor = self.module(image)
        except (RuntimeError, ValueError, AssertionError) as error:
            if is_out_of_memory(error):
                raise SsmtlError(
                    f"not enough memory for {len(image)} slices; try --checkpoint-activations or a smaller --batch-size"
                ) from error
            raise UsageError(
                f"{self._network()} cannot be trained on {config.batch_size} slices of {config.size} x {config.size} "
                f"pixels ({in_one_line(error)}); try a --size that is a multiple of 32 or a larger one, or a larger "
                f"--batch-size; ssmtl --debug shows where it fails"
            ) from error
        number = image.shape[1] if self.examples.targets is None else self.model.maps
        check_maps(named(config.head), maps, image, number)
        return maps

    def _check(self, at: Progressed, validate: Callable[[], float]) -> float:
        """The score on the validation scans; the weights are kept if it is the best one."""
        config = self.config
        with self.average.applied() if self.average else nullcontext():
            self.model.eval()
            with foreign(f"fine-tuning of {config.head} on {config.backbone}, validated after step {at.step},"):
                score = validate()
            if at.best is None or score > at.best[0]:
                at.best = score, at.step, _copy(self.model)
        self.parts.train_mode(at.step)
        return score

    def _finish(self, at: Progressed) -> None:
        """Leave the model with the weights to keep, in eval mode."""
        if at.best is not None:
            self.model.load_state_dict(at.best[2])
        elif self.average is not None:
            self.model.load_state_dict(self.average.tensors)
        self.model.to(memory_format=torch.contiguous_format)  # as it will be read
        self.model.eval()


def _record(at: Progressed) -> dict[str, Any]:
    """A line of metrics.jsonl on the steps since the last one."""
    means = {_LABELLED: float(torch.stack(at.losses).mean())} if at.losses else {}
    at.losses.clear()
    if at.semi[0]:
        means[LOSS] = float(torch.stack(at.semi[0]).mean())
    return {"step": at.step, **means}


def _copy(model: Downstream) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

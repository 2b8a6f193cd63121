"""Checks of ways to learn from unlabelled slices: on a small network, and in the loop that fine-tunes it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ssmtl_toolkit.config import ResolvedFinetune
from ssmtl_toolkit.data.sampling import Plan
from ssmtl_toolkit.downstream.examples import Examples
from ssmtl_toolkit.downstream.keeping import RepetitionKeeper
from ssmtl_toolkit.downstream.learner import Learner
from ssmtl_toolkit.downstream.loop import Loop, Progressed
from ssmtl_toolkit.downstream.model import Downstream
from ssmtl_toolkit.downstream.unlabelled import Unlabelled
from ssmtl_toolkit.engine.semi import PseudoLabels, SemiOutput
from ssmtl_toolkit.engine.step import Batch
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import AugmentationSpec, HeadSpec, Output, SemiSpec, TaskSpec
from ssmtl_toolkit.testing.case import Bench, check, fail, require
from ssmtl_toolkit.testing.modules import (
    finite_scalar,
    reached,
    same_after_loading,
    some,
    state,
    unchanged_in_eval,
    under_autocast,
    without_gradient,
)
from ssmtl_toolkit.testing.sample import CHANNELS, SIZE, Nowhere, Repeat, Small, batch_for, differing, store_for

CLASSES = 3  # background and two more
STEPS, STOP = 6, 4  # of a training that is stopped: by default unlabelled slices are used from the fourth step on

_HEADS: dict[Output, str] = {"labels": "segmentation", "image": "denoising"}


def _makes_labels(spec: SemiSpec) -> bool:
    return "labels" in spec.outputs


@check(SemiSpec, "its loss is a finite scalar, for slices of one channel and of two")
def loss_is_a_scalar(bench: Bench) -> None:
    spec = _spec(bench)
    unknown = sorted(spec.outputs - _HEADS.keys())
    require(bool(spec.outputs) and not unknown, f"outputs are {sorted(spec.outputs)}; name some of {sorted(_HEADS)}")
    for output in sorted(spec.outputs):
        for channels in CHANNELS:
            learner, batch = _made(spec, output=output, channels=channels)
            finite_scalar(_output(learner, batch).loss, f"for heads that give {output} the loss")


@check(SemiSpec, "its pseudo labels are a class and a yes or no for each pixel", applies=_makes_labels)
def pseudo_labels_fit(bench: Bench) -> None:
    learner, batch = _made(_spec(bench))
    for step in (0, STEPS - 1):
        pseudo = _output(learner, batch, step).pseudo
        if pseudo is None:
            return
        require(isinstance(pseudo, PseudoLabels), f"pseudo is {type(pseudo).__name__}; give PseudoLabels(labels, sure)")
        wanted = (len(batch.anchor), SIZE, SIZE)
        for name, tensor, kind in zip(pseudo._fields, pseudo, (torch.int64, torch.bool), strict=True):
            given = (tuple(tensor.shape), tensor.dtype)
            require((wanted, kind) == given, f"pseudo.{name} is {given[0]} of {given[1]}; expected {wanted} of {kind}")
        low, high = int(pseudo.labels.min()), int(pseudo.labels.max())
        require(
            low >= 0 and high < CLASSES,
            f"pseudo.labels go from {low} to {high}; they are the indices of the head's {CLASSES} classes, and what is "
            f"not sure is marked by pseudo.sure",
        )


@check(SemiSpec, "gradient reaches the backbone and its own weights")
def gradient_reaches_all(bench: Bench) -> None:
    learner, batch = _made(_spec(bench))
    _output(learner, batch, STEPS - 1).loss.backward()
    require(reached(learner.model.backbone), "no gradient reaches the backbone; do not detach its features")
    idle = without_gradient(learner)
    require(not idle, f"no gradient reaches its {some(idle)}; use them, or freeze them by requires_grad_(False)")
    wrong = [n for n, p in learner.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    require(not wrong, f"the gradients of {some(wrong)} are not finite; guard divisions, logs and roots")


@check(SemiSpec, "it leaves slices and the teacher's maps as they are")
def slices_stay(bench: Bench) -> None:
    learner, batch = _made(_spec(bench))
    before, answers = batch.anchor.clone(), []

    def teach(image: Tensor) -> Tensor:
        maps = _teacher(learner)(image)
        answers.append((maps, maps.clone()))
        return maps

    _output(learner, batch, teach=teach)
    require(torch.equal(before, batch.anchor), "it changes slices in place; work on a copy")
    changed = any(not torch.equal(maps, copied) for maps, copied in answers)
    require(not changed, "it changes what teach gives in place; work on a copy")


@check(SemiSpec, "its `teaches` says whether it asks the averaged weights")
def teaches_is_true(bench: Bench) -> None:
    spec = _spec(bench)
    learner, batch = _made(spec)
    asked = []

    def teach(image: Tensor) -> Tensor:
        asked.append(image)
        return _teacher(learner)(image)

    for step in (0, STEPS - 1):
        _output(learner, batch, step, teach)
    require(
        bool(asked) == spec.teaches,
        f"it asks step.teach {len(asked)} times, and the spec says teaches = {spec.teaches}; without averaged weights "
        f"(--average 0) only a method that does not ask them can be used",
    )


@check(SemiSpec, "where the teacher knows nothing the loss can be descended", applies=lambda spec: spec.teaches)
def no_knowledge_is_no_problem(bench: Bench) -> None:
    learner, batch = _made(_spec(bench))
    loss = _output(learner, batch, STEPS - 1, lambda image: image.new_zeros(len(image), CLASSES, SIZE, SIZE)).loss
    finite_scalar(loss, "where all classes are equally probable the loss")
    loss.backward()
    wrong = [n for n, p in learner.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    require(not wrong, f"where all classes are equally probable the gradients of {some(wrong)} are not finite")


@check(SemiSpec, "a batch of a single slice is learned from too")
def one_slice_is_no_problem(bench: Bench) -> None:
    learner, batch = _made(_spec(bench), number=1)
    output = _output(learner, batch)
    finite_scalar(output.loss, "of a single slice the loss")
    output.loss.backward()


@check(SemiSpec, "it does not keep the network as a part of itself")
def network_stays_apart(bench: Bench) -> None:
    learner, batch = _made(_spec(bench))
    _output(learner, batch)
    own = {id(p) for p in learner.model.parameters()}
    kept = [name for name, p in learner.named_parameters() if id(p) in own]
    require(not kept, f"its {some(kept)} are the network's own; use step.backbone and step.head, and keep neither")


@check(SemiSpec, "eval mode changes no state")
def eval_changes_nothing(bench: Bench) -> None:
    learner, batch = _made(_spec(bench))
    learner.model.eval()
    unchanged_in_eval(learner, lambda: _output(learner, batch))


@check(SemiSpec, "its state can be saved and loaded")
def state_round_trip(bench: Bench) -> None:
    spec = _spec(bench)
    learner, batch = _made(spec)
    _output(learner, batch)  # so that a queue or the like is not as it was made
    again, _ = _made(spec, seed=1)
    again.model.load_state_dict(state(learner.model))
    for one in (learner, again):
        one.model.eval()
    same_after_loading(learner, again, lambda one: _output(cast("Learner", one), batch).loss)


@check(SemiSpec, "a resumed training ends with the same bits")
def training_resumes(bench: Bench) -> None:
    spec = _spec(bench)
    whole = _train(spec, bench.folder / "whole")
    _train(spec, bench.folder / "parted", stop=STOP)
    different = differing(whole, _train(spec, bench.folder / "parted"))
    require(
        not different,
        f"after {STEPS} steps {some(different)} differ from those of a training that was stopped after step {STOP} and "
        f"resumed; keep state in persistent buffers, and draw only from torch's global generator",
    )


@check(SemiSpec, "one seed gives the same bits twice")
def training_repeats(bench: Bench) -> None:
    spec = _spec(bench)
    different = differing(_train(spec, bench.folder / "first"), _train(spec, bench.folder / "second"))
    require(
        not different,
        f"two trainings with one seed differ in {some(different)}; draw only from torch's global generator",
    )


@check(SemiSpec, "it trains under bf16 autocast")
def training_in_bf16(bench: Bench) -> None:
    learner, batch = _made(_spec(bench))
    under_autocast(lambda: _output(learner, batch, STEPS - 1).loss, learner.model)


def _spec(bench: Bench) -> SemiSpec:
    assert isinstance(bench.spec, SemiSpec)
    return bench.spec


def _tasks(spec: SemiSpec) -> list[TaskSpec]:
    return [registry().resolve(TaskSpec, text) for text in spec.pretext()]


def _config(spec: SemiSpec, output: Output) -> ResolvedFinetune:
    plugins = registry()
    return ResolvedFinetune(
        data=Nowhere(),
        backbone=Small(),
        head=plugins.resolve(HeadSpec, _HEADS[output]),
        semi=spec,
        metrics=(),
        unlabelled=None,
        augment=tuple(plugins.resolve(AugmentationSpec, name) for name in ("affine", "intensity")),
        size=SIZE,
        steps=STEPS,
        batch_size=4,
        average=0.9,
        log_every=3,  # not at `STOP`
        precision="32",
        accelerator="cpu",
    )


def _loop(spec: SemiSpec, seed: int = 0, output: Output = "labels", channels: int = CHANNELS[0]) -> Loop:
    """The loop on a small network from this seed; two slices are labelled, by which pixels are bright or dark."""
    config, tasks = _config(spec, output if output in spec.outputs else next(iter(spec.outputs))), _tasks(spec)
    output = config.head.output
    torch.manual_seed(seed)
    backbone = Small().build(channels)
    model = Downstream(backbone, config.head.build(backbone, CLASSES if output == "labels" else 0))
    store = store_for(tasks, channels=channels)
    image = store.slices[:][:, 0].float()
    targets = (image > 0.5).byte() + 2 * (image < -0.5).byte() if output == "labels" else None
    wanted = {str(task): task.companions(store.scans[0].spacing) for task in tasks} or {"": {}}
    plan = Plan(store.extents, [wanted] * len(store.scans))
    unlabelled = Unlabelled(store, plan, tasks, 0, Counter(), ())
    rows = torch.arange(2).numpy()
    names = ("dark", "bright") if output == "labels" else ()
    fabric = make_fabric(config, Progress())
    return Loop(model, Examples(store, rows, targets), config, seed, fabric, (), unlabelled, names)


def _made(
    spec: SemiSpec, seed: int = 0, output: Output = "labels", channels: int = CHANNELS[0], number: int = 8
) -> tuple[Learner, Batch]:
    learner = _loop(spec, seed, output, channels).learner
    assert learner is not None
    learner.model.train()
    if not isinstance(learner.method, nn.Module):
        fail(f"build gives {type(learner.method).__name__}; give a Semi")
    return learner.train(), batch_for(_tasks(spec) or [Repeat()], number, channels=channels)


def _teacher(learner: Learner) -> Callable[[Tensor], Tensor]:
    """The network as it is, in eval mode and without gradient, but sure of what it says, as after a long training."""
    frozen = copy.deepcopy(learner.model).eval()

    @torch.no_grad()
    def teach(image: Tensor) -> Tensor:
        maps: Tensor = 100 * frozen(image).float()
        return maps

    return teach


def _output(
    learner: Learner, batch: Batch, step: int = 0, teach: Callable[[Tensor], Tensor] | None = None
) -> SemiOutput:
    """What the method gives; draws are equal each time."""
    torch.manual_seed(0)
    output = learner.method(learner.seen(batch, step, teach or _teacher(learner)))
    if not isinstance(output, SemiOutput):
        fail(f"forward gives {type(output).__name__}; give SemiOutput(loss, pseudo)")
    return output


class _StoppedError(Exception):
    """Raised where a process would be killed."""


class _Keeper(RepetitionKeeper):
    """Saves after every step, and stops after one."""

    stop: int | None = None

    def is_due(self, *, last: bool) -> bool:
        return True

    def keep(self, learned: nn.Module, optimizer: torch.optim.Optimizer, at: Progressed) -> None:
        self.save(learned, optimizer, at)
        if at.step == self.stop:
            raise _StoppedError


def _train(spec: SemiSpec, folder: Path, stop: int | None = None) -> dict[str, Tensor]:
    """Fine-tune by the real loop, resuming where `folder` holds a training; return all that is learned."""
    folder.mkdir(exist_ok=True)
    loop = _loop(spec)
    keeper = _Keeper(folder / "checkpoints", loop.config, {}, {}, loop.examples, Progress())
    keeper.stop = stop
    try:
        loop.run(folder / "metrics.jsonl", Progress(), keeper=keeper)
    except _StoppedError:
        if stop is None:
            raise
    return state(loop.learned)

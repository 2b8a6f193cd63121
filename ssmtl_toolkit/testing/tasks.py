"""Checks of pretext tasks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import Batch, Companion, Pictures, SharedEncoder, Step, TaskOutput
from ssmtl_toolkit.features import FEATURES, Feature, parts_of
from ssmtl_toolkit.pretraining.watch import leaving_no_trace
from ssmtl_toolkit.specs import TaskSpec
from ssmtl_toolkit.testing.case import Bench, check, fail, require
from ssmtl_toolkit.testing.modules import (
    finite_scalar,
    reached,
    repeats,
    resumes,
    same_after_loading,
    some,
    trains_on_two_ranks,
    unchanged_in_eval,
    under_autocast,
    without_gradient,
)
from ssmtl_toolkit.testing.rank import importable
from ssmtl_toolkit.testing.sample import ANCHORS, CHANNELS, Repeat, Small, batch_for, multitask


def _has_companions(spec: TaskSpec) -> bool:
    return bool(spec.companions(2.5))


@check(TaskSpec, "its companions are whole offsets, the same whenever asked")
def companions_are_offsets(bench: Bench) -> None:
    spec = _spec(bench)
    for spacing in (0.5, 1.0, 2.5, 8.0):
        named = spec.companions(spacing)
        require(
            {k: tuple(v) for k, v in named.items()} == {k: tuple(v) for k, v in spec.companions(spacing).items()},
            f"companions({spacing}) gives another answer when asked again; candidates are drawn by the sampler",
        )
        for name, offsets in named.items():
            wrong = [o for o in offsets if not isinstance(o, int) or isinstance(o, bool) or o == 0]
            require(not wrong, f"companion {name!r} has the offset {wrong[:1]}; offsets are whole numbers, not 0")


@check(TaskSpec, "its loss is a finite scalar, beside the metrics that it names")
def loss_is_a_scalar(bench: Bench) -> None:
    spec, model, batch = _made(bench)
    output = _output(model, batch)
    finite_scalar(output.loss, "the loss")
    require(output.loss.requires_grad, "the loss has no gradient; do not detach it, nor make it by .item()")
    require(
        float(output.loss.detach()) >= spec.floor - 1e-4,
        f"the loss {float(output.loss.detach()):g} is below its floor {spec.floor:g}; set `floor` to the least that it "
        f"can be",
    )
    require(
        set(output.metrics) == set(spec.metrics),
        f"the metrics are {sorted(output.metrics)}, the spec says {sorted(spec.metrics)}; make `metrics` say the same",
    )
    require(
        isinstance(spec.baselines, tuple) and set(spec.baselines) <= set(spec.metrics),
        f"baselines are {spec.baselines!r}; give a tuple of names, each of them in `metrics`",
    )
    for name, value in output.metrics.items():
        finite_scalar(value, f"metric {name!r}")
        require(not value.requires_grad, f"metric {name!r} has a gradient; detach it")
    require(
        isinstance(output.pairs, int) and output.pairs > 1,
        f"pairs is {output.pairs!r} of {ANCHORS} anchors; give the number of pairs (or images) that the loss is a mean "
        f"over: logs weigh by it",
    )


@check(TaskSpec, "it reads the features that it needs, and no others")
def needs_are_true(bench: Bench) -> None:
    spec = _spec(bench)
    unknown = sorted(spec.needs - FEATURES.keys())
    require(not unknown, f"needs {unknown}; there are {sorted(FEATURES)}")
    require(bool(spec.needs), "needs nothing; set `needs` to the features that its loss is computed from")
    _, model, batch = _made(bench)
    ran: list[object] = []
    model.backbone.decoder.register_forward_hook(lambda *_: ran.append(_))
    _output(model, batch)
    names = " or ".join(sorted(_of_the_decoder()))
    unread = " and ".join(sorted(spec.needs & _of_the_decoder()))
    if unread:
        require(bool(ran), f"needs {unread} features and does not read them; take {unread} out of `needs`")
    else:
        require(
            not ran, f"reads {names} features without saying so; add {names} to `needs`, or the decoder is not trained"
        )


@check(TaskSpec, "gradient reaches the encoder and nothing that it must not")
def gradient_goes_where_it_should(bench: Bench) -> None:
    spec = _spec(bench)
    model, batch = multitask([spec, Repeat()]).train(), batch_for([spec, Repeat()])
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    _output(model, batch).loss.backward()
    require(reached(model.backbone.encoder), "no gradient reaches the encoder; do not detach the anchor's features")
    if spec.needs & _of_the_decoder():
        require(reached(model.backbone.decoder), "no gradient reaches the decoder; do not detach the dense map")
    else:
        require(not reached(model.backbone.decoder), "it needs no dense features, but gradient reaches the decoder")
    parameters = dict(model.named_parameters())
    wrong = [name for name in frozen if parameters[name].grad is not None]
    require(not wrong, f"{some(wrong)} take a gradient though they are frozen; run that part under torch.no_grad()")
    idle = without_gradient(model.tasks[0])
    require(not idle, f"no gradient reaches its own {some(idle)}; use them, or freeze them by requires_grad_(False)")
    require(not reached(model.tasks[1]), "gradient reaches another task's parameters")


@check(TaskSpec, "it takes slices of two channels as it takes those of one")
def channels_are_taken(bench: Bench) -> None:
    spec = _spec(bench)
    one, two = CHANNELS
    pairs = _output(multitask([spec]).train(), batch_for([spec], channels=one)).pairs
    model = multitask([spec], channels=two).train()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        output = _output(model, batch_for([spec], channels=two))
    unequal = [str(warning.message).splitlines()[0] for warning in told if "broadcasting" in str(warning.message)]
    require(not unequal, f"of {two} channels it compares unequal shapes ({unequal[:1]}); take backbone.in_channels")
    finite_scalar(output.loss, f"of {two} channels the loss")
    require(output.pairs == pairs, f"of {two} channels it has {output.pairs} pairs, of {one} {pairs}; count slices")
    output.loss.backward()
    idle = without_gradient(model.tasks[0])
    require(not idle, f"of {two} channels no gradient reaches its own {some(idle)}; use them")


@check(TaskSpec, "it does not keep the backbone as a part of itself")
def backbone_is_not_inside(bench: Bench) -> None:
    backbone = Small().build(CHANNELS[0])
    task = _spec(bench).build(backbone)
    shared = {id(p) for p in backbone.parameters()}
    twice = [name for name, p in task.named_parameters() if id(p) in shared]
    require(
        not twice,
        f"its {some(twice)} are the backbone's own; use step.features() and step.encode(), or keep it in a list",
    )


@check(TaskSpec, "it leaves the slices that it is given as they are")
def slices_stay(bench: Bench) -> None:
    _, model, batch = _made(bench)
    images = [batch.anchor, *(c.image for named in batch.companions.values() for c in named.values())]
    places = list(vars(batch.position).values())
    before = [given.clone() for given in (*images, *places)]
    _output(model, batch)
    changed = [not torch.equal(a, b) for a, b in zip((*images, *places), before, strict=True)]
    require(
        not any(changed[: len(images)]), "it changes slices in place, which other tasks are given too; work on a copy"
    )
    require(not any(changed), "it changes positions in place, which other tasks are given too; work on a copy of them")


@check(TaskSpec, "an anchor without companion changes nothing", applies=_has_companions)
def masks_are_respected(bench: Bench) -> None:
    spec, model, batch = _made(bench)
    model.eval()
    if _output(model, _with_pairs(spec, batch, 0)).pairs:
        return  # it learns from anchors alone too
    some_pairs = _with_pairs(spec, batch, 3)
    first, second = _output(model, some_pairs), _output(model, some_pairs)
    require(
        torch.equal(first.loss, second.loss),
        f"two calls with one seed give {float(first.loss.detach()):g} and {float(second.loss.detach()):g}; draw only "
        f"from torch's global generator, and keep no count outside of buffers",
    )
    companions = some_pairs.companions[str(spec)]
    used = {row for companion in companions.values() if companion.rows is not None for row in companion.rows.tolist()}
    alone = [i for i in range(len(batch.anchor)) if i not in used]
    changed = batch.anchor.clone()
    changed[alone] = torch.randn(changed[alone].shape, generator=torch.Generator().manual_seed(1))
    other_anchors = Batch(changed, {}, batch.position, batch.seed)
    here, there = (_loss_of(model, given, companions) for given in (batch, other_anchors))
    require(
        _alike(here, there),
        f"the loss is {float(here):g}, and {float(there):g} with other anchors where there is no companion; "
        f"take the anchors of a companion by companion.of(…)",
    )
    if not torch.equal(here, _loss_of(model, batch, companions, seed=1)):
        return  # it draws for each pair: another order is another draw
    for name, companion in companions.items():
        assert companion.rows is not None
        turned = Companion(companion.image.flip(0), companion.offsets.flip(0), companion.rows.flip(0))
        other = _loss_of(model, batch, {**companions, name: turned})
        require(
            _alike(here, other),
            f"the loss is {float(here):g}, and {float(other):g} with the same companions {name!r} in another order; "
            f"take the anchors of each companion by its own of(…)",
        )


@check(TaskSpec, "a batch without any companion gives a loss that can be descended", applies=_has_companions)
def no_pairs_are_no_problem(bench: Bench) -> None:
    spec, model, batch = _made(bench)
    output = _output(model, _with_pairs(spec, batch, 0))
    finite_scalar(output.loss, "without any companion the loss")
    require(
        output.loss.requires_grad,
        "without any companion the loss hangs on no graph; give TaskOutput.nothing(…), or other processes wait for it",
    )
    output.loss.backward()
    idle = without_gradient(model.tasks[0])
    require(
        not idle, f"without any companion {some(idle)} have no gradient, not even 0; other processes would wait for it"
    )


@check(TaskSpec, "a batch with a single pair can be descended", applies=_has_companions)
def one_pair_is_no_problem(bench: Bench) -> None:
    spec, model, batch = _made(bench)
    try:
        output = _output(model, _with_pairs(spec, batch, 1))
    except (RuntimeError, ValueError) as error:
        fail(
            f"with a single pair it fails ({str(error)[:80]}); batch norm of one: give TaskOutput.nothing(…) below two"
        )
    finite_scalar(output.loss, "with a single pair the loss")
    output.loss.backward()


@check(TaskSpec, "eval mode changes no state")
def eval_changes_nothing(bench: Bench) -> None:
    _, model, batch = _made(bench)
    unchanged_in_eval(model, lambda: model(batch))


@check(TaskSpec, "looking at held-out slices in mid-training leaves no trace")
def looks_leave_no_trace(bench: Bench) -> None:
    spec, model, batch = _made(bench)
    _output(model, batch).loss.backward()
    alone = _output(model, batch).loss.detach()
    _, model, batch = _made(bench)
    _output(model, batch).loss.backward()
    with leaving_no_trace(model), torch.no_grad():
        output = _output(model.eval(), batch_for([spec], index=1))
    finite_scalar(output.loss, "in eval mode and without gradient the loss")
    missing = sorted(set(spec.baselines) - set(output.metrics))
    require(not missing, f"in eval mode the metrics {missing} are missing; held-out losses are compared with them")
    after = _output(model, batch).loss.detach()
    require(
        torch.equal(alone, after),
        f"the loss of the next step is {float(after):g}, and {float(alone):g} without the look in between, in eval "
        f"mode; what training remembers must change only `if self.training`",
    )


@check(TaskSpec, "its pictures, if it draws any, are slices that belong to its anchors")
def pictures_are_slices(bench: Bench) -> None:
    spec, model, batch = _made(bench)
    draw = getattr(model.tasks[0], "pictures", None)
    if draw is None:
        return
    model.eval()
    with torch.no_grad():
        drawn = draw(Step(batch, SharedEncoder(model.backbone), batch.companions.get(str(spec), {})))
    require(isinstance(drawn, Pictures), f"pictures gives {type(drawn).__name__}; give Pictures(images, errors, rows)")
    wanted = (len(batch.anchor) if drawn.rows is None else len(drawn.rows), *batch.anchor.shape[1:])
    for title, image in {**drawn.images, **drawn.errors}.items():
        require(
            tuple(image.shape) == wanted,
            f"the picture {title!r} has shape {tuple(image.shape)}, not {wanted}; name its anchors by rows",
        )


@check(TaskSpec, "its state can be saved and loaded")
def state_round_trip(bench: Bench) -> None:
    spec, model, batch = _made(bench)
    _output(model, batch)  # so that a queue or the like is not as it was made
    same_after_loading(model, multitask([spec], seed=1), lambda m: _output(cast("MultiTask", m), batch).loss)


@check(TaskSpec, "a resumed run ends with the same bits")
def run_resumes(bench: Bench) -> None:
    resumes(bench.folder, tasks=[_spec(bench)])


@check(TaskSpec, "one seed gives the same bits twice")
def run_repeats(bench: Bench) -> None:
    repeats(bench.folder, tasks=[_spec(bench)])


@check(TaskSpec, "it trains under bf16 autocast")
def run_in_bf16(bench: Bench) -> None:
    _, model, batch = _made(bench)
    under_autocast(lambda: _output(model, batch).loss, model)


@check(TaskSpec, "two processes train it and stay equal", applies=importable)
def run_on_two_ranks(bench: Bench) -> None:
    trains_on_two_ranks(bench.folder, tasks=[_spec(bench)])


def _of_the_decoder() -> set[Feature]:
    """The features that take the decoder."""
    return {feature for feature in FEATURES if "decoder" in parts_of([feature])}


def _spec(bench: Bench) -> TaskSpec:
    assert isinstance(bench.spec, TaskSpec)
    return bench.spec


def _made(bench: Bench) -> tuple[TaskSpec, MultiTask, Batch]:
    spec = _spec(bench)
    return spec, multitask([spec]).train(), batch_for([spec])


def _output(model: MultiTask, batch: Batch) -> TaskOutput:
    """Output of the first task; draws are equal each time."""
    torch.manual_seed(0)
    _, outputs = model(batch)
    output = outputs[model.labels[0]]
    if not isinstance(output, TaskOutput):
        fail(f"forward gives {type(output).__name__}; give a TaskOutput")
    return output


def _with_pairs(spec: TaskSpec, batch: Batch, number: int) -> Batch:
    """The batch with so many of each kind of companion, which belong to other anchors for each kind."""
    every = [0, 4, 7, 1, 6, 2, 5, 3]
    fewer = {}
    for i, (name, companion) in enumerate(batch.companions[str(spec)].items()):
        rows = torch.tensor(sorted(every[(i + k) % len(every)] for k in range(number)), dtype=torch.long)
        image = companion.image[:number] if number <= len(companion.image) else batch.anchor[:number] * 0.5
        offsets = companion.offsets[:1].expand(number)
        fewer[name] = Companion(image, offsets, rows)
    return Batch(batch.anchor, {str(spec): fewer}, batch.position, batch.seed)


def _alike(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-4, atol=1e-6)


def _loss_of(model: MultiTask, batch: Batch, companions: Mapping[str, Companion], seed: int = 0) -> Tensor:
    task: nn.Module = model.tasks[0]
    torch.manual_seed(seed)
    with torch.no_grad():
        output: TaskOutput = task(Step(batch, SharedEncoder(model.backbone), companions))
    return output.loss

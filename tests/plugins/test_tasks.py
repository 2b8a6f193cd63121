"""Pretext tasks against independent computations: losses, gradients, and what must not get any."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from helpers.small import SMALL
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.engine.step import Batch, Companion, SharedEncoder, Step
from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, BalancerSpec, TaskSpec


def specs(*texts):
    return [registry().resolve(TaskSpec, text) for text in texts]


def multitask(*texts, backbone="unet:encoder=resnet18", channels=1):
    torch.manual_seed(0)
    found = registry()
    return MultiTask.build(
        found.resolve(BackboneSpec, backbone), specs(*texts), found.resolve(BalancerSpec, "fixed"), channels
    ).train()


def images(number=6, seed=0):
    return torch.randn(number, 1, 32, 32, generator=torch.Generator().manual_seed(seed))


def companion(image, rows=None):
    return Companion(image, torch.zeros(len(image), dtype=torch.long), rows)


def batch(anchor, **companions):
    return Batch(anchor, companions, seed=3)


def mse(a, b):
    a, b = a.detach().double().numpy(), b.detach().double().numpy()
    return float(((a - b) ** 2).sum() / a.size)


def test_reconstruction_is_the_mean_squared_error_of_equation_1():
    model = multitask("reconstruct_prev:t=2", "reconstruct_next:t=2")
    anchor, prev, after = images(), images(seed=1), images(seed=2)
    named = {
        "reconstruct_prev:t=2": {"target": companion(prev)},
        "reconstruct_next:t=2": {"target": companion(after)},
    }
    total, outputs = model(Batch(anchor, named))
    dense = model.backbone(anchor).dense
    expected = []
    for task, target, label in zip(model.tasks, (prev, after), named, strict=True):
        weight, bias = task.decode.weight.detach(), task.decode.bias.detach()
        decoded = torch.einsum("nchw,c->nhw", dense.detach(), weight[0, :, 0, 0])[:, None] + bias
        expected.append(mse(decoded, target))
        assert outputs[label].loss.item() == pytest.approx(expected[-1], rel=1e-5)
        assert float(outputs[label].metrics["copy"]) == pytest.approx(mse(anchor, target), rel=1e-5)
    assert total.item() == pytest.approx(sum(expected), rel=1e-5)


def test_the_offsets_are_t_steps_before_and_after():
    prev, after = specs("reconstruct_prev:t=4", "reconstruct_next:t=4")
    assert dict(prev.companions(1.0)) == {"target": (-4,)}
    assert dict(after.companions(1.0)) == {"target": (4,)}


@pytest.mark.parametrize("t", [1, 2, 5])
def test_positives_are_t_plus_1_to_2t_slices_away_on_both_sides(t):
    (siam,) = specs(f"slice_siam:t={t}")
    expected = {k for k in range(-2 * t, 2 * t + 1) if t + 1 <= abs(k) <= 2 * t}
    if t == 1:
        assert expected == {-2, 2}
    assert set(siam.companions(1.0)["positive"]) == expected


def test_slice_siam_is_the_negative_cosine_of_equation_2_with_weight_one_third():
    model = multitask("slice_siam:t=2")
    anchor, positive = images(), images(seed=1)
    total, outputs = model(batch(anchor, **{"slice_siam:t=2": {"positive": companion(positive)}}))
    q = model.backbone(anchor).pooled.detach().double().numpy()
    z = model.backbone(positive).pooled.detach().double().numpy()
    first, _, _, second = model.tasks[0].predict
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in (first.weight, first.bias, second.weight, second.bias))
    assert w1.shape == (128, 512)
    h = np.maximum(q @ w1.T + b1, 0) @ w2.T + b2
    cosine = (h * z).sum(1) / np.linalg.norm(h, axis=1) / np.linalg.norm(z, axis=1)
    assert outputs["slice_siam:t=2"].loss.item() == pytest.approx(-cosine.mean(), abs=1e-5)
    assert total.item() == pytest.approx(-cosine.mean() / 3, abs=1e-5)


def test_no_gradient_flows_through_the_positive():
    model = multitask("slice_siam:t=2")
    anchor, positive = images().requires_grad_(), images(seed=1).requires_grad_()
    total, _ = model(batch(anchor, **{"slice_siam:t=2": {"positive": companion(positive)}}))
    total.backward()
    assert anchor.grad.abs().sum() > 0
    assert positive.grad is None


def test_gradient_reaches_encoder_and_decoder_from_reconstruction_and_only_the_encoder_from_slice_siam():
    for text, name, decoder in (("reconstruct_prev", "target", True), ("slice_siam", "positive", False)):
        model = multitask(text, "reconstruct_next")  # a dense task, so that the decoder is trainable
        _, outputs = model(
            batch(
                images(),
                **{text: {name: companion(images(seed=1))}, "reconstruct_next": {"target": companion(images(seed=2))}},
            )
        )
        outputs[text].loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.encoder.parameters())
        assert any(p.grad is not None for p in model.backbone.decoder.parameters()) == decoder


def test_two_tasks_that_share_a_slice_do_one_forward():
    model = multitask("reconstruct_prev", "reconstruct_next", "slice_siam", "slice_siam:weight=1")
    calls = Counter()
    model.backbone.encoder.register_forward_hook(lambda m, a, o: calls.update(["encoder"]))
    model.backbone.decoder.register_forward_hook(lambda m, a, o: calls.update(["decoder"]))
    positive = companion(images(seed=2))
    named = {label: {"positive": positive, "target": companion(images(seed=1))} for label in model.labels}
    model(Batch(images(), named))
    assert calls == {"encoder": 2, "decoder": 1}  # the anchors, and the positives of both


def test_an_anchor_without_companion_changes_nothing_of_that_task():
    for text, name in (("reconstruct_prev", "target"), ("slice_siam", "positive")):
        model = multitask(text).eval()
        anchor, other, rows = images(), images(3, seed=1), torch.tensor([0, 2, 5])
        step = Step(batch(anchor), SharedEncoder(model.backbone), {name: companion(other, rows)})
        some = model.tasks[0](step)
        few = Step(batch(anchor[rows]), SharedEncoder(model.backbone), {name: companion(other)})
        assert some.loss.item() == pytest.approx(model.tasks[0](few).loss.item(), rel=1e-5)
        assert some.pairs == 3


@pytest.mark.parametrize(("text", "name"), [("reconstruct_prev", "target"), ("slice_siam", "positive")])
def test_a_batch_without_any_pair_gives_a_loss_of_zero_that_can_be_descended(text, name):
    model = multitask(text)
    nothing = companion(images(0), torch.zeros(0, dtype=torch.long))
    total, outputs = model(batch(images(), **{text: {name: nothing}}))
    total.backward()
    assert total.item() == 0
    assert outputs[text].pairs == 0
    gradients = [p.grad for p in model.tasks[0].parameters()]
    assert all(g is not None and not g.any() for g in gradients)


def test_a_collapsed_encoder_shows_in_the_random_pairs_and_the_spread():
    model = multitask("slice_siam")
    healthy = model(batch(images(8), slice_siam={"positive": companion(images(8, seed=1))}))[1]["slice_siam"]
    same = images(1).expand(8, 1, 32, 32)
    collapsed = model(batch(same, slice_siam={"positive": companion(same.clone())}))[1]["slice_siam"]
    assert float(collapsed.metrics["spread"]) < 1e-3 < float(healthy.metrics["spread"])
    assert float(collapsed.metrics["random"]) == pytest.approx(collapsed.loss.item(), abs=1e-5)


def moco(text="moco_v2:queue=40", backbone="unet:encoder=resnet18"):
    model = multitask(text, backbone=backbone)
    return model, model.tasks[0], model.labels[0]


def moco_step(model, seed, number=6, first=True):
    torch.manual_seed(seed)
    return model(Batch(images(number, seed), {model.labels[0]: {}}, seed=seed, first=first))


def test_moco_is_infonce_against_the_queue_as_it_was_before_the_step():
    model, task, label = moco()
    captured = {}
    task.project.register_forward_hook(lambda m, a, o: captured.setdefault("q", []).append(o.detach()))
    task.key_project.register_forward_hook(lambda m, a, o: captured.setdefault("k", []).append(o.detach()))
    before = task.queue.clone().double().numpy()
    total, outputs = moco_step(model, 5)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(5))
    q = torch.cat(captured["q"]).double().numpy()
    k = torch.cat(captured["k"])[order.argsort()].double().numpy()
    q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, k))
    logits = np.concatenate([(q * k).sum(1, keepdims=True), q @ before], axis=1) / 0.2
    expected = np.mean([math.log(np.exp(row).sum()) - row[0] for row in logits])
    assert total.item() == pytest.approx(expected, rel=1e-4)
    assert float(outputs[label].metrics["chance"]) == pytest.approx(math.log(41))
    assert np.allclose(task.queue[:, :6].T.numpy(), k, atol=1e-6)  # in the anchors' order, after the logits
    assert np.array_equal(task.queue[:, 6:].numpy(), before[:, 6:].astype(np.float32))


def test_the_queue_wraps_around_where_it_does_not_divide_by_the_batch():
    _, task, _ = moco("moco_v2:queue=10,dim=8")
    with torch.no_grad():
        for start in (0, 6, 12):
            key = torch.nn.functional.one_hot(torch.arange(start, start + 6) % 8, 8).float() + start / 100
            task._enqueue(key)
    assert int(task.pointer) == 18 % 10
    newest = [(start + i) for start in (0, 6, 12) for i in range(6)][-10:]
    found = {round(float(column.min()) * 100) for column in task.queue.T}
    assert found == {12, 6}  # the ten newest of three batches of six
    assert len(newest) == 10
    assert sum(round(float(column.min()) * 100) == 12 for column in task.queue.T) == 6


def test_a_batch_longer_than_the_queue_leaves_the_newest_keys():
    _, task, _ = moco("moco_v2:queue=4,dim=8")
    task._enqueue(torch.arange(6.0)[:, None].expand(6, 8))
    assert sorted(task.queue[0].tolist()) == [2, 3, 4, 5]


def test_the_momentum_encoder_follows_parameters_by_m_once_an_update_and_gets_no_gradient():
    model, task, _ = moco("moco_v2:queue=40,momentum=0.9")
    with torch.no_grad():
        for parameter in model.backbone.encoder.parameters():
            parameter.add_(1.0)
    pairs = list(zip(task.key_encoder.parameters(), model.backbone.encoder.parameters(), strict=True))
    expected = [0.9 * key.double() + 0.1 * query.detach().double() for key, query in pairs]
    total, _ = moco_step(model, 1)
    total.backward()
    for (key, _), wanted in zip(pairs, expected, strict=True):
        assert torch.allclose(key.double(), wanted, atol=1e-6)
        assert key.grad is None
    kept = [key.clone() for key, _ in pairs]
    moco_step(model, 2, first=False)  # the second batch of an accumulated update
    assert all(torch.equal(a, key) for a, (key, _) in zip(kept, pairs, strict=True))


def test_the_key_encoders_batch_norm_keeps_its_own_running_statistics():
    model, task, _ = moco()
    own = {k: v.clone() for k, v in task.key_encoder.named_buffers() if k.endswith("running_mean")}
    moco_step(model, 1)
    theirs = dict(model.backbone.encoder.named_buffers())
    changed = [k for k, v in own.items() if not torch.equal(v, dict(task.key_encoder.named_buffers())[k])]
    assert len(changed) == len(own)
    assert not all(torch.equal(dict(task.key_encoder.named_buffers())[k], theirs[k]) for k in own)


class Separately(torch.nn.Module):
    """Not torch's own: nobody knows what it does to a batch."""

    def forward(self, image):
        return image


def test_a_key_shares_its_batch_norm_statistics_with_other_slices_than_its_query_does():
    model, task, _ = moco("moco_v2:bn_groups=2")
    seen = {"q": [], "k": []}
    task._augment = lambda image: image
    for name, encoder in (("q", model.backbone.encoder), ("k", task.key_encoder)):
        encoder.add_module("apart", Separately())  # so that there is a pass for each part, which can be looked at
        encoder.register_forward_pre_hook(lambda m, a, name=name: seen[name].append(a[0]))
    moco_step(model, 4, number=16)
    as_sets = {k: [{float(x[0, 0, 0]) for x in part} for part in parts] for k, parts in seen.items()}
    assert [len(part) for part in as_sets["q"]] == [8, 8] == [len(part) for part in as_sets["k"]]
    assert as_sets["q"][0] | as_sets["q"][1] == as_sets["k"][0] | as_sets["k"][1]
    assert as_sets["q"][0] not in as_sets["k"]


@pytest.mark.parametrize("number", [6, 7])
def test_one_pass_with_batch_norm_by_parts_gives_what_a_pass_for_each_part_gives(number):
    ways = []
    for apart in (False, True):
        torch.manual_seed(0)
        model, task, _ = moco("moco_v2:queue=8,bn_groups=3")
        passes = []
        for encoder in (model.backbone.encoder, task.key_encoder):
            encoder.register_forward_pre_hook(lambda m, a, passes=passes: passes.append(len(a[0])))
            if apart:
                encoder.add_module("apart", Separately())
        total, _ = moco_step(model, 1, number=number)
        total.backward()
        state = {name: tensor.double() for name, tensor in model.state_dict().items()}
        gradients = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
        ways.append((state, gradients, total.item(), len(passes)))
    (state, gradients, total, passes), (other_state, other_gradients, other, other_passes) = ways
    assert (passes, other_passes) == (2, 6)
    assert total == pytest.approx(other, rel=1e-5)
    assert all(torch.allclose(state[name], tensor, atol=1e-5) for name, tensor in other_state.items())
    assert gradients.keys() == other_gradients.keys()
    norm = torch.stack([g.norm() for g in other_gradients.values()]).norm()
    assert all((gradients[name] - g).norm() < 1e-4 * norm for name, g in other_gradients.items())
    assert "forward" not in vars(next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)))


def test_moco_keeps_nothing_twice_and_saves_queue_and_pointer():
    model, _, _ = moco()
    names = list(model.state_dict())
    assert {"tasks.0.queue", "tasks.0.pointer"} <= set(names)
    own = {id(p) for p in model.backbone.parameters()}
    assert not own & {id(p) for p in model.tasks[0].parameters()}


def test_moco_alone_leaves_the_decoder_untrained():
    model, _, _ = moco()
    assert not any(p.requires_grad for p in model.backbone.decoder.parameters())
    total, _ = moco_step(model, 1)
    total.backward()
    assert all(p.grad is not None for p in model.backbone.encoder.parameters())


def test_evaluation_changes_no_state_of_moco():
    model, _, _ = moco()
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        moco_step(model, 1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_odd_batches_and_single_groups_work():
    for number in (2, 3, 5):
        model, task, _ = moco()
        total, _ = moco_step(model, 1, number=number)
        assert math.isfinite(total.item())
        assert int(task.pointer) == number


class Keeping(TaskSpec):
    """Has the backbone inside."""

    name = "keeping"
    needs = frozenset({"pooled"})

    def build(self, backbone):
        task = torch.nn.Linear(2, 2)
        task.backbone = backbone
        return task


class Plain(TaskSpec):
    """Gives a tensor, and asks for a companion that it has not named."""

    name = "plain"
    needs = frozenset({"pooled"})
    ask: bool = False

    def companions(self, spacing):
        return {"before": (-1,)}

    def build(self, backbone):
        task = torch.nn.Linear(2, 2)
        task.forward = lambda step: step.companion("befor") if self.ask else step.features().pooled.mean()
        return task


def test_a_task_with_the_backbone_inside_is_refused_before_anything_is_trained():
    found = registry()
    with pytest.raises(SsmtlError, match=r"task 'keeping': its backbone.* are the backbone's own; use step.features"):
        MultiTask.build(found.resolve(BackboneSpec, SMALL), [Keeping()], found.resolve(BalancerSpec, "fixed"), 1)


def test_a_task_that_gives_no_output_or_asks_for_what_it_has_not_named_is_told():
    backbone, balancer = registry().resolve(BackboneSpec, SMALL), registry().resolve(BalancerSpec, "fixed")
    model = MultiTask.build(backbone, [Plain(), Plain(ask=True)], balancer, 1)
    named = {label: {"before": companion(images())} for label in model.labels}
    with pytest.raises(SsmtlError, match="task 'plain': its forward gives Tensor; give TaskOutput"):
        model(Batch(images(), named))
    model.tasks, model.labels = model.tasks[1:], model.labels[1:]
    with pytest.raises(SsmtlError, match="no companion 'befor'; did you mean 'before'"):
        model(Batch(images(), named))


def test_companions_taken_together_are_those_of_the_anchors_that_have_all():
    numbers = torch.arange(6.0)[:, None, None, None]
    anchors = numbers.expand(6, 1, 2, 2)
    before = Companion(anchors[[1, 2, 5]] - 1, torch.tensor([-1, -2, -3]), torch.tensor([1, 2, 5]))
    behind = Companion(anchors[[5, 0, 1]] + 1, torch.tensor([3, 1, 2]), torch.tensor([5, 0, 1]))
    step = Step(batch(anchors), None, {"before": before, "behind": behind, "all": companion(anchors)})
    first, second, third = step.together("before", "behind", "all")
    assert first.rows.tolist() == second.rows.tolist() == third.rows.tolist() == [1, 5]
    assert first.image[:, 0, 0, 0].tolist() == [0, 4]
    assert second.image[:, 0, 0, 0].tolist() == [2, 6]
    assert (first.offsets.tolist(), second.offsets.tolist()) == ([-1, -3], [2, 3])
    assert third.image[:, 0, 0, 0].tolist() == [1, 5]
    none = Companion(anchors[:0], torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    empty = Step(batch(anchors), None, {"before": before, "none": none}).together("before", "none")
    assert [len(part.image) for part in empty] == [0, 0]
    whole = Step(batch(anchors), None, {"a": companion(anchors), "b": companion(anchors)}).together("a", "b")
    assert all(part.rows is None for part in whole)

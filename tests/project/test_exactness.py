"""Whole trainings against the same updates by hand: equations 1 to 3 of the paper, MoCo V2 and its queue.

Taken from the toolkit are only which slices are drawn, the first weights, the layers of encoder and decoder, the
augmentation and the seeds. Images, losses, the momentum encoder, shuffled batch norm and the queue are written anew.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import ssmtl_toolkit
from helpers.small import SMALL, write_pair
from ssmtl_moco import MocoV2
from ssmtl_toolkit.data import augment
from ssmtl_toolkit.data.sampling import Extent, Plan, Sampler
from ssmtl_toolkit.data.seeds import step_seed
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import BackboneSpec, BalancerSpec, TaskSpec

SEED = 5
LENGTHS = (4, 12, 5, 3, 4, 8)  # short scans too: many anchors lack a companion
SSMTL = ["reconstruct_prev:t=2", "reconstruct_next:t=2"]
SSMTL_PLUS = [*SSMTL, "slice_siam:t=2"]
OFFSETS = [(-2,), (2,), (-4, -3, 3, 4)]  # to the slice before, the one behind and the positive, for t = 2
MOMENTUM = 0.5  # with 0.999 the key encoder would move by less than the tolerance
TOLERANCE = 1e-6


@pytest.fixture
def scans(tmp_path):
    """Scans of 32 x 32 pixels, so that none is resized."""
    for i, slices in enumerate(LENGTHS):
        write_pair(tmp_path / "scans", f"p{i}", slices=slices, seed=i)
    return tmp_path / "scans"


def options_of(scans, **options):
    fixed = {"backbone": SMALL, "size": 32, "seed": SEED, "accelerator": "cpu", "data": str(scans)}
    return {**fixed, "log_every": 1, "checkpoint_every": 1, "keep": 0, "cache": str(scans.parent / "cache"), **options}


def pretrain(scans, out, **options):
    return ssmtl_toolkit.pretrain(out=scans.parent / out, **options_of(scans, **options)).folder


def saved(folder, step):
    """All tensors of the checkpoint after this step, counted from 1."""
    tensors = load_file(folder / "checkpoints" / f"step-{step:08d}" / "state.safetensors")
    return {name: tensor.clone() for name, tensor in tensors.items()}


def logged(folder, name):
    return [json.loads(line)[name] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def images_of(scans):
    """All slices, each normalised by itself, straight from the files: (S, 1, 32, 32)."""
    slices = []
    for file in sorted((scans / "images").iterdir()):
        volume = np.asanyarray(nib.load(file).dataobj).astype(np.float64)
        for k in range(volume.shape[2]):  # axial, L P in the file -> rows to P, columns to L: the transpose
            pixels = volume[:, :, k].T
            normal = (pixels - pixels.mean()) / pixels.std()
            slices.append(normal.astype(np.float32).astype(np.float16))
    return torch.tensor(np.stack(slices).astype(np.float32))[:, None]


def sampler(offsets, batch_size, rank=0, world=1):
    """The toolkit's draws for one task per element of `offsets`."""
    starts = np.cumsum([0, *LENGTHS])[:-1]
    extents = [Extent(int(start), length, 2.0, 0) for start, length in zip(starts, LENGTHS, strict=True)]
    wanted = {str(i): {"companion": candidates} for i, candidates in enumerate(offsets)} or {"alone": {}}
    return Sampler(Plan(extents, [wanted] * len(extents)), batch_size, SEED, rank, world)


def first_weights(*tasks):
    torch.manual_seed(SEED)
    found = registry()
    specs = [found.resolve(TaskSpec, task) for task in tasks]
    return MultiTask.build(found.resolve(BackboneSpec, SMALL), specs, found.resolve(BalancerSpec, "fixed"), 1).train()


def adam_of(model):
    return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)


def pool(encoder, images):
    return encoder(images)[-1].mean(dim=(2, 3))


def mlp(layers, features):
    w1, b1, w2, b2 = layers.parameters()
    return torch.relu(features @ w1.T + b1) @ w2.T + b2


def compare(state, model, adam, **own):
    """Compare everything that was saved after a step with what was done by hand, then continue from the saved weights.

    Weights, running statistics, queue … are equal to 1e-6, Adam's moments to 2e-5 of the largest in their tensor. Adam
    divides by the gradient's size, so where that is near 0 against the rest of its tensor, rounding moves the weight by
    more than 1e-6: there it may be off by the learning rate x 5e-6 x (largest gradient / this one).
    A ReLU or a maximum that tips over changes all that follows: in three steps rounding alone would grow to 1e-3. Going
    on from the saved weights, with moments, running statistics and queue still those by hand, keeps it where it is.
    """
    found = {name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")}
    wanted = {**model.state_dict(), **own}
    assert set(found) == set(wanted)
    allowed = {name: torch.tensor(TOLERANCE) for name in wanted}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for i, (name, parameter) in enumerate(trained.items()):
        mine = adam.state[parameter]
        for moment in ("exp_avg", "exp_avg_sq"):
            off = (state[f"optimizer.{i}.{moment}"] - mine[moment]).abs().max()
            assert off <= 2e-5 * mine[moment].abs().max(), (name, moment)
        size = (mine["exp_avg_sq"] / (1 - 0.999 ** float(mine["step"]))).sqrt()
        allowed[name] = TOLERANCE + 1e-3 * 5e-6 * size.max() / (size + 1e-8)
    off = {name: (found[name].double() - wanted[name].double()).abs() for name in wanted}
    assert {name: float(off[name].max()) for name in off if not (off[name] <= allowed[name]).all()} == {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(found[name])


def ssmtl_by_hand(model, images, batch_size, steps):
    """Train with equation 1, or equation 3 where there is a third task; after each update give its losses and pairs."""
    encoder, decoder = model.backbone.encoder, model.backbone.decoder
    draws = sampler(OFFSETS[: len(model.tasks)], batch_size)
    adam = adam_of(model)
    for step in range(steps):
        draw = draws.draw(step)
        maps = encoder(images[draw.anchors])
        dense, *_ = decoder(maps)
        losses = []
        for task, (rows, has) in zip(model.tasks[:2], draw.companions, strict=False):
            decoded = F.conv2d(dense, task.decode.weight, task.decode.bias)
            losses.append((decoded[has] - images[rows]).square().mean())
        total = losses[0] + losses[1]
        if len(model.tasks) == 3:
            rows, has = draw.companions[2]
            h = mlp(model.tasks[2].predict, maps[-1].mean(dim=(2, 3))[has])
            z = pool(encoder, images[rows]).detach()
            losses.append(-((h * z).sum(1) / (h.norm(dim=1) * z.norm(dim=1))).mean())
            total = total + losses[2] / 3
        adam.zero_grad()
        total.backward()
        adam.step()
        yield adam, [loss.item() for loss in losses], [len(has) for _, has in draw.companions]


@pytest.mark.parametrize("tasks", [SSMTL, SSMTL_PLUS], ids=["SSMTL", "SSMTL+"])
def test_three_updates_of_ssmtl_are_those_of_plain_torch(scans, tasks):
    run = pretrain(scans, "run", tasks=tasks, steps=3, batch_size=8)
    model = first_weights(*tasks)
    losses, pairs = [], []
    for step, (adam, *told) in enumerate(ssmtl_by_hand(model, images_of(scans), 8, 3), start=1):
        compare(saved(run, step), model, adam)
        losses.append(told[0])
        pairs.append(told[1])
    for task, its_losses, its_pairs in zip(tasks, zip(*losses, strict=True), zip(*pairs, strict=True), strict=True):
        assert logged(run, f"{task}/loss") == pytest.approx(its_losses, abs=TOLERANCE)
        assert logged(run, f"{task}/pairs") == list(its_pairs)
        assert sum(its_pairs) < 3 * 8  # there were anchors without this companion
    backbone = load_file(run / "backbone.safetensors")
    last = saved(run, 3)
    assert all(torch.equal(tensor, last[f"model.backbone.{name}"]) for name, tensor in backbone.items())


@contextmanager
def forgetting(encoder):
    """Batch norm of another process than the first one: its running statistics are not those that are saved."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    yield
    for norm in norms:
        norm.track_running_stats = True


def embed(encoder, layers, views, groups=1, world=1):
    """Unit vectors (N, dim) of views, with batch norm over the views of one process, or of one of its groups."""
    vectors = []
    for rank, own in enumerate(views.chunk(world)):
        with forgetting(encoder) if rank else nullcontext():
            vectors += [mlp(layers, pool(encoder, part)) for part in own.chunk(groups)]
    joined = torch.cat(vectors)
    return joined / joined.norm(dim=1, keepdim=True)


def views_by_rank(images, index, batch_size, world):
    """Two views (N, 1, H, W) each of the anchors of all processes, those of the first process first."""
    views = []
    for rank in range(world):
        anchors = images[sampler([], batch_size, rank, world).draw(index).anchors]
        torch.manual_seed(step_seed(SEED, index, rank))
        views.append([augment.gaussian_blur(augment.flip(anchors)) for _ in ("query", "key")])
    return [torch.cat(view) for view in zip(*views, strict=True)]


def moco_by_hand(model, images, batch_size, steps, groups=1, accumulate=1, world=1):
    """Train with MoCo V2 on `world` processes; after each update give its loss, the queue and the pointer."""
    task, encoder = model.tasks[0], model.backbone.encoder
    queue, pointer = list(task.queue.T.clone()), 0
    followers = [*task.key_encoder.parameters(), *task.key_project.parameters()]
    leaders = [*encoder.parameters(), *task.project.parameters()]
    adam = adam_of(model)
    for step in range(steps):
        adam.zero_grad()
        losses = []
        for index in range(step * accumulate, (step + 1) * accumulate):
            query_view, key_view = views_by_rank(images, index, batch_size, world)
            query = embed(encoder, task.project, query_view, groups, world)
            with torch.no_grad():
                if not losses:  # once an update
                    for follower, leader in zip(followers, leaders, strict=True):
                        follower.copy_(MOMENTUM * follower + (1 - MOMENTUM) * leader)
                order = torch.randperm(len(key_view), generator=torch.Generator().manual_seed(step_seed(SEED, index)))
                keys = torch.empty_like(query)
                keys[order] = embed(task.key_encoder, task.key_project, key_view[order], groups, world)
            logits = torch.cat([(query * keys).sum(1, keepdim=True), query @ torch.stack(queue).T], dim=1) / 0.2
            loss = (logits.logsumexp(dim=1) - logits[:, 0]).mean()
            (loss / accumulate).backward()
            losses.append(loss.item())
            for key in keys:
                queue[pointer] = key
                pointer = (pointer + 1) % len(queue)
        adam.step()
        yield adam, sum(losses) / accumulate, torch.stack(queue).T, torch.tensor(pointer)


@pytest.mark.parametrize(("groups", "accumulate"), [(1, 1), (2, 1), (2, 2)])
def test_three_updates_of_moco_v2_are_those_of_plain_torch(scans, groups, accumulate):
    spec = MocoV2(queue=10, dim=8, bn_groups=groups, momentum=MOMENTUM)
    run = pretrain(scans, "run", tasks=[spec], steps=3, batch_size=6, accumulate=accumulate)
    model = first_weights(spec)
    losses = []
    by_hand = moco_by_hand(model, images_of(scans), 6, 3, groups, accumulate)
    for step, (adam, loss, queue, pointer) in enumerate(by_hand, start=1):
        compare(saved(run, step), model, adam, **{"tasks.0.queue": queue, "tasks.0.pointer": pointer})
        losses.append(loss)
    assert logged(run, f"{spec}/loss") == pytest.approx(losses, abs=TOLERANCE)


class Logits(TorchFunctionMode):
    """Looks on at what comes to the cross-entropy."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.cross_entropy:
            self.seen.append(args[0].detach().clone())
        return function(*args, **(kwargs or {}))


class Watch:
    """Keeps of every step of a MoCo V2 module its queries, and its queue before and after, as rows."""

    def __init__(self, module):
        self.queries, self.before, self.after = [], [], []
        module.register_forward_pre_hook(self.start)
        module.project.register_forward_hook(self.projected)
        module.register_forward_hook(self.end)

    def start(self, module, inputs):
        self.before.append(module.queue.T.clone())
        self.queries.append([])

    def projected(self, layers, inputs, output):
        self.queries[-1].append(output.detach() / output.detach().norm(dim=1, keepdim=True))

    def end(self, module, inputs, output):
        self.after.append(module.queue.T.clone())


def distances(some, others):
    """(N, M), 0 where two rows are equal."""
    return (some[:, None] - others[None]).abs().amax(dim=2)


def test_a_positive_is_among_the_negatives_only_after_its_own_step(scans):
    watches = []

    class Watched(MocoV2):
        def build(self, backbone):
            module = super().build(backbone)
            watches.append(Watch(module))
            return module

    with Logits() as logits:
        pretrain(scans, "run", tasks=[Watched(queue=12, dim=8)], steps=7, batch_size=5)
    watch = watches[-1]  # the module that is trained; others only show that it can be built
    pushed = []
    steps = zip(watch.queries, watch.before, watch.after, logits.seen, strict=True)
    for step, (queries, before, after, given) in enumerate(steps):
        query, positive, negative = torch.cat(queries), 0.2 * given[:, 0], 0.2 * given[:, 1:]
        keys = after[(5 * step + torch.arange(5)) % 12]
        assert (positive - (query * keys).sum(1)).abs().max() < TOLERANCE
        assert (negative - query @ before.T).abs().max() < TOLERANCE
        assert distances(keys, before).min() > 1e-3
        assert distances(keys @ query.T, negative.T).min() > 1e-3
        for earlier in pushed[-2:]:  # in 12 places there is room for two batches and a half
            assert (distances(earlier, before).amin(dim=1) == 0).all()
            assert (distances(earlier @ query.T, negative.T).amin(dim=1) < TOLERANCE).all()
        pushed.append(keys)
    assert len(pushed) == 7


@pytest.mark.slow
def test_moco_alone_resumes_with_the_same_queue_in_the_middle_of_its_way_around(scans):
    options = {"tasks": ["moco_v2:queue=12,dim=8"], "batch_size": 5, "accumulate": 2}
    whole = pretrain(scans, "whole", **options, steps=4)
    pretrain(scans, "cut", **options, steps=2)
    cut = pretrain(scans, "cut", **options, steps=4, resume=True)
    ours, theirs = saved(whole, 4), saved(cut, 4)
    assert int(theirs["model.tasks.0.pointer"]) == 4 * 2 * 5 % 12
    assert set(ours) == set(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert (whole / "metrics.jsonl").read_text() == (cut / "metrics.jsonl").read_text()


TRAIN_ON_TWO = """
import json, sys
import torch
from safetensors.torch import save_file
import ssmtl_toolkit
from ssmtl_moco import MocoV2
from ssmtl_toolkit.runtime.progress import Progress

made, kept = [], {}

class Kept(MocoV2):
    def build(self, backbone):
        made[:] = [backbone.encoder, super().build(backbone)]
        return made[1]

class EachStep(Progress):
    def stepped(self, step):
        tensors = {"queue": made[1].queue, "pointer": made[1].pointer}
        tensors |= {f"weights.{i}": p for i, p in enumerate(p for part in made for p in part.parameters())}
        kept.update({f"{step}.{name}": tensor.detach().clone() for name, tensor in tensors.items()})

out, task, options = json.loads(sys.argv[1])
ssmtl_toolkit.pretrain(out=f"{out}/run", tasks=[Kept(**task)], progress=EachStep(), **options)
save_file(kept, f"{out}/rank-{torch.distributed.get_rank()}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_keep_one_queue_that_of_the_whole_batch(scans, tmp_path):
    task = {"queue": 12, "dim": 8, "momentum": MOMENTUM}
    options = options_of(scans, devices=2, steps=4, batch_size=5)
    (tmp_path / "train.py").write_text(TRAIN_ON_TWO)
    command = [sys.executable, str(tmp_path / "train.py"), json.dumps([str(tmp_path), task, options])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in (0, 1))
    assert set(first) == set(second)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []

    spec = MocoV2(**task)
    model = first_weights(spec)
    losses = []
    by_hand = moco_by_hand(model, images_of(scans), 5, 4, world=2)  # several processes: no groups within one
    for step, (adam, loss, queue, pointer) in enumerate(by_hand, start=1):
        for rank in (first, second):
            assert (rank[f"{step}.queue"] - queue).abs().max() < TOLERANCE
            assert int(rank[f"{step}.pointer"]) == int(pointer) == 10 * step % 12
        own = {"tasks.0.queue": queue, "tasks.0.pointer": pointer}
        compare(saved(tmp_path / "run", step), model, adam, **own)
        losses.append(loss)
    assert logged(tmp_path / "run", f"{spec}/loss") == pytest.approx(losses, abs=TOLERANCE)

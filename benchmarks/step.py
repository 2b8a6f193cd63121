"""A step of `ssmtl run` against a bare loop over the same modules and math on random tensors.

    python benchmarks/step.py [--rounds N] [--json] [--only WORD] [--quick]

Each has a process of its own. A bare loop as users have it leaves the memory allocator alone (runtime/allocator.py);
"with our allocator settings" it has the same as a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import segmentation_models_pytorch as smp
import torch
from made_up import trainer
from timing import Act, Group, Ratio, Way, main
from torch import Tensor, nn
from torch.nn import functional as F

from ssmtl_toolkit.data.augment import flip, gaussian_blur
from ssmtl_toolkit.runtime.allocator import keep_memory

PAIR = ("reconstruct_prev", "reconstruct_next")
UNET, FCN = "unet:encoder=resnet18", "fcn:encoder=resnet18"
BARE, SAME = "a bare loop", "a bare loop with our allocator settings"
QUEUE, DIM, T, M = 1024, 128, 0.2, 0.999


def ours(backbone: str, tasks: tuple[str, ...], size: int, batch: int) -> Act:
    return trainer(backbone, tasks, size, batch)._update


def bare(kind: str, size: int, batch: int, kept: bool) -> Act:
    if kept:
        keep_memory(torch.device("cpu"))
    torch.manual_seed(0)
    return {"±t": pair, "±t + slice_siam": plus, "moco_v2": moco}[kind](size, batch)


def pair(size: int, batch: int, siam: bool = False) -> Act:
    unet = smp.Unet("resnet18", encoder_weights=None, in_channels=1)
    before, after = nn.Conv2d(16, 1, 1), nn.Conv2d(16, 1, 1)
    predict = nn.Sequential(nn.Linear(512, 128), nn.ReLU(inplace=True), nn.Linear(128, 512))
    modules = nn.ModuleList([unet.encoder, unet.decoder, before, after, *([predict] if siam else [])])

    def loss() -> Tensor:
        anchor, prev, following, positive = torch.randn(4, batch, 1, size, size).unbind()
        maps = unet.encoder(anchor)
        dense = unet.decoder(maps)
        loss = F.mse_loss(before(dense), prev) + F.mse_loss(after(dense), following)
        if siam:
            predicted = predict(maps[-1].mean(dim=(2, 3)))
            with torch.no_grad():
                truth = unet.encoder(positive)[-1].mean(dim=(2, 3))
            loss = loss - F.cosine_similarity(predicted, truth).mean() / 3
        return loss

    return descend(modules, loss)


def plus(size: int, batch: int) -> Act:
    return pair(size, batch, siam=True)


def moco(size: int, batch: int) -> Act:
    """MoCo V2 as the task has it: two groups for batch norm, flips and blur."""
    query, key = (nn.Sequential(smp.encoders.get_encoder("resnet18", in_channels=1, weights=None)) for _ in range(2))
    heads = [nn.Sequential(nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Linear(512, DIM)) for _ in range(2)]
    key.requires_grad_(False), heads[1].requires_grad_(False)
    theirs, own = [*query.parameters(), *heads[0].parameters()], [*key.parameters(), *heads[1].parameters()]
    queue, place = F.normalize(torch.randn(DIM, QUEUE), dim=0), torch.arange(batch)

    def encode(encoder: nn.Module, head: nn.Module, image: Tensor) -> Tensor:
        parts = [head(encoder(part)[-1].mean(dim=(2, 3))) for part in image.chunk(2)]
        return F.normalize(torch.cat(parts), dim=1)

    def loss() -> Tensor:
        anchor = torch.randn(batch, 1, size, size)
        one, other = gaussian_blur(flip(anchor)), gaussian_blur(flip(anchor))
        found = encode(query, heads[0], one)
        with torch.no_grad():
            torch._foreach_lerp_(own, theirs, 1 - M)
            order = torch.randperm(batch)
            wanted = encode(key, heads[1], other[order])[order.argsort()]
        logits = torch.cat([(found * wanted).sum(dim=1, keepdim=True), found @ queue.clone()], dim=1) / T
        queue[:, place] = wanted.T
        place.add_(batch).remainder_(QUEUE)
        return F.cross_entropy(logits, torch.zeros(batch, dtype=torch.long)) / math.log(QUEUE + 1)

    return descend(nn.ModuleList([query, heads[0]]), loss)


def descend(modules: nn.Module, loss: Callable[[], Tensor]) -> Act:
    modules.train()
    optimizer = torch.optim.Adam(modules.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def rows(quick: bool) -> Iterator[Group]:
    cases = {
        "±t": (UNET, PAIR),
        "±t + slice_siam": (UNET, (*PAIR, "slice_siam")),
        "moco_v2": (FCN, ("moco_v2",)),
    }
    sizes = {"±t": ((64, 16), (128, 16), (256, 4)), "±t + slice_siam": ((64, 16), (128, 16))}
    for kind, (backbone, tasks) in list(cases.items())[: 1 if quick else None]:
        for size, batch in ((32, 4),) if quick else sizes.get(kind, ((64, 16), (128, 16))):
            ways = {
                "ours": Way(ours, (backbone, tasks, size, batch), apart=True),
                BARE: Way(bare, (kind, size, batch, False), apart=True),
                SAME: Way(bare, (kind, size, batch, True), apart=True),
            }
            ratios = [Ratio("ours", BARE, "≤ 0.90"), Ratio("ours", SAME, "≤ 1.02")]
            title = f"step {kind}, {backbone}, {size} px, batch {batch}"
            yield Group(title, ways, ratios, rounds=9 if size == 64 else 5, times=2 if size == 64 else 1)


if __name__ == "__main__":
    main(__doc__, rows)

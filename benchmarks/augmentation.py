"""What augmentation costs: each one, and the default list, relative to a forward and backward pass of a small network.

    python benchmarks/augmentation.py [cpu|cuda]

16 slices of 64 px and a plain U-Net of width 16: the larger the network, the less augmentation counts.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from ssmtl_toolkit.config import FinetuneConfig
from ssmtl_toolkit.engine.augmentation import Augmenter
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import AugmentationSpec, BackboneSpec, HeadSpec


def make_pass(device: str, image: torch.Tensor, target: torch.Tensor) -> Callable[[], object]:
    torch.manual_seed(0)
    backbone = registry().resolve(BackboneSpec, "unet:encoder=plain,width=16").build(1).to(device)
    head = registry().resolve(HeadSpec, "segmentation").build(backbone, 4).to(device)
    return lambda: head.loss(head(backbone(image)), target).backward()


def augmenting(names: tuple[str, ...], image: torch.Tensor, target: torch.Tensor) -> Callable[[], object]:
    augmenter = Augmenter([registry().resolve(AugmentationSpec, name) for name in names])
    return lambda: augmenter.labelled(image, target)


def seconds(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(device: str) -> None:
    torch.set_num_threads(1)
    image, target = torch.randn(16, 1, 64, 64, device=device), torch.randint(4, (16, 64, 64), device=device)
    names = [entry.spec.name for entry in registry().entries.values() if entry.spec.kind == "augmentation"]
    default = FinetuneConfig.model_fields["augment"].default
    kinds = {
        "forward and backward": make_pass(device, image, target),
        "default list": augmenting(default, image, target),
    }
    kinds |= {f"{name}:p=1": augmenting((f"{name}:p=1",), image, target) for name in names}
    for work in kinds.values():
        work()
    rounds = [{name: seconds(work, device) for name, work in kinds.items()} for _ in range(60)]
    for name in kinds:
        ratio = statistics.median(r[name] / r["forward and backward"] for r in rounds)
        print(f"{name:24s} {statistics.median(r[name] for r in rounds) * 1e3:8.2f} ms   {ratio:6.3f} of the pass")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")

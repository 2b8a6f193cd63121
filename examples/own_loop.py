"""Your own training loop on our slices: a volume is read, slices are stored, pairs are drawn, and the rest is torch.

python examples/own_loop.py SCANS CACHE
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ssmtl_toolkit.data.sampling import Plan, Sampler
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.data.store import build_store
from ssmtl_toolkit.runtime.scans import installed_readers, list_scans
from ssmtl_toolkit.sources import dataset_of

T = 2


def main(data: str, cache: str, steps: int = 20) -> None:
    readers = installed_readers()
    scans = list_scans(dataset_of(data), Path(cache))
    volume = readers.read(scans[0].path)  # voxels on the file's own grid, and where they lie
    print(scans[0].name, volume.array.shape, "voxels of", volume.spacing, "mm")

    store = build_store(scans, readers, Slicing(size=32), Path(cache))  # float16, zero mean and unit variance
    pairs = [{"mine": {"next": (T,)}} for _ in store.extents]  # for each scan: which slices go with an anchor
    sampler = Sampler(Plan(store.extents, pairs), batch_size=16, seed=0)

    cpu = torch.device("cpu")
    network = nn.Sequential(nn.Conv2d(store.channels, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 1, 5, padding=2))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for step in range(steps):
        draw = sampler.draw(step)  # a function of seed and step: nothing to save for a resume
        ((companions, which),) = draw.companions  # anchors at the end of a scan have none
        anchor = store.gather(torch.from_numpy(draw.anchors[which]), cpu)
        target = store.gather(torch.from_numpy(companions), cpu)
        loss = F.mse_loss(network(anchor), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, steps - 1):
            print(
                f"step {step + 1}: loss {loss.item():.3f}, copying the anchor {F.mse_loss(anchor, target).item():.3f}"
            )


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["phantom:patients=4", "runs/cache"]))

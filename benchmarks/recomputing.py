"""What --checkpoint-activations costs and saves: a training step of ±t at 256 px with it and without it.

python benchmarks/recomputing.py [--rounds N] [--json] [--only WORD] [--quick]
"""

from __future__ import annotations

from collections.abc import Iterator

from made_up import held, trainer
from timing import Act, Figure, Group, Ratio, Way, answered, main

PAIR = ("reconstruct_prev", "reconstruct_next")
NETWORKS = ("unet:encoder=plain,width=16", "unet:encoder=resnet18")


def step(network: str, size: int, batch: int, again: bool) -> Act:
    return trainer(network, PAIR, size, batch, checkpoint_activations=again, channels_last="off")._update


def added(network: str, size: int, batch: int, again: bool) -> float:
    """MB that this process holds at most in two steps, beside what it held before."""
    act = step(network, size, batch, again)
    before = held("VmRSS")
    for _ in range(2):
        act()
    return held("VmHWM") - before


def memory(network: str, size: int, batch: int) -> str:
    """What two steps add, with and without, each in a process of its own."""
    found = [answered(added, network, size, batch, again) for again in (True, False)]
    return f"{found[0] / found[1]:.2f} ({found[0]:,.0f} and {found[1]:,.0f} MB, 1)"


def rows(quick: bool) -> Iterator[Group | Figure]:
    size, batch = (32, 2) if quick else (256, 8)
    for network in NETWORKS[: 1 if quick else None]:
        title = f"--checkpoint-activations, {network}, {size} px, batch {batch}"
        made = {name: Way(step, (network, size, batch, again), apart=True) for name, again in _WAYS.items()}
        yield Group(f"step with {title}", made, [Ratio("with", "without")], rounds=3)
        yield Figure(f"memory of steps with {title}", lambda _, network=network: memory(network, size, batch))


_WAYS = {"with": True, "without": False}

if __name__ == "__main__":
    main(__doc__, rows)

"""How much longer a step takes with each balancer than with `fixed`, and with gradient norms logged at every step.

    python benchmarks/balancers.py [ROUNDS [SIZE]]

All take turns in one process, so that a busy machine slows all alike; the figures are medians of ratios.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from made_up import random_store

from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.pretraining.pretrain import make_plan
from ssmtl_toolkit.pretraining.trainer import Trainer
from ssmtl_toolkit.runtime.device import make_fabric
from ssmtl_toolkit.runtime.progress import Progress

DENSE = ("reconstruct_prev", "reconstruct_next")
PLUS = (*DENSE, "slice_siam")
CASES = {
    **{f"{b}, SSMTL+": (b, PLUS, False) for b in ("fixed", "uncertainty", "dwa", "rlw", "famo")},
    **{f"{b}, SSMTL+": (b, PLUS, False) for b in ("pcgrad", "upgrad", "mgda:at=backbone")},
    **{f"{b}, SSMTL+": (b, PLUS, False) for b in ("pcgrad:at=features", "upgrad:at=features", "mgda")},
    "fixed with --gradient-norms at every step, SSMTL+": ("fixed", PLUS, True),
    "fixed, SSMTL": ("fixed", DENSE, False),
    "mgda:at=backbone, SSMTL": ("mgda:at=backbone", DENSE, False),
    "mgda, SSMTL (at the dense map)": ("mgda", DENSE, False),
}
STEPS_A_ROUND = 1


def trainer_of(balancer: str, tasks: tuple[str, ...], norms: bool, size: int) -> Trainer:
    options = {
        "backbone": "unet:encoder=resnet18",
        "tasks": tasks,
        "size": size,
        "steps": 10**6,
        "batch_size": 8,
        "log_every": 1,
    }
    config = RunConfig.of({**options, "balancer": balancer, "gradient_norms": norms}).resolve()
    progress, store = Progress(), random_store(scans=2, slices=100, size=size)
    fabric = make_fabric(config, progress)
    fabric.launch()
    plan = make_plan(store, config.tasks, progress)
    return Trainer(fabric, config, store, plan, Path(tempfile.mkdtemp()), progress)


def seconds(trainer: Trainer) -> float:
    start = time.perf_counter()
    for _ in range(STEPS_A_ROUND):
        trainer._update()
    return (time.perf_counter() - start) / STEPS_A_ROUND


def main(rounds: int, size: int) -> None:
    trainers = {name: trainer_of(*case, size) for name, case in CASES.items()}
    for trainer in trainers.values():
        seconds(trainer)
    taken = [{name: seconds(trainer) for name, trainer in trainers.items()} for _ in range(rounds)]
    for name, (_, tasks, _) in CASES.items():
        base = "fixed, SSMTL+" if tasks == PLUS else "fixed, SSMTL"
        ratios = sorted(one[name] / one[base] for one in taken)
        milliseconds = statistics.median(one[name] for one in taken) * 1e3
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"{name:50s} {milliseconds:7.1f} ms  ratio {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*given, *(7, 64)[len(given) :])

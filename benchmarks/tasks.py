"""How long a step takes with each pretext task, alone and beside ±t, against ±t.

    python benchmarks/tasks.py [ROUNDS [SIZE]]

All take turns in one process, on one core; the figures are medians of ratios of processor time, which a busy machine
changes little.
"""

import statistics
import sys
import time

import torch
from balancers import trainer_of

from ssmtl_toolkit.pretraining.trainer import Trainer

PAIR = ("reconstruct_prev", "reconstruct_next")
COVERED = ("reconstruct_prev:mask=0.75", "reconstruct_next:mask=0.75")
NEW = (
    *("inpaint", "denoise", "restore"),
    *("contrast", "dense_contrast", "vicreg", "slice_position", "slice_fusion", "locate"),
)
CASES = {
    "±t": PAIR,
    "±t, mask=0.75": COVERED,
    **{task: (task,) for task in NEW},
    **{f"±t + {task}": (*PAIR, task) for task in NEW},
    "±t, mask=0.75 + inpaint": (*COVERED, "inpaint"),
}


def seconds(trainer: Trainer) -> float:
    start = time.process_time()
    trainer._update()
    return time.process_time() - start


def main(rounds: int, size: int) -> None:
    torch.set_num_threads(1)
    trainers = {name: trainer_of("fixed", tasks, False, size) for name, tasks in CASES.items()}
    for trainer in trainers.values():
        seconds(trainer)
    taken = [{name: seconds(trainer) for name, trainer in trainers.items()} for _ in range(rounds)]
    for name in CASES:
        ratios = sorted(one[name] / one["±t"] for one in taken)
        milliseconds = statistics.median(one[name] for one in taken) * 1e3
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(f"{name:26s} {milliseconds:7.1f} ms  ratio {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*given, *(9, 64)[len(given) :])

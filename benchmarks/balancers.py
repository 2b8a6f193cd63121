"""How much longer a step takes with each balancer than with `fixed`, and with gradient norms logged at every step.

python benchmarks/balancers.py [--rounds N] [--json] [--only WORD] [--quick]
"""

from __future__ import annotations

from collections.abc import Iterator

from made_up import trainer
from timing import Act, Group, Ratio, Way, main

DENSE = ("reconstruct_prev", "reconstruct_next")
PLUS = (*DENSE, "slice_siam")
SSMTL_PLUS = (
    *("fixed", "uncertainty", "dwa", "rlw", "famo", "pcgrad", "upgrad", "mgda:at=backbone"),
    *("pcgrad:at=features", "upgrad:at=features", "mgda"),
)
NORMS = "fixed with --gradient-norms at every step"


def step(balancer: str, tasks: tuple[str, ...], size: int, norms: bool = False) -> Act:
    options = {"balancer": balancer, "gradient_norms": norms, "log_every": 1}
    return trainer("unet:encoder=resnet18", tasks, size, 8, **options)._update


def rows(quick: bool) -> Iterator[Group]:
    size, plus = (32, ("fixed", "uncertainty")) if quick else (64, SSMTL_PLUS)
    ways = {balancer: Way(step, (balancer, PLUS, size)) for balancer in plus}
    if not quick:
        ways[NORMS] = Way(step, ("fixed", PLUS, size, True))
    yield Group("SSMTL+", ways, [Ratio(name, "fixed") for name in ways if name != "fixed"])
    if not quick:
        ways = {balancer: Way(step, (balancer, DENSE, size)) for balancer in ("fixed", "mgda:at=backbone", "mgda")}
        yield Group("SSMTL", ways, [Ratio(name, "fixed") for name in ways if name != "fixed"])


if __name__ == "__main__":
    main(__doc__, rows)

"""Which process of several this is, before torch is imported."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Whether this is the process that speaks and writes, by the variables that torchrun, Fabric and SLURM set."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"]) == 0
    if "LOCAL_RANK" in os.environ or "NODE_RANK" in os.environ:  # SLURM's numbers are the parent's in our own children
        return all(int(os.environ.get(name) or 0) == 0 for name in ("LOCAL_RANK", "NODE_RANK"))
    return int(os.environ.get("SLURM_PROCID") or 0) == 0

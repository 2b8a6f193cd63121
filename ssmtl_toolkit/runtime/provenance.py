"""How a result came to be: command, versions, machine, seeds, data, and what to cite; for summary.json."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ssmtl_toolkit.registry import OURS, our_version, registry
from ssmtl_toolkit.specs import Spec

PAPER = """@inproceedings{dong2021selfsupervised,
  title     = {Self-supervised Multi-task Representation Learning for Sequential Medical Images},
  author    = {Dong, Nanqing and Kampffmeyer, Michael and Voiculescu, Irina},
  booktitle = {Machine Learning and Knowledge Discovery in Databases. Research Track (ECML PKDD 2021)},
  series    = {Lecture Notes in Computer Science},
  volume    = {12977},
  pages     = {779--794},
  year      = {2021},
  publisher = {Springer},
  doi       = {10.1007/978-3-030-86523-8_47}
}"""
"""The paper whose method this is."""

_LIBRARIES = ("torch", "numpy", "lightning-fabric", "segmentation-models-pytorch", "timm")


def provenance(specs: Iterable[Spec], seeds: Sequence[int], data: str, device: str) -> dict[str, Any]:
    """Describe this process and what it used.

    Args:
        specs: the parts whose plugins and sources count.
        seeds: of the trainings.
        data: the fingerprint of the slices; "": each run records its own.
        device: what torch computed on, such as `cuda:0`; "": the same.
    """
    used = list(specs)
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "versions": _versions(used),
        "machine": _machine(device),
        "seeds": list(seeds),
        "data": data,
        "citations": list(dict.fromkeys([PAPER, *(text for spec in used for text in spec.citations)])),
    }


def _versions(specs: Iterable[Spec]) -> dict[str, str]:
    versions = {OURS: our_version(), "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    origins = [registry().origin(spec) for spec in specs]
    return versions | {o["distribution"]: o["version"] for o in origins if o["distribution"]}


def _machine(device: str) -> dict[str, str]:
    """What was computed on; no name of a host or a user."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about = {"system": platform.platform(terse=True), "processor": _processor(), "cores": str(cores), "device": device}
    if device.startswith("cuda"):
        import torch

        about["gpu"] = torch.cuda.get_device_name(device)
    return about


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())

"""Trains in two processes on the CPU: starts them, and is what each of them runs."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.testing.case import fail, require
from ssmtl_toolkit.testing.sample import train

_MANY_SECONDS = 180


def importable(spec: Spec) -> bool:
    """Whether another process can import the class of `spec`."""
    return type(spec).__module__ != "__main__" and "<locals>" not in type(spec).__qualname__


def train_on_two_ranks(folder: Path, roles: Mapping[str, Sequence[Spec]], **options: Any) -> list[dict[str, str]]:
    """Train two steps in two processes on the CPU; return for each rank the digest of every parameter.

    `roles` are the arguments `tasks`, `backbone`, `balancer` of `train`, each as a list of specs.

    Raises:
        ContractError: a rank failed, or they waited for each other too long.
    """
    job = {
        "folder": str(folder),
        "roles": {role: [[_address(spec), spec.model_dump_json()] for spec in specs] for role, specs in roles.items()},
        "options": options,
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir()
    common = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0",
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-m", "ssmtl_toolkit.testing.rank", json.dumps(job)]
    ranks = [
        subprocess.Popen(
            command, env={**common, "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        told = [rank.communicate(timeout=_MANY_SECONDS) for rank in ranks]
    except subprocess.TimeoutExpired:
        fail(f"two processes did not finish two steps in {_MANY_SECONDS} s: one waits for the other")
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, err) in zip(ranks, told, strict=True):
        require(rank.returncode == 0, f"one of two processes failed: {(err.strip().splitlines() or ['?'])[-1][:300]}")
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


def _address(spec: Spec) -> str:
    return f"{type(spec).__module__}:{type(spec).__qualname__}"


def made_again(address: str, options: str) -> Spec:
    """The spec whose class is at `module:qualname`."""
    module, _, name = address.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    made: Spec = found.model_validate_json(options)
    return made


def main(job: dict[str, Any]) -> None:
    """Train as one of the two, and print the digests of its weights."""
    roles = {role: [made_again(*made) for made in specs] for role, specs in job["roles"].items()}
    parts: dict[str, Any] = {"tasks": roles.pop("tasks"), **{role: specs[0] for role, specs in roles.items()}}
    state = train(Path(job["folder"]), 2, **parts, devices=2, **job["options"])
    digests = {k: hashlib.sha256(v.detach().contiguous().numpy().tobytes()).hexdigest() for k, v in state.items()}
    print(json.dumps(digests))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

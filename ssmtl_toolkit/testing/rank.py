"""Trains in two processes on the CPU: starts them once, gives them jobs, and is what each of them runs."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from torch import distributed

from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.testing.case import fail
from ssmtl_toolkit.testing.sample import train

_MANY_SECONDS = 180
# what torchrun and SLURM tell their processes, which are not these two
_OF_A_LAUNCHER = ("SLURM_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_")


def importable(spec: Spec) -> bool:
    """Whether another process can import the class of `spec`."""
    return type(spec).__module__ != "__main__" and "<locals>" not in type(spec).__qualname__


def train_on_two_ranks(folder: Path, roles: Mapping[str, Sequence[Spec]], **options: Any) -> list[dict[str, str]]:
    """Train two steps in two processes on the CPU; return for each rank the digest of every parameter.

    `roles` are the arguments `tasks`, `backbone`, `balancer` of `train`, each as a list of specs.

    Raises:
        ContractError: a rank failed, or they waited for each other too long.
    """
    folder.mkdir()
    job = {
        "folder": str(folder),
        "roles": {role: [[_address(spec), spec.model_dump_json()] for spec in specs] for role, specs in roles.items()},
        "options": options,
        "path": sys.path,
        "port": _free_port(),
    }
    told = _pair().do(json.dumps(job))
    failed = dict.fromkeys(answer["failed"] for answer in told if "failed" in answer)
    if failed:
        fail(f"two processes cannot train with it: {' / '.join(failed)}")
    return [answer["digests"] for answer in told]


class _Pair:
    """Two processes that take one job after the other; torch is imported once."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "ssmtl_toolkit.testing.rank"]
        path = os.pathsep.join(filter(None, sys.path))
        ours = {name: value for name, value in os.environ.items() if not name.startswith(_OF_A_LAUNCHER)}
        common = {**ours, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}
        self._ranks = [
            subprocess.Popen(
                command,
                env={**common, "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": str(rank)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for rank in range(2)
        ]

    @property
    def alive(self) -> bool:
        return all(rank.poll() is None for rank in self._ranks)

    def do(self, job: str) -> list[dict[str, Any]]:
        """Give both the job and wait for their answers; after a failure both are gone."""
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(self._ask, rank, job) for rank in self._ranks]
            started = time.monotonic()
            done, _ = wait(answers, _MANY_SECONDS, FIRST_COMPLETED)
            failed = any("failed" in answer.result() for answer in done)
            done, waiting = wait(answers, 2 if failed else max(0.0, started + _MANY_SECONDS - time.monotonic()))
            told = [answer.result() for answer in answers if answer in done]
            if waiting and not failed:
                told.append({"failed": f"two steps took more than {_MANY_SECONDS} s: one waits for the other"})
            if waiting or any("failed" in answer for answer in told):
                self.kill()
        return told

    @staticmethod
    def _ask(rank: subprocess.Popen[str], job: str) -> dict[str, Any]:
        assert rank.stdin is not None
        assert rank.stdout is not None
        try:
            rank.stdin.write(job + "\n")
            rank.stdin.flush()
            answer: dict[str, Any] = json.loads(rank.stdout.readline())
        except (OSError, ValueError):  # it was killed, or died without a word
            return {"failed": f"it ended with exit code {rank.wait()}"}
        return answer

    def kill(self) -> None:
        """End both."""
        for rank in self._ranks:
            rank.kill()
            rank.communicate()


_pairs: list[_Pair] = []


def _pair() -> _Pair:
    if not (_pairs and _pairs[-1].alive):
        _pairs.append(_Pair())
        atexit.register(_pairs[-1].kill)
    return _pairs[-1]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _address(spec: Spec) -> str:
    return f"{type(spec).__module__}:{type(spec).__qualname__}"


def _made_again(address: str, options: str) -> Spec:
    """The spec whose class is at `module:qualname`."""
    module, _, name = address.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    made: Spec = found.model_validate_json(options)
    return made


def _work(job: dict[str, Any]) -> dict[str, str]:
    """Train as one of the two; return the digests of all weights."""
    sys.path[:] = job["path"]
    os.environ["MASTER_PORT"] = str(job["port"])
    roles = {role: [_made_again(*made) for made in specs] for role, specs in job["roles"].items()}
    parts: dict[str, Any] = {"tasks": roles.pop("tasks"), **{role: specs[0] for role, specs in roles.items()}}
    state = train(Path(job["folder"]), 2, **parts, devices=2, **job["options"])
    return {k: hashlib.sha256(v.detach().contiguous().numpy().tobytes()).hexdigest() for k, v in state.items()}


def _serve(jobs: IO[str], answers: IO[str]) -> None:
    """Do one job a line until there are no more; the group of processes is made anew for each."""
    for line in jobs:
        try:
            answer: dict[str, Any] = {"digests": _work(json.loads(line))}
        except (Exception, SystemExit) as error:
            answer = {"failed": f"{type(error).__name__}: {(str(error).splitlines() or ['?'])[0][:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        with contextlib.suppress(Exception):
            distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with os.fdopen(os.dup(1), "w") as kept:
        os.dup2(2, 1)  # what a plugin prints is no answer
        _serve(sys.stdin, kept)

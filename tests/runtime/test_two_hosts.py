"""A training on two machines, which are two network namespaces here: own addresses, own host names, a link between."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from helpers.places import ROOT
from helpers.processes import read_until
from ssmtl_toolkit.runtime import checkpoint

pytestmark = pytest.mark.slow
TIMEOUT = 4
FIRST = "10.77.0.1"


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True)


class Hosts:
    """Two namespaces with a pair of veth between them; needs root."""

    def __init__(self):
        self.names = [f"ssmtl{os.getpid()}{letter}" for letter in "ab"]
        self.links = [f"v{os.getpid()}{letter}" for letter in "ab"]
        self.started = []

    def open(self):
        if not shutil.which("ip") or not shutil.which("unshare"):
            pytest.skip("needs the programs ip and unshare")
        for name in self.names:
            if (made := ip("netns", "add", name)).returncode:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        made = ip("link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1])
        if made.returncode:
            pytest.skip(f"no pair of veth can be made here: {made.stderr.strip()}")
        for i, (name, link) in enumerate(zip(self.names, self.links, strict=True)):
            ip("link", "set", link, "netns", name)
            ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", link)
            for up in (link, "lo"):
                assert ip("-n", name, "link", "set", up, "up").returncode == 0
        return self

    def start(self, i, folder, *words):
        """`ssmtl run` by torchrun, as node `i` of two."""
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        torchrun += ["--node-rank", str(i), "--master-addr", FIRST, "--master-port", "29500"]
        shell = ["unshare", "--uts", "sh", "-c", f'hostname host-{i}; exec "$@"', "sh"]
        command = [*torchrun, "-m", "ssmtl_toolkit", *map(str, words), "--nodes", "2", "--accelerator", "cpu"]
        env = {**os.environ, "GLOO_SOCKET_IFNAME": self.links[i]}
        streams = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True, "start_new_session": True}
        whole = ["ip", "netns", "exec", self.names[i], *shell, *command]
        self.started.append(subprocess.Popen(whole, cwd=folder, env=env, **streams))
        return self.started[-1]

    def lose(self, i):
        """Take a machine off the network and kill what runs there: no connection is closed, no message comes."""
        assert ip("-n", self.names[i], "link", "set", self.links[i], "down").returncode == 0
        self.kill(self.started[i])

    def kill(self, process):
        found = subprocess.run(["ps", "-o", "pid=", "--sid", str(process.pid)], capture_output=True, text=True)
        for pid in found.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def close(self):
        for process in self.started:
            self.kill(process)
            process.communicate()
        for name in self.names:
            ip("netns", "del", name)


@pytest.fixture
def hosts():
    both = Hosts()
    try:
        yield both.open()
    finally:
        both.close()


def words(scans, tmp_path, out, batch, *more):
    plugin = ("--plugin", ROOT / "tests" / "helpers" / "without_norm.py")
    network = ("--backbone", "without_norm", "--task", "reconstruct_next:t=1", "--size", 32, "--batch-size", batch)
    usual = ("--data", scans, "--cache", tmp_path / "cache", "--log-every", 1, "--no-report", "--held-out", 0)
    return (*plugin, "run", *network, *usual, "--out", out, *more)


def losses(folder):
    return [
        json.loads(line)["reconstruct_next:t=1/loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def test_two_machines_give_the_losses_of_one_process_with_the_same_batch_and_end_soon_after_one_is_lost(
    hosts, scans, tmp_path, ssmtl
):
    alone = ssmtl(*words(scans, tmp_path, "alone", 8, "--steps", 4))
    assert alone.returncode == 0, alone.stderr
    given = words(scans, tmp_path, "both", 4, "--steps", 90000, "--checkpoint-every", 4, "--rank-timeout", TIMEOUT)
    first, _ = (hosts.start(i, tmp_path, *given) for i in range(2))
    told = read_until(first.stderr, "step ")
    until = time.monotonic() + 120
    while not (tmp_path / "both" / "checkpoints" / "step-00000008").exists():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert losses(tmp_path / "both")[:4] == pytest.approx(losses(tmp_path / "alone"), rel=1e-4)
    hosts.lose(1)
    clock = time.monotonic()
    told += first.communicate(timeout=90)[1]
    assert first.returncode != 0
    assert time.monotonic() - clock < TIMEOUT + 30, told
    assert re.search(rf"error: rank 1 \(process \d+ on host-1.*\) did not answer for {TIMEOUT} s; resume with: ", told)
    assert checkpoint.newest(tmp_path / "both" / "checkpoints", pytest.fail).step % 4 == 0

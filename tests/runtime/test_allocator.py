"""The memory of large tensors is kept for the next ones, unless the user tunes the allocator."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from ssmtl_toolkit.runtime.allocator import keep_memory
print(keep_memory(torch.device("cpu")))
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20 * 2**20)  # 80 MiB, or 20,000 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(10):  # glibc 2.36 lays the first few one behind the other
    faults()
print(sum(faults() for _ in range(5)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
@pytest.mark.parametrize(("more", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_a_tensor_takes_the_pages_of_those_before_it(more, kept):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **more}, capture_output=True, text=True, check=True
    )
    told, faults = done.stdout.split()
    assert told == str(kept)
    assert (int(faults) < 5000) == kept

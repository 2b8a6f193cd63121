"""How much memory there is in a container or job: the limits of its control groups, version 1 and 2."""

import pytest

from ssmtl_toolkit.data import memory

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 64 GiB, 40 of them free; writes files of control groups and says in which this process is."""
    monkeypatch.setattr(memory, "whole_memory", memory.whole_memory.__wrapped__)  # which looks again each time
    monkeypatch.setattr(memory, "_machine_memory", lambda: 64 * GIB)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OURS", tmp_path / "ours")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    (tmp_path / "meminfo").write_text(f"MemTotal: {64 * 2**20} kB\nMemAvailable: {40 * 2**20} kB\n")

    def write(files, ours=""):
        (tmp_path / "ours").write_text(ours)
        for name, text in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(str(text))

    return write


def seen():
    return memory.whole_memory() / GIB, memory.free_memory() / GIB


def test_without_control_groups_it_is_the_machine(machine):
    assert seen() == (64, 40)


def test_in_a_container_of_version_2_it_is_its_limit_less_what_is_used_but_for_files(machine):
    files = {"memory.max": 8 * GIB, "memory.current": 6 * GIB, "memory.stat": f"anon 5\ninactive_file {3 * GIB}\n"}
    machine(files, "0::/\n")
    assert seen() == (8, 5)


def test_in_a_container_of_version_1_too(machine):
    files = {
        "memory/memory.limit_in_bytes": 4 * GIB,
        "memory/memory.usage_in_bytes": 3 * GIB,
        "memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {GIB}\n",
    }
    machine(files, "11:cpu,cpuacct:/docker/abc\n10:memory:/docker/abc\n")  # the path is the host's
    assert seen() == (4, 2)


@pytest.mark.parametrize("around", ["max", 3 * GIB])
def test_in_a_job_the_least_limit_of_its_group_and_those_around_it_counts(machine, around):
    files = {
        "system.slice/job_7/memory.max": around,
        "system.slice/job_7/memory.current": 2 * GIB,
        "system.slice/job_7/step_0/memory.max": 5 * GIB,
        "system.slice/job_7/step_0/memory.current": GIB,
        "system.slice/other/memory.max": 1,
        "system.slice/other/memory.current": 0,
    }
    machine(files, "0::/system.slice/job_7/step_0\n")
    assert seen() == ((5, 4) if around == "max" else (3, 1))


@pytest.mark.parametrize("limit", ["max\n", 9223372036854771712, "", "odd"])
def test_no_limit_is_none(machine, limit):
    machine({"memory.max": limit, "memory.current": GIB, "memory/memory.limit_in_bytes": limit}, "0::/\n")
    assert seen() == (64, 40)


def test_more_use_than_allowed_leaves_nothing(machine):
    machine({"memory.max": GIB, "memory.current": 2 * GIB}, "0::/../../elsewhere\n")
    assert seen() == (1, 0)

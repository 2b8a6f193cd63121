"""The n-th write, fsync, rename, open, mkdir … of a command fails, or a kill comes instead: one line, and it resumes.

`make soak` tries every n; `SSMTL_STRIDE=7` every seventh.
"""

import itertools
import os
import random
import shutil

import pytest

from helpers.disks import small_disk
from helpers.faults import FAULTS, Forks
from helpers.tried import COMMANDS, DAMAGES, Place, ending

QUICK = ("predict", "evaluate", "report", "runs", "data prepare", "data suggest", "data split", "cache clean")
RESUMED = ("run", "finetune", "predict", "experiment")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    base = tmp_path_factory.mktemp("faults")
    forks = Forks(base)
    yield Place(base, forks)
    forks.close()


@pytest.mark.slow
def test_a_run_in_which_some_operation_fails_says_so_and_resumes_to_the_same_bits(place):
    expected, total = place.whole("run")
    tried = {"kill": 0.6, "full": 0.8, "full once": 0.45, "disk": 0.8, "forbidden": 0.8, "read-only": 0.55}
    assert tried.keys() == FAULTS.keys()
    wrong = [place.broken("run", fault, round(share * total[fault]), expected) for fault, share in tried.items()]
    assert list(itertools.chain(*wrong)) == []


@pytest.mark.slow
def test_a_read_only_cache_with_all_slices_works_and_what_cannot_be_written_is_refused_before_the_first_step(place):
    expected, _ = place.whole("run")
    cache, out, words = place.tried / "cache", place.tried / "out", place.command("run", place.tried)
    shutil.rmtree(out)
    ended = place.forks.run(*words, below=cache, fault="read-only", at=1)
    assert ended.returncode == 0, ended.stderr
    assert ended.failed
    assert place.results("run", ended) == expected
    for below, what in ((out, "out: cannot be written"), (cache, "the cache cannot be written")):
        place.fresh("run")
        ended = place.forks.run(*words, below=below, fault="read-only", at=1)
        assert ended.returncode == 1
        assert what in ended.said
        assert "Read-only file system" in ended.said
        assert "step 1" not in ended.stderr
        assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_command_that_is_killed_or_finds_the_disk_full_or_broken_ends_well_the_next_time(place, name):
    chance = random.Random(name)
    expected, total = place.whole(name)
    wrong = []
    for fault in (fault for fault in ("kill", "full", "disk") if total[fault]):
        wrong += place.broken(name, fault, chance.randint(1, total[fault]), expected)
    assert wrong == []


@pytest.mark.slow
def test_a_run_of_which_some_file_is_damaged_is_repaired_or_says_which_one(place):
    expected, _ = place.whole("run")
    assert place.damaged("run", expected, ["noise"], "out/*") == []
    assert place.damaged("run", expected, ["other"], "out/*.json*") == []


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("name", RESUMED)
def test_every_file_of_a_command_may_be_damaged(place, name):
    expected, _ = place.whole(name)
    before = place.tries
    wrong = place.damaged(name, expected, list(DAMAGES))
    print(f"\n{name}: {place.tries - before} damaged files, {len(wrong)} wrong")
    assert wrong == []


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("name", ["run", "finetune", "predict"])
def test_a_command_on_a_disk_that_gets_full_says_so_and_ends_well_when_there_is_room(place, name):
    expected, _ = place.whole(name)
    whole = sum(file.stat().st_blocks // 2 for file in place.tried.rglob("*"))
    wrong, full = [], 0
    shutil.rmtree(place.tried)
    with small_disk(place.tried) as resize:
        for size in (max(8, whole * share // 12) for share in range(12)):
            resize(size)
            folder = place.fresh(name)
            ended = place.forks.run(*place.command(name, folder))
            full += ended.returncode != 0
            found = list(ending(ended, "full", folder))
            resize(64 * 1024)
            found += place.differences(name, expected, None if ended.returncode else "checkpoints/")
            wrong += [f"{size} of {whole} KiB: {text}" for text in found]
            place.fresh(name)
    print(f"\n{name}: full {full} times, {len(wrong)} wrong")
    assert full
    assert wrong == []


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_are_killed_again_and_again_end_with_the_same_results(place, name):
    """At random operations, five times in a row; `SSMTL_KILLS=1000` kills so often in all."""
    chance, kills, wrong = random.Random(f"{name} {os.environ.get('SSMTL_SEED', '')}"), 0, []
    expected, total = place.whole(name)
    while total["kill"] and not wrong and kills < int(os.environ.get("SSMTL_KILLS", "100")) / len(COMMANDS):
        more, wrong = place.killed(name, expected, [chance.randint(1, total["kill"]) for _ in range(5)])
        kills += more
    print(f"\n{name}: {kills} kills")
    assert wrong == []


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_operation_of_a_command_may_fail_or_be_its_last(place, name, fault):
    expected, total = place.whole(name)
    tried = range(1, total[fault] + 1, int(os.environ.get("SSMTL_STRIDE", "1")))
    wrong = [text for at in tried for text in place.broken(name, fault, at, expected)]
    print(f"\n{name}: {len(tried)} faults {fault!r} at {total[fault]} operations, {len(wrong)} wrong")
    assert wrong == []

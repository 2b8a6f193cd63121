"""The n-th write, fsync, rename, open, mkdir … of a command fails, or a kill comes instead: one line, and it resumes.

`make soak` tries every n; `SSMTL_STRIDE=7` every seventh.
"""

import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.faults import FAULTS, Forks
from helpers.small import write_pair
from ssmtl_toolkit.runtime import checkpoint

NET = ("--backbone", "unet:encoder=plain,width=4")
RUN = ("run", *NET, "--size", 32, "--batch-size", 4, "--steps", 4, "--checkpoint-every", 2, "--log-every", 1)
TASKS = ("--task", "reconstruct_next:t=1", "--task", "moco_v2:queue=10")
TUNE = ("finetune", "--classes", "big=10,small=20", "--train-scans", 1, "--slices-per-scan", 2, "--test-scans", 1)
TUNE = (*TUNE, "--steps", 2, "--batch-size", 2, "--no-surface", "--recipe", "paper", "--seeds", 2)
EXPERIMENT = """
title = "two rows"
[pretrain]
size = 32
batch_size = 4
steps = 2
[finetune]
classes = "big=10,small=20"
train_scans = 1
slices_per_scan = 2
steps = 2
batch_size = 2
surface = false
seeds = 1
recipe = "paper"
[split]
train = 2
test = 1
[rows.scratch]
name = "from scratch"
backbone = "unet:encoder=plain,width=4"
[rows.ours]
name = "pre-trained"
backbone = "unet:encoder=plain,width=4"
tasks = ["reconstruct_next:t=1"]
"""
DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "noise": lambda content: hashlib.sha512(content).digest(),
    "other": lambda content: b"{}",
    "list": lambda content: b"[]",
    "deep": lambda content: b"[" * 100_000,
    "missing": lambda content: None,
}
TIMES = {"seconds", "seconds_to_first_step", "images_per_second", "digest", "started", "ended"}
NOT_COMPARED = {"log.txt", "environment.json", "report.html", ".lock"}


@dataclass
class Place:
    """Where commands are tried: scans, a pre-training and a fine-tuning of them, and a fresh folder for each try."""

    base: Path
    forks: Forks
    tries: int = 0

    @property
    def tried(self) -> Path:
        return self.base / "tried"

    def command(self, name: str, folder: Path) -> tuple[object, ...]:
        data, out = self.base / "data", ("--out", folder / "out")
        csv = ("--csv", folder / "out" / "scores.csv")
        cached = (*out, "--cache", folder / "cache")
        commands = {
            "run": (*RUN, *TASKS, "--data", data / "images", *cached),
            "finetune": (*TUNE, "--data", data, "--from", self.base / "run" / "out", *cached),
            "predict": ("predict", data / "images", "--from", self.base / "tuned" / "out", "--existing", "skip", *out),
            "experiment": ("experiment", self.base / "experiment.toml", "--data", data, *cached),
            "evaluate": ("evaluate", "--pred", data / "labels", "--label", data / "labels", *csv),
        }
        return commands[name]

    def again(self, name: str, folder: Path) -> tuple[object, ...]:
        """The same command, which resumes what there is."""
        config = {"run": "run.toml", "finetune": "finetune.toml"}.get(name, "")
        if config and (folder / "out" / config).is_file():
            return (name, "--resume", folder / "out", "--cache", folder / "cache")
        return self.command(name, folder)

    def fresh(self) -> Path:
        shutil.rmtree(self.tried, ignore_errors=True)
        self.tried.mkdir()
        return self.tried

    def whole(self, name: str, fault: str = "disk") -> tuple[dict[str, str], int]:
        """The results of a whole command, and how many of its operations could fail."""
        folder = self.fresh()
        done = self.forks.run(*self.command(name, folder), below=folder, fault=fault)
        assert done.returncode == 0, done.stderr
        return results(folder), done.operations

    def broken(self, name: str, fault: str, at: int, expected: dict[str, str]) -> list[str]:
        """What is wrong after a fault, and after the same command again."""
        folder = self.fresh()
        ended = self.forks.run(*self.command(name, folder), below=folder, fault=fault, at=at)
        wrong = list(_ending(ended, fault, folder))
        if fault not in ("kill", "read-only"):
            wrong += [f"leaves {half}" for half in halves(folder)]
        checkpoints = folder / "out" / "checkpoints"
        if any(checkpoints.glob("step-*")):
            checkpoint.newest(checkpoints, lambda text: wrong.append(f"damaged: {text}"))
        noted = fault != "kill" and ended.returncode == 0  # a periodic save that failed is missing
        again = self.forks.run(*self.again(name, folder))
        found = results(folder)
        if again.returncode != 0:
            wrong.append(f"and again: {again.stderr.splitlines()[-1:]}")
        different = {file for file in {*found, *expected} if found.get(file) != expected.get(file)}
        wrong += [f"differs: {file}" for file in sorted(different) if not (noted and "checkpoints/" in file)]
        wrong += [f"leaves {half} for ever" for half in halves(folder)]
        return [f"{name}, {fault} {at} ({' '.join(ended.failed[:1])}): {text}" for text in wrong]

    def damaged(self, name: str, expected: dict[str, str], kinds: list[str], files: str = "out/**/*") -> list[str]:
        """What is wrong with the same command after damage to a file of a whole one: each file, in each way."""
        whole, wrong = self.base / f"whole-{name}", []
        self.whole(name)
        self.tried.rename(whole)
        kept = sorted(file.relative_to(whole) for file in whole.glob(files) if file.is_file())
        for file, kind in itertools.product(kept, kinds):
            shutil.copytree(whole, self.fresh(), dirs_exist_ok=True)
            content = DAMAGES[kind]((whole / file).read_bytes())
            (self.tried / file).unlink()
            if content is not None:
                (self.tried / file).write_bytes(content)
            ended = self.forks.run(*self.again(name, self.tried))
            if ended.returncode == 0:
                found = results(self.tried)
                different = sorted(one for one in {*found, *expected} if found.get(one) != expected.get(one))
                if f"{self.tried / file}: its lines up to step" in ended.stderr:  # a log cannot be made again
                    different = [one for one in different if one not in (str(file), "out/summary.json")]
                unread = name == "finetune" and file.name in {"metrics.jsonl", "transfer.json"}
                if unread or name == "experiment" or "checkpoints" in file.parts:  # of what is finished, or older
                    different = [one for one in different if one != str(file)]
                wrong += [f"{name}, {file} {kind}: differs: {one}" for one in different]
            elif "not expected" in ended.stderr or str(self.tried) not in ended.said or ";" not in ended.said:
                wrong.append(f"{name}, {file} {kind}: {ended.stderr[-300:]}")
            self.tries += 1
        shutil.rmtree(whole)
        return wrong


def _ending(ended, fault, folder):
    """What is wrong with the end of a command and its last line."""
    number, _, _ = FAULTS[fault]
    if fault == "kill":
        if ended.returncode != -9:
            yield f"ended by {ended.returncode}"
        return
    if not ended.failed:
        yield "nothing failed"
    if "Traceback" in ended.stderr or "not expected" in ended.stderr:
        yield f"is not expected: {ended.stderr[-300:]}"
    elif ended.returncode == 0:
        return  # by its results, and its notes
    elif ended.returncode != 1 or ended.stderr.count("\nerror: ") + ended.stderr.startswith("error: ") != 1:
        yield f"ended by {ended.returncode}: {ended.stderr[-300:]}"
    elif str(folder) not in ended.said or os.strerror(number) not in ended.said:
        yield f"does not say where, or why: {ended.said}"
    elif "full" in fault and "MiB free" not in ended.said:
        yield f"does not say how much is free: {ended.said}"


def results(folder: Path) -> dict[str, str]:
    """The files that a command has made, and digests of what must be equal in equal ones."""
    made = {}
    for file in sorted(file for file in folder.rglob("out*/**/*") if file.is_file() and file.name not in NOT_COMPARED):
        content = file.read_bytes().replace(str(folder).encode(), b"")
        if file.suffix == ".json":
            with contextlib.suppress(ValueError):  # an older checkpoint may stay damaged
                content = json.dumps(_timeless(json.loads(content))).encode()
        if file.suffix != ".lock":
            made[file.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return made


def _timeless(content):
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if key not in TIMES}
    return [_timeless(value) for value in content] if isinstance(content, list) else content


def halves(folder: Path) -> list[str]:
    """Files that are half written."""
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*"))
    return [name for name in names if name.endswith(".part") or "/.tmp" in name or "/.step" in name]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Make the place for some commands."""
    places = {}

    def place(name: str) -> Place:
        if name in places:
            return places[name]
        base = tmp_path_factory.mktemp(name)
        for i, patient in enumerate("abc"):
            write_pair(base / "data", patient, slices=6, seed=i)
        (base / "experiment.toml").write_text(EXPERIMENT)
        made = places[name] = Place(base, None)
        before = {"run": (), "finetune": ("run",), "predict": ("run", "finetune"), "experiment": (), "evaluate": ()}
        first = [(made.command(name, base / {"run": "run", "finetune": "tuned"}[name])) for name in before[name]]
        made.forks = Forks(base, *first, made.command(name, base / "warm"))
        return made

    yield place
    for made in places.values():
        made.forks.close()


@pytest.mark.slow
def test_a_run_in_which_some_operation_fails_says_so_and_resumes_to_the_same_bits(make):
    place = make("run")
    expected, total = place.whole("run")
    tried = {"kill": 0.5, "full": 0.55, "full once": 0.3, "disk": 0.8, "forbidden": 0.45, "read-only": 0.2}
    assert tried.keys() == FAULTS.keys()
    wrong = [place.broken("run", fault, round(share * total), expected) for fault, share in tried.items()]
    assert list(itertools.chain(*wrong)) == []


@pytest.mark.slow
def test_a_read_only_cache_with_all_slices_works_and_what_cannot_be_written_is_refused_before_the_first_step(make):
    place = make("run")
    expected, _ = place.whole("run")
    cache, out = place.tried / "cache", place.tried / "out"
    shutil.rmtree(out)
    ended = place.forks.run(*place.command("run", place.tried), below=cache, fault="read-only", at=1)
    assert ended.returncode == 0, ended.stderr
    assert ended.failed
    assert results(place.tried) == expected
    for below, what in ((out, "out: cannot be written"), (cache, "the cache cannot be written")):
        place.fresh()
        ended = place.forks.run(*place.command("run", place.tried), below=below, fault="read-only", at=1)
        assert ended.returncode == 1
        assert what in ended.said
        assert "Read-only file system" in ended.said
        assert "step 1" not in ended.stderr
        assert not out.exists()


@pytest.mark.slow
def test_a_run_of_which_some_file_is_damaged_is_repaired_or_says_which_one(make):
    place = make("run")
    expected, _ = place.whole("run")
    assert place.damaged("run", expected, ["noise"], "out/*") == []
    assert place.damaged("run", expected, ["other"], "out/*.json*") == []


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("name", ["run", "finetune", "predict", "experiment"])
def test_every_file_of_a_command_may_be_damaged(make, name):
    place = make(name)
    expected, _ = place.whole(name)
    wrong, before = [], place.tries
    wrong = place.damaged(name, expected, list(DAMAGES))
    print(f"\n{name}: {place.tries - before} damaged files, {len(wrong)} wrong")
    assert wrong == []


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("name", ["run", "finetune", "predict", "experiment", "evaluate"])
def test_commands_that_are_killed_again_and_again_end_with_the_same_results(make, name):
    """At random operations, five times in a row; `SSMTL_KILLS=1000` kills so often in all."""
    place, chance, kills = make(name), random.Random(name), 0
    expected, total = place.whole(name, "kill")
    while kills < int(os.environ.get("SSMTL_KILLS", "100")) / 5:
        folder, command = place.fresh(), place.command(name, place.tried)
        for _ in range(5):
            at = chance.randint(1, total)
            ended = place.forks.run(*command, below=folder, fault="kill", at=at)
            command = place.again(name, folder)
            kills += ended.returncode == -9
            assert ended.returncode in (-9, 0), ended.stderr
        ended = place.forks.run(*command)
        assert ended.returncode == 0, ended.stderr
        assert results(folder) == expected
        assert halves(folder) == []
    print(f"\n{name}: {kills} kills")


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["run", "finetune", "predict", "experiment", "evaluate"])
def test_every_operation_of_a_command_may_fail_or_be_its_last(make, name, fault):
    place = make(name)
    expected, total = place.whole(name, fault)
    tried = range(1, total + 1, int(os.environ.get("SSMTL_STRIDE", "1")))
    wrong = [text for at in tried for text in place.broken(name, fault, at, expected)]
    print(f"\n{name}: {len(tried)} faults {fault!r} at {total} operations, {len(wrong)} wrong")
    assert wrong == []

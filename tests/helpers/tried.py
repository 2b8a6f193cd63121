"""Commands that are tried with faults, a line each, and what must be equal when they have ended well."""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from helpers.faults import FAULTS, Ended, Forks
from helpers.small import write_pair
from ssmtl_toolkit.runtime import checkpoint

SMALL = "--backbone unet:encoder=plain,width=4 --size 32"
TIMM = "--backbone unet:encoder=tu-test_resnet --size 32"
NNUNET = "--backbone nnunet:features=4+8,strides=1+2,kernels=3+3,blocks=1+1,decoder=1 --size 32"
LABELS = "--classes big=10,small=20 --no-surface --recipe paper --test-scans 1"
RUN = "--batch-size 4 --steps 4 --checkpoint-every 2 --log-every 1 --task reconstruct_next:t=1"
TUNE = f"{LABELS} --steps 2 --batch-size 2 --slices-per-scan 2 --train-scans 1"
SHORT = "--set pretrain.steps=2 --set pretrain.batch_size=4 --set finetune.steps=2 --set finetune.batch_size=2"
COMPARED = f"{SMALL} {LABELS} --budget 1 --draws 1 --pretrainings 1 {SHORT}"
MIXES = "--task reconstruct_next:t=1 --task denoise --validation-scans 1 --slices 4 --steps 2"
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
train = 3
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
TIMES |= {"minutes", "pretraining_minutes", "hours"}
NOT_COMPARED = {"log.txt", "environment.json", "report.html", ".lock"}


@dataclass(frozen=True)
class Command:
    """A command that is tried.

    Attributes:
        words: its words; {out} and {cache} are fresh in each try, the other places are made once.
        resumes: once this file exists, it is continued by --resume.
        once: what exists already is refused.
        compared: the files that must be equal at the end.
        shows: what it prints must be equal too.
        lists: what cannot be read is a line of what it prints, and it ends with 3.
        changes: the places of which each try has a copy of its own.
    """

    words: str
    resumes: str = ""
    once: bool = False
    compared: str = "out/**/*"
    shows: bool = False
    lists: bool = False
    changes: tuple[str, ...] = ()


BEFORE = {  # places that commands start from
    "run": f"run {SMALL} {RUN} --data {{data}}/images --out {{run}} --cache {{kept}}",
    "tuned": f"finetune {TUNE} --seeds 1 --from {{run}} --data {{data}} --out {{tuned}} --cache {{kept}}",
    "timm": f"run {TIMM} {RUN} --data {{data}}/images --out {{timm}} --cache {{kept}}",
    "nnunet": f"run {NNUNET} {RUN} --data {{data}}/images --out {{nnunet}} --cache {{kept}}",
    "kept": "data prepare {data}/images --size 32 --cache {kept}",
}
EXPORTS = {"torch": "tuned", "onnx": "run", "monai": "tuned", "hf": "tuned", "smp": "timm", "timm": "timm"}
if find_spec("dynamic_network_architectures") is not None:
    EXPORTS["nnunet"] = "nnunet"
OUT = "--out {out} --cache {cache}"
COMMANDS = {
    "run": Command(f"run {SMALL} {RUN} --task moco_v2:queue=10 --data {{data}}/images {OUT}", "run.toml"),
    "finetune": Command(f"finetune {TUNE} --seeds 2 --from {{run}} --data {{data}} {OUT}", "finetune.toml"),
    "predict": Command("predict {data}/images --from {tuned} --existing skip --out {out}"),
    "evaluate": Command("evaluate --pred {data}/labels --label {data}/labels --csv {out}/a.csv"),
    "evaluate overlay": Command(
        "evaluate --pred {data}/labels --label {data}/labels --csv {out}/a.csv --overlay {out}/b"
    ),
    "experiment": Command(f"experiment {{base}}/experiment.toml --data {{data}} {OUT}"),
    "fewshot": Command(f"fewshot {{data}} --method ssmtl --t 1 {COMPARED} {OUT}"),
    "affinity": Command(f"affinity {{data}} {MIXES} {COMPARED} {OUT}"),
    **{
        f"export {to}": Command(f"export {{{place}}} --to {to} --out {{out}}", once=True)
        for to, place in EXPORTS.items()
    },
    "report": Command("report {run} {run} --out {out}/page.html"),
    "runs": Command("runs {run} {tuned} --json", shows=True, changes=("run", "tuned")),
    "data info": Command("data info {data} --json --cache {cache}", shows=True, lists=True, changes=("data",)),
    "data prepare": Command("data prepare {data}/images --size 32 --cache {cache}", compared="cache/*/**/*"),
    "data split": Command("data split {data} --test-scans 1 --out {out}/split.json --cache {cache}", once=True),
    "data folds": Command("data split {data} --folds 3 --out {out}/split.json --cache {cache}", once=True),
    "data suggest": Command(
        "data suggest {data}/images --from {run} --slices 3 --out {out}/a.csv --cache {cache}", once=True
    ),
    "data phantom": Command("data phantom {out} --patients 1", once=True),
    "cache info": Command("cache info --cache {kept} --json", shows=True, changes=("kept",)),
    "cache clean": Command("cache clean --all --cache {kept}", compared="kept/*/**/*", changes=("kept",)),
    "plugins new": Command("plugins new which-side --kind task --out {here}", once=True, compared="which-side/**/*"),
}


@dataclass
class Place:
    """Where commands are tried: scans, what was made of them before, and a fresh folder for each try."""

    base: Path
    forks: Forks
    tries: int = 0

    def __post_init__(self) -> None:
        for i, patient in enumerate("abcd"):
            write_pair(self.base / "data", patient, slices=6, seed=i)
        (self.base / "experiment.toml").write_text(EXPERIMENT)
        self._ready: set[str] = set()

    @property
    def tried(self) -> Path:
        return self.base / "tried"

    def words(self, text: str, folder: Path, changes: Sequence[str] = ()) -> list[str]:
        """The words of a command in this place."""
        kept = {name: self.base / name for name in ("data", *BEFORE)}
        fresh = {name: folder / name for name in ("out", "cache", *changes)}
        return shlex.split(text.format(base=self.base, here=folder, **kept | fresh))

    def command(self, name: str, folder: Path) -> list[str]:
        return self.words(COMMANDS[name].words, folder, COMMANDS[name].changes)

    def _needed(self, name: str) -> set[str]:
        """The places that must be made before this command, and those that these need."""
        needed = {*re.findall(r"{(\w+)}", COMMANDS[name].words)} & {*BEFORE}
        return needed | ({"run"} if "tuned" in needed else set())

    def make_ready(self, name: str) -> None:
        """Make what a command starts from, and run it once, so that what it imports is there."""
        for place in (place for place in BEFORE if place in self._needed(name)):
            if BEFORE[place] not in self._ready:
                self.forks.remember(*self.words(BEFORE[place], self.base))
        if COMMANDS[name].words not in self._ready:
            self.forks.remember(*self.command(name, self.fresh(name)))
        self._ready |= {COMMANDS[name].words, *(BEFORE[place] for place in self._needed(name))}

    def again(self, name: str, folder: Path) -> list[str]:
        """The same command, which resumes what there is."""
        config = COMMANDS[name].resumes
        if config and (folder / "out" / config).is_file():
            return [name, "--resume", str(folder / "out"), "--cache", str(folder / "cache")]
        return self.command(name, folder)

    def fresh(self, name: str) -> Path:
        """A new folder to try a command in, with copies of what it changes."""
        shutil.rmtree(self.tried, ignore_errors=True)
        for place in COMMANDS[name].changes:
            shutil.copytree(self.base / place, self.tried / place)
        self.tried.mkdir(exist_ok=True)
        return self.tried

    def whole(self, name: str) -> tuple[dict[str, str], dict[str, int]]:
        """The results of a whole command, and how many of its operations could fail in each way."""
        self.make_ready(name)
        folder = self.fresh(name)
        done = self.forks.run(*self.command(name, folder), below=folder)
        assert done.returncode == 0, done.stderr
        return self.results(name, done), {
            fault: sum(done.operations[op] for op in ops) for fault, (_, ops, _) in FAULTS.items()
        }

    def broken(self, name: str, fault: str, at: int, expected: dict[str, str]) -> list[str]:
        """What is wrong after a fault, and after the same command again."""
        folder = self.fresh(name)
        ended = self.forks.run(*self.command(name, folder), below=folder, fault=fault, at=at)
        listed = COMMANDS[name].lists and ended.returncode == 3 and os.strerror(FAULTS[fault][0]) in ended.stdout
        wrong = [] if listed else list(ending(ended, fault, folder))
        if not ended.failed:
            wrong.append("nothing failed")
        if fault not in ("kill", "read-only"):
            wrong += [f"leaves {half}" for half in halves(folder)]
        checkpoints = folder / "out" / "checkpoints"
        if any(checkpoints.glob("step-*")):
            checkpoint.newest(checkpoints, lambda text: wrong.append(f"damaged: {text}"))
        wrong += self.differences(name, expected, missing(ended) if fault != "kill" else ())
        return [f"{name}, {fault} {at} ({' '.join(ended.failed[:1])}): {text}" for text in wrong]

    def differences(self, name: str, expected: dict[str, str], but: Sequence[str] = ()) -> Iterator[str]:
        """What is wrong when a command that did not end well is given again; `but`: files that may differ."""
        again = self.forks.run(*self.again(name, self.tried))
        exists = COMMANDS[name].once and again.returncode == 2 and "choose another" in again.said
        if again.returncode != 0 and not exists:
            yield f"and again: {again.stderr[-300:]}"
        found = self.results(name, again)
        different = {file for file in {*found, *expected} if found.get(file) != expected.get(file)}
        for file in sorted(different):
            if not any(place in file for place in but) and not (exists and file == "stdout"):
                yield f"differs: {file}"
        yield from (f"leaves {half} for ever" for half in halves(self.tried))

    def killed(self, name: str, expected: dict[str, str], places: Sequence[int]) -> tuple[int, list[str]]:
        """Kill a command at these operations, one after the other; how often that was, and what is wrong then."""
        folder, kills = self.fresh(name), 0
        command = self.command(name, folder)
        for at in places:
            ended = self.forks.run(*command, below=folder, fault="kill", at=at)
            kills += ended.returncode == -9
            if ended.returncode not in (-9, 0, 2 * COMMANDS[name].once):
                return kills, [f"{name}, kills at {places}: {ended.stderr[-300:]}"]
            command = self.again(name, folder)
        return kills, [f"{name}, kills at {places}: {text}" for text in self.differences(name, expected)]

    def damaged(self, name: str, expected: dict[str, str], kinds: list[str], files: str = "out/**/*") -> list[str]:
        """What is wrong with the same command after damage to a file of a whole one: each file, in each way."""
        whole, wrong = self.base / f"whole-{name}", []
        self.whole(name)
        self.tried.rename(whole)
        kept = sorted(file.relative_to(whole) for file in whole.glob(files) if file.is_file())
        for file, kind in itertools.product(kept, kinds):
            shutil.copytree(whole, self.fresh(name), dirs_exist_ok=True)
            content = DAMAGES[kind]((whole / file).read_bytes())
            (self.tried / file).unlink()
            if content is not None:
                (self.tried / file).write_bytes(content)
            ended = self.forks.run(*self.again(name, self.tried))
            if ended.returncode == 0:
                found = self.results(name, ended)
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

    def results(self, name: str, ended: Ended) -> dict[str, str]:
        """The files that a command has made, what it has printed, and digests of what must be equal in equal ones."""
        compared, folder = COMMANDS[name], self.tried
        made = {"stdout": self._digest(ended.stdout.encode(), ".json")} if compared.shows else {}
        for file in sorted(file for file in folder.glob(compared.compared) if file.is_file()):
            if file.name not in NOT_COMPARED and file.suffix != ".lock":
                made[file.relative_to(folder).as_posix()] = self._digest(file.read_bytes(), file.suffix)
        return made

    def _digest(self, content: bytes, suffix: str) -> str:
        content = content.replace(str(self.tried).encode(), b"")
        if suffix == ".safetensors" and len(content) > 8:  # its metadata are in no order
            end = 8 + int.from_bytes(content[:8], "little")
            with contextlib.suppress(ValueError, RecursionError):
                content = json.dumps(json.loads(content[8:end]), sort_keys=True).encode() + content[end:]
        if suffix in (".json", ".csv"):
            with contextlib.suppress(ValueError, RecursionError):  # an older checkpoint may stay damaged
                rows = csv.DictReader(io.StringIO(content.decode()))
                content = json.dumps(_timeless(json.loads(content) if suffix == ".json" else list(rows))).encode()
        return hashlib.sha256(content).hexdigest()


UNOPENED = (".safetensors; ssmtl --debug", "(it cannot be opened)")
"""What is said where safetensors does not say why it cannot open a file."""


def missing(ended: Ended) -> list[str]:
    """What a command may lack that has ended well after a fault: saves on the way, and pictures if it said so."""
    pictures = ["samples/"] if "pictures for the report cannot be drawn" in ended.stderr else []
    return ["checkpoints/", *pictures] if ended.returncode == 0 else []


def ending(ended: Ended, fault: str, folder: Path) -> Iterator[str]:
    """What is wrong with the end of a command and its last line."""
    number, _, _ = FAULTS[fault]
    if fault == "kill":
        if ended.returncode != -9:
            yield f"ended by {ended.returncode}"
        return
    if "Traceback" in ended.stderr or "not expected" in ended.stderr:
        yield f"is not expected: {ended.stderr[-300:]}"
    elif ended.returncode == 0:
        return  # by its results, and its notes
    elif ended.returncode != 1 or ended.stderr.count("\nerror: ") + ended.stderr.startswith("error: ") != 1:
        yield f"ended by {ended.returncode}: {ended.stderr[-300:]}"
    elif str(folder) not in ended.said or not any(
        why in ended.said for why in (os.strerror(number), f"error number {number}", *UNOPENED)
    ):
        yield f"does not say where, or why: {ended.said}"
    elif "full" in fault and "MiB free" not in ended.said:
        yield f"does not say how much is free: {ended.said}"


def _timeless(content):
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if key not in TIMES}
    return [_timeless(value) for value in content] if isinstance(content, list) else content


def halves(folder: Path) -> list[str]:
    """Files that are half written."""
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*"))
    return [name for name in names if name.endswith(".part") or "/.tmp" in name or "/.step" in name]

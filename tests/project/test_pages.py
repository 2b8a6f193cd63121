"""What the pages tell people to type is typed here, made small, in a folder with what they speak of.

`ssmtl` commands are run as they stand, but for the sizes in SMALL; `…` stands for the usual rest. A quick choice is run
by `make test`, all of them by `make soak`.
"""

import re
import shlex
import shutil

import numpy as np
import pytest

from helpers.documents import PAGES, programs
from helpers.places import ROOT
from helpers.public_sets import FAKES
from helpers.small import SMALL as NETWORK
from helpers.small import write_channels, write_scan

PROGRAMS = [program for page in PAGES for program in programs(page)]
OURS = [program for program in PROGRAMS if program.text.startswith("ssmtl ")]
PYTHON = [program for program in PROGRAMS if program.language == "python"]

# What a page says, and what is done instead; None: nothing.
SMALL = {
    "run": {"--epochs": None, "--steps": "2", "--size": "32", "--batch-size": "8", "--snapshot-every": None},
    "finetune": {
        "--steps": "2", "--batch-size": "2", "--train-scans": "2", "--test-scans": "2", "--seeds": "1",
        "--slices-per-scan": "2", "--surface": False,
    },
    "fewshot": {
        "--size": "32", "--draws": "1", "--pretrainings": "1", "--surface": False, "--quick": None, "--budget": "1",
        "--set": ("pretrain.steps=2", "finetune.steps=2"), "--method": None, "--semi": None, "--backbone": NETWORK,
    },
    "affinity": {
        "--size": "32", "--draws": "1", "--pretrainings": "1", "--steps": "2", "--surface": False, "--quick": None,
        "--set": "finetune.steps=2", "--backbone": NETWORK, "--budget": "1",
    },
    "experiment": {
        "--set": ("finetune.steps=2", "split.train=2", "split.test=2", "split.validation=2"), "--quick": False,
    },
    "split": {"--test-scans": "2"},
}  # fmt: skip
USUAL = {
    "run": ["--data", "scans/", "--task", "reconstruct_next:t=2", "--backbone", NETWORK],
    "finetune": ["--data", "labelled/"],
    "predict": ["-o", "out/"],
    "fewshot": [],
    "affinity": ["--task", "reconstruct_next:t=2", "--task", "denoise"],
}
QUICK = ("README.md", "choosing.md", "predict.md")
"""Pages whose commands `make test` runs too, but for the comparisons, which take several trainings."""


@pytest.fixture
def place(tmp_path, labelled, pretrained, tuned, monkeypatch):
    """A folder with all that the pages speak of."""
    for i in range(10):
        write_scan(tmp_path / "scans" / f"p{i}.nii.gz", slices=24, seed=i)
    for name in ("ct", "mr"):
        shutil.copytree(tmp_path / "scans", tmp_path / name)
    shutil.copytree(labelled / "images", tmp_path / "more")
    write_scan(tmp_path / "hospital" / "01" / "t1.nii.gz", seed=7)
    for name in ("sunny", "labelled"):
        shutil.copytree(labelled, tmp_path / name)
    shutil.copytree(labelled / "labels", tmp_path / "labels")
    shutil.copytree(labelled / "labels", tmp_path / "new_labels")
    for name in ("scan", "new_scan"):
        shutil.copy(labelled / "images" / "a_pre.nii.gz", tmp_path / f"{name}.nii.gz")
    shutil.copy(labelled / "labels" / "a_pre.nii.gz", tmp_path / "new_labels" / "new_scan.nii.gz")
    for name in ("first", "second", "a", "b"):
        shutil.copytree(pretrained, tmp_path / "runs" / name)
    for name in ("ft", "tuned"):
        shutil.copytree(tuned, tmp_path / "runs" / name)
    for number in range(2):
        write_channels(tmp_path / "DIR", f"case{number}")
    FAKES["BraTS 2023"].write(tmp_path / "brats2023")
    shutil.copy(labelled / "labels" / "a_pre.nii.gz", tmp_path / "labels" / "scan.nii.gz")
    block = re.search(r"```toml\n(.*?)```", (ROOT / "docs" / "reproduce.md").read_text(), re.DOTALL)[1]
    (tmp_path / "mine.toml").write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def made_small(text):
    """The words of a command, with what is in SMALL for its sizes."""
    words = shlex.split(text)[1:]
    whole = "…" not in words
    words = [word for word in words if word != "…"]
    command = words[1] if words[0] in ("data", "plugins") else words[0]
    for option, value in SMALL.get(command, {}).items():
        flag = option in ("--quick", "--surface")
        while option in words:
            place = words.index(option)
            del words[place : place + (1 if flag else 2)]
        if value is False:
            words.append("--no-surface" if option == "--surface" else option)
        elif value is not None:
            words += [word for one in ([value] if isinstance(value, str) else value) for word in (option, one)]
    usual, given = USUAL.get(command, []), set(words)
    for option, value in zip(usual[::2], usual[1::2], strict=True):
        if option not in given and (not whole or option == "--backbone"):
            words += [option, value]
    return words


def test_every_program_that_is_not_run_says_why():
    unmarked = [program for program in PROGRAMS if not (program in OURS or program in PYTHON or program.reason)]
    assert [(str(program), program.text) for program in unmarked] == []
    reasons = [program for program in PROGRAMS if program.reason]
    assert len(reasons) <= 30
    assert len(OURS) + len(PYTHON) >= 60


def test_programs_of_ours_that_are_named_exist():
    named = [program.text.split()[1] for program in PROGRAMS if program.text.startswith("python benchmarks/")]
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).is_file()] == []
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {program.text.split()[1] for program in PROGRAMS if program.text.startswith("make ")} <= targets


def quick(program):
    several = ("fewshot", "affinity", "experiment", "plugins")
    return program.page.name in QUICK and not program.reason and program.text.split()[1] not in several


def type_in(program, ssmtl, place):
    words = made_small(program.text)
    for option in {"--out", "-o"} & set(words):  # pages write to the folders that they name again and again
        shutil.rmtree(place / words[words.index(option) + 1], ignore_errors=True)
    done = ssmtl(*words)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_what_the_first_pages_tell_to_type_works(place, ssmtl):
    chosen = [program for program in OURS if quick(program)]
    assert len(chosen) >= 7
    for program in chosen:
        type_in(program, ssmtl, place)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("page", sorted({program.page for program in OURS}), ids=lambda page: page.name)
def test_every_command_of_a_page_works(page, place, ssmtl):
    for program in OURS:
        if program.page == page and not program.reason:
            type_in(program, ssmtl, place)


def smaller(text):
    """A program of a page, with small sizes and the classes and arrays that are here."""
    for what, instead in (
        ("epochs=100", "steps=2, size=32, batch_size=4"),
        ("slices_per_scan=20, seeds=3", "slices_per_scan=2, seeds=2, steps=2, train_scans=2, test_scans=2"),
        ('classes["LV"]', 'classes["10"]'),
        ('pretrain={"steps": 600}', 'pretrain={"steps": 2}, finetune={"steps": 2}, draws=1, pretrainings=1, size=32'),
        ('budgets=[1, 2, "10slices"]', f'budgets=[1], backbone="{NETWORK}"'),
        (
            'tasks=["reconstruct_next:t=5mm", "denoise", "contrast"]',
            f'tasks=["reconstruct_next:t=2", "denoise"], backbone="{NETWORK}", steps=2',
        ),
        ('out="runs/affinity"', 'out="runs/affinity", size=32, draws=1, pretrainings=1, finetune={"steps": 2}'),
        ('out="runs/arrays"', f'out="runs/arrays", steps=2, size=32, backbone="{NETWORK}"'),
    ):
        text = text.replace(what, instead)
    return text


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.filterwarnings("ignore:NvImgCodec", "ignore::FutureWarning:monai")
@pytest.mark.parametrize("page", sorted({program.page for program in PYTHON}), ids=lambda page: page.name)
def test_the_python_of_a_page_works(page, place):
    from monai.data import Dataset
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    from ssmtl_toolkit import pretrain

    pretrain(data="scans/", backbone="unet", tasks=["reconstruct_next:t=1"], size=32, steps=1, out="runs/resnet")
    pretrain(
        data="scans/", backbone="unet:encoder=plain,width=8", tasks=["reconstruct_next:t=1"], size=32, steps=1,
        out="runs/plain",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    names = {name: rng.normal(size=(24, 20, 12)).astype(np.float32) for name in ("array", "other")}
    files = [{"image": str(file)} for file in sorted((place / "scans").iterdir())]
    load = Compose([LoadImaged("image", reader="NibabelReader"), EnsureChannelFirstd("image")])
    names["monai_dataset"] = Dataset(files, load)
    for program in PYTHON:
        if program.page == page and not program.reason:
            for folder in ("runs/first", "runs/ft"):
                if f'out="{folder}"' in program.text:
                    shutil.rmtree(folder)
            exec(smaller(program.text), names)

"""What the documents point at is there: files, functions, links, options."""

import ast
import re
import shlex
import tomllib

import click
import pytest

from helpers.places import ROOT
from ssmtl_toolkit import pretrain
from ssmtl_toolkit.cli import COMMANDS, cli
from ssmtl_toolkit.experiments.reading import read_experiment

DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
MARKDOWN = [*DOCUMENTS, *ROOT.glob("examples/**/*.md"), *ROOT.glob("ssmtl_toolkit/**/*.md")]
_WIDTH = 120
_LINK_ALONE = re.compile(r"\W*(\[[^]]*\]\([^)]*\)|\[[^]]+\]: \S+|https?://\S+)\W*")
_POINTER = re.compile(r"`([\w/]+\.(?:py|toml))`((?:(?::|,) `[A-Za-z_][\w.]*(?:`))*)")


def names_of(file):
    """All functions, classes and methods of a Python file, as `Class.method`."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}.{inner.name}" for inner in getattr(node, "body", []) if hasattr(inner, "name")}
    return found


def pointers():
    text = (ROOT / "docs" / "method.md").read_text()
    for match in _POINTER.finditer(text):
        yield match[1], re.findall(r"`([^`]+)`", match[2])


def test_every_pointer_of_the_method_leads_somewhere():
    found = list(pointers())
    assert len(found) > 30
    assert sum(len(names) for _, names in found) > 20
    for file, names in found:
        assert (ROOT / file).is_file(), file
        missing = [name for name in names if not name.endswith((".py", ".toml")) and name not in names_of(ROOT / file)]
        assert missing == [], f"{file} has no {missing}"


def test_every_test_that_the_page_on_faults_names_is_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text())
    assert len(named) > 40
    assert [name for file, name in named if name not in names_of(ROOT / file)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(document):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        assert target.startswith("http") or (document.parent / target).exists(), target


def prose_in(document):
    """Every line with its number, without tables, code blocks, and links that stand on a line of their own."""
    fenced = False
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not (fenced or line.startswith(("    ", "|")) or _LINK_ALONE.fullmatch(line)):
            yield number, line


@pytest.mark.parametrize("document", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_of_prose_is_wider_than_120_columns(document):
    wide = [f"{document.name}:{number}: {len(line)}" for number, line in prose_in(document) if len(line) > _WIDTH]
    assert wide == []


def commands_in(document):
    """Every `ssmtl …` line of an indented block, continued lines joined, comments left off."""
    text = document.read_text().replace("\\\n", " ")
    for line in re.findall(r"^    (?:.*do CUDA\S+ )?(ssmtl .*)$", text, re.MULTILINE):
        for part in re.split(r" ;  ?|;| & done", line.partition(" #")[0]):
            words = [word for word in shlex.split(part.strip()) if word != "…"]
            if words[:1] == ["ssmtl"]:
                yield words


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_of_a_command_line_exists(document):
    for words in commands_in(document):
        command, rest = cli, words[1:]
        context = click.Context(cli)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            command, rest = command.get_command(context, rest[0]), rest[1:]
            assert command is not None, words
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        wrong = [word for word in rest if re.match(r"-{1,2}[a-z]", word) and word.partition("=")[0] not in known]
        assert wrong == [], words


def test_the_readme_shows_every_command():
    shown = {words[1] for words in commands_in(ROOT / "README.md")}
    assert shown >= set(COMMANDS)


@pytest.mark.slow
def test_the_loading_code_of_the_page_on_python_loads_all_tensors(scans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pretrain(data=str(scans), backbone="unet", tasks=["reconstruct_next:t=1"], size=32, steps=1, out="runs/first")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    names = {}
    for block in (block for block in blocks if "load_state_dict" in block):
        exec(block, names)
    assert [name for name in names["missing"].missing_keys if not name.startswith("segmentation_head.")] == []
    assert names["missing"].unexpected_keys == []


def test_the_example_of_an_experiment_can_be_read(tmp_path):
    text = (ROOT / "docs" / "reproduce.md").read_text()
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert tomllib.loads(block)["title"]
    (tmp_path / "mine.toml").write_text(block)
    (tmp_path / "labelled").mkdir()
    assert [job.id for job in read_experiment(tmp_path / "mine.toml").jobs] == [
        "scratch", "ssmtl", "long@10", "long@20", "long@50",
    ]  # fmt: skip
    assert len(read_experiment(tmp_path / "mine.toml", quick=True).jobs) == 4

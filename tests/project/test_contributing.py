"""CONTRIBUTING teaches a plugin in ten minutes: everything on that page is done here, in order, in an empty folder."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

import ssmtl_toolkit
from helpers.places import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run all blocks one after the other; return for each its language, text and what it printed."""
    folder = tmp_path_factory.mktemp("contributing")
    commands, site = folder / "bin", folder / "site"
    commands.mkdir()
    for name, module in (("ssmtl", "ssmtl_toolkit"), ("pip", "pip"), ("pytest", "pytest")):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (commands / name).chmod(0o755)
    variables = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "XDG_CACHE_HOME": str(folder / "cache"),
        # as in a fresh environment, but without the network
        "PIP_TARGET": str(site), "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0",
    }  # fmt: skip
    work = folder / "work"
    work.mkdir()
    results = []
    for language, text in BLOCKS:
        if language == "text":
            results.append((language, text, None, work))
            continue
        command = {"sh": ["sh", "-e", "-c", text], "python": [sys.executable, "-c", text], "toml": ["true"]}[language]
        end = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True, timeout=500)
        results.append((language, text, end, work))
    return results


@pytest.mark.slow
def test_every_command_and_program_on_the_page_works(done):
    for language, text, end, _ in done:
        assert end is None or end.returncode == 0, f"{language}:\n{text}\n{end.stdout}\n{end.stderr}"
    assert [language for language, *_ in done].count("sh") == 3
    assert [language for language, *_ in done].count("python") == 1


@pytest.mark.slow
def test_they_end_with_a_checked_task_a_trained_network_and_a_fine_tuned_one(done):
    printed = {
        text.split()[0:3][-1] if language == "sh" else text: end.stdout for language, text, end, _ in done if end
    }
    output = "".join(printed.values())
    assert "which_side" in output
    assert "BROKEN" not in output
    work = done[0][3]
    assert (work / "runs" / "side" / "backbone.safetensors").is_file()
    assert (work / "runs" / "tuned" / "summary.json").is_file()
    assert "'loss':" in output


@pytest.mark.slow
def test_the_files_that_the_page_shows_are_those_that_are_written(done):
    work = done[0][3]
    shown = next(text for language, text in BLOCKS if language == "text" and text.startswith("which-side/"))
    names = re.findall(r"[\w./-]+\.(?:toml|py|md|yml)", shown)
    assert len(names) == 6
    assert [name for name in names if not (work / "which-side" / name).is_file()] == []


def test_the_page_has_no_code_that_is_not_run():
    outside = re.sub(r"^```\w*\n.*?^```", "", TEXT, flags=re.DOTALL | re.MULTILINE)
    indented = [line for line in outside.splitlines() if line.startswith("    ")]
    assert indented == []
    assert {language for language, _ in BLOCKS} <= {"sh", "python", "toml", "text"}
    for language, text in BLOCKS:
        if language == "toml":
            assert tomllib.loads(text)["project"]["entry-points"]["ssmtl"] == {"which_side": "which_side"}


@pytest.mark.slow
def test_the_network_of_the_page_has_not_learned_its_task_before_it_was_trained(tmp_path):
    program = next(text for language, text in BLOCKS if language == "python").split("for case in cases")[0]
    names = {"__name__": "page"}
    exec(program, names)
    run = ssmtl_toolkit.pretrain(
        data="phantom:patients=2", backbone="unet:encoder=plain,width=8", tasks=[names["Between"](t=2)], size=32,
        steps=20, lr=1e-9, out=tmp_path / "run", cache=tmp_path / "cache",
    )  # fmt: skip
    assert run.summary["tasks"]["between:t=2"]["verdict"] == "worse than trivial"

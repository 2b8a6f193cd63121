"""What is needed to publish is there, and agrees with pyproject.toml."""

import ast
import json
import re
import subprocess
import sys
import tarfile
import tomllib

import pytest
import yaml
from jinja2 import Template

from helpers.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.slow
def test_the_sdist_holds_what_a_packager_needs_and_nothing_that_was_built(tmp_path):
    build = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ("LICENSE", "README.md", "SECURITY.md", "CITATION.cff", "docs/conf.py", "docs/pictures/pretraining.png")
    assert {*wanted, "plugins/ssmtl_moco/module.py", "tests/conftest.py", "packaging/conda/meta.yaml"} <= names
    assert [name for name in names if name.startswith(("docs/_build", ".meta", "runs", ".venv"))] == []


def test_the_pictures_of_the_readme_are_shown_outside_of_the_repository():
    from build.util import project_wheel_metadata

    shown = project_wheel_metadata(ROOT, isolated=False).get_payload()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", shown)
    home = "https://raw.githubusercontent.com/ssmtl-toolkit/ssmtl_toolkit/main/"
    assert pictures
    assert [url for url in pictures if not (url.startswith(home) and (ROOT / url.removeprefix(home)).is_file())] == []


def test_the_conda_recipe_needs_what_the_package_needs():
    """The recipe reads pyproject.toml itself; conda has other names for two packages."""
    recipe = (ROOT / "packaging" / "conda" / "meta.yaml").read_text()
    text = Template(recipe).render(load_file_data=lambda *_, **__: {"project": PROJECT}, PYTHON="python")
    read = yaml.safe_load(text)
    assert read["package"]["version"] == PROJECT["version"]
    assert read["requirements"]["run"][0] == f"python {PROJECT['requires-python']}"
    ours = {name.lower() for name in PROJECT["dependencies"]}
    theirs = {line.replace(" ", "") for line in read["requirements"]["run"][1:]}
    assert {line.split(">=")[0] for line in theirs - ours} == {"pytorch", "python-xxhash"}
    assert len(theirs) == len(ours)


def test_the_workflows_try_every_python_that_the_package_names():
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    assert [job["strategy"]["matrix"]["python"] for job in jobs.values() if "strategy" in job] == [named, named]


def test_the_workflows_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [
        step["run"].split()
        for file in (ROOT / ".github" / "workflows").glob("*.yml")
        for job in yaml.safe_load(file.read_text())["jobs"].values()
        for step in job["steps"]
        if step.get("run", "").startswith("make ")
    ]
    made = {word for line in lines for word in line[1:] if "=" not in word}
    assert {"lint", "types", "tests", "docs"} <= made <= targets


def test_the_version_stands_in_one_place():
    """Elsewhere it is asked of the installed package."""
    version = re.compile(rf"(?<![\d.]){re.escape(PROJECT['version'])}(?![\d.])")
    files = [*ROOT.glob("ssmtl_toolkit/*.py"), ROOT / "CITATION.cff", ROOT / "docs" / "conf.py", ROOT / "Dockerfile"]
    assert [file.name for file in files if version.search(file.read_text())] == []


def test_the_notebook_is_python_with_what_it_printed():
    cells = json.loads((ROOT / "examples" / "five_minutes.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 6
    for cell in code:
        ast.parse("".join(cell["source"]))
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"])

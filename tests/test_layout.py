"""The rules that keep the architecture: one direction of imports, nothing heavy on the start-up path, a whole wheel."""

import ast
import json
import shutil
import subprocess
import sys
import zipfile

import grimp
import pytest
from conftest import ROOT

from ssmtl_toolkit.scaffolding import KINDS, templates

HEAVY = {"torch", "torchvision", "timm", "segmentation_models_pytorch", "lightning_fabric", "nibabel", "numpy"}
PLUGINS = sorted(p.name for p in (ROOT / "plugins").iterdir() if (p / "__init__.py").is_file())
ALLOWED = {"ssmtl_toolkit.data", "ssmtl_toolkit.engine"}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("ssmtl_toolkit", *PLUGINS, cache_dir=None)


def below(graph, package):
    return {package, *graph.find_descendants(package)} if package in graph.modules else set()


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("errors", ["specs", "registry", "config", "data", "engine", "cli"]),
        ("foreign", ["specs", "registry", "config", "data", "engine", "cli"]),
        ("text", ["specs", "registry", "config", "data", "engine", "cli"]),
        ("specs", ["registry", "config", "cli"]),
        ("registry", ["config", "experiments", "cli"]),
        ("config", ["experiments", "engine", "cli"]),
        ("experiments", ["data", "engine", "cli"]),
        ("data", ["config", "registry", "engine", "cli"]),
        ("engine", ["testing", "cli"]),
        ("testing", ["cli"]),
    ],
)
def test_imports_go_one_way(graph, lower, higher):
    for module in below(graph, f"ssmtl_toolkit.{lower}"):
        wrong = [
            f"{module} imports {target}"
            for target in graph.find_modules_directly_imported_by(module)
            for name in higher
            if target in below(graph, f"ssmtl_toolkit.{name}") and not _only_for_types(module, target)
        ]
        assert wrong == []


def _only_for_types(module, target):
    """Whether `module` imports `target` under `if TYPE_CHECKING` only."""
    path = ROOT.joinpath(*module.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    tree = ast.parse(file.read_text())
    guarded = {
        node
        for outer in ast.walk(tree)
        if isinstance(outer, ast.If) and "TYPE_CHECKING" in ast.dump(outer.test)
        for node in ast.walk(outer)
    }
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and (n.module or "").startswith(target)]
    return bool(imports) and all(node in guarded for node in imports)


def test_the_core_imports_no_plugin(graph):
    for module in below(graph, "ssmtl_toolkit"):
        assert not {t.partition(".")[0] for t in graph.find_modules_directly_imported_by(module)} & set(PLUGINS)


def test_plugins_import_only_the_toolkit_its_data_and_its_engine_and_no_other_plugin(graph):
    for plugin in PLUGINS:
        for module in below(graph, plugin):
            for target in graph.find_modules_directly_imported_by(module):
                inside = target.partition(".")[0] == plugin
                ours = target.count(".") == 1 and target.startswith("ssmtl_toolkit.")
                assert inside or ours or any(target.startswith(f"{a}.") for a in ALLOWED), f"{module} -> {target}"


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["--version"], ["plugins", "list"], ["plugins", "show", "moco_v2"], ["run", "--help"]),
        *(["finetune", "--help"], ["predict", "--help"], ["evaluate", "--help"], ["data", "split", "--help"]),
        *(["experiment", "--help"], ["reproduce", "--help"], ["reproduce", "--list"]),
        ["plugins", "new", "slice-order", "--kind", "task"],
    ],
)
def test_start_up_imports_nothing_heavy(arguments, tmp_path):
    code = (
        "import sys; from ssmtl_toolkit.cli import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print('HEAVY', sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stderr


def test_a_wrong_option_is_told_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from ssmtl_toolkit.cli import main\n"
        "try: main(['run', '--task', 'nothing'])\n"
        "finally: print('HEAVY', 'torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "HEAVY False" in done.stderr


def test_importing_the_package_is_cheap_and_its_names_load_when_used():
    code = (
        "import sys, ssmtl_toolkit; assert 'torch' not in sys.modules; "
        "assert 'pretrain' in dir(ssmtl_toolkit); ssmtl_toolkit.RunConfig; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_wheel_holds_everything_and_its_plugins_are_found_in_a_clean_target(tmp_path):
    source = tmp_path / "source"
    listed = ["ssmtl_toolkit", "plugins", "pyproject.toml", "README.md", "LICENSE"]
    source.mkdir()
    for name in listed:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"ssmtl_toolkit/py.typed", "ssmtl_moco/module.py", "ssmtl_toolkit/experiments/paper/_ct.toml"} <= set(names)
    assert {str(file.relative_to(ROOT)) for kind in KINDS for _, file in templates(kind)} <= set(names)
    assert {name.partition("/")[0] for name in names if not name.startswith("ssmtl_toolkit-")} == {
        "ssmtl_toolkit",
        *PLUGINS,
    }
    target = tmp_path / "target"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        f"import ssmtl_toolkit; assert ssmtl_toolkit.__file__.startswith({str(target)!r}), ssmtl_toolkit.__file__\n"
        "from ssmtl_toolkit.cli import main; main(['plugins', 'list', '--json'])"
    )
    listed_by = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert listed_by.returncode == 0, listed_by.stderr
    told = json.loads(listed_by.stdout)
    assert told["broken"] == []
    assert {"unet", "moco_v2", "nifti", "phantom"} <= {row["name"] for row in told["specs"]}
    code = code.replace("['plugins', 'list', '--json']", "['plugins', 'new', 'my-task', '--kind', 'task']")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    # pip has compiled the templates, as all that it installs: that is no part of a new plugin
    assert (target / "ssmtl_toolkit" / "scaffold" / "task" / "tests" / "__pycache__").is_dir()
    assert not list((tmp_path / "my-task").rglob("__pycache__"))


def test_every_plugin_folder_is_packaged_and_has_an_entry_point():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages == {"ssmtl_toolkit", *(f"plugins/{name}" for name in PLUGINS)}
    assert set(project["project"]["entry-points"]["ssmtl"].values()) == set(PLUGINS)

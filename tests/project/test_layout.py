"""The rules that keep the architecture: one direction of imports, nothing heavy on the start-up path, a whole wheel."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from graphlib import TopologicalSorter

import grimp
import nibabel as nib
import numpy as np
import pytest
from build.util import project_wheel_metadata
from readme_renderer import markdown

from helpers.places import ROOT
from ssmtl_toolkit.scaffolding import KINDS, templates

HEAVY = {"torch", "torchvision", "timm", "segmentation_models_pytorch", "lightning_fabric", "nibabel", "numpy"}
HEAVY |= {"aiohttp", "fsspec"}
PLUGINS = sorted(p.name for p in (ROOT / "plugins").iterdir() if (p / "__init__.py").is_file())

ROOMS = [  # each imports those above it, and none below
    ["errors"],
    ["documents", "numerals"],
    ["text"],
    ["places"],
    ["disk", "distance", "features", "foreign", "installed", "launch"],
    ["specs"],
    ["hookspecs"],
    ["declared"],
    ["registry"],
    ["scaffolding"],
    ["data"],
    ["engine"],
    ["remote"],
    ["sources"],
    ["config"],
    ["runtime"],
    ["inspection"],
    ["evaluation"],
    ["reporting"],
    ["pretraining"],
    ["downstream"],
    ["experiments"],
    ["exporting"],
    ["testing"],
    ["cli"],
]
NOT_FOR_DATA = {
    "registry",
    "sources",
    "config",
    "scaffolding",
}  # the way from file to slices, and the contract, know no options

CONTRACT = {  # what a plugin may import: the contract by name
    *("errors", "features", "specs", "hookspecs", "text", "distance", "places", "documents", "numerals"),
    *("data.augment", "data.files", "data.finding", "data.geometry", "data.grid", "data.lattice", "data.memory"),
    *("data.preparation", "data.readers", "data.slicing", "data.source", "data.uneven", "data.values", "data.volume"),
    "data.sending",
    *("engine.augmentation", "engine.backbone", "engine.balancer", "engine.baselines", "engine.export"),
    *("engine.head", "engine.hub", "engine.masking", "engine.metric", "engine.ranks", "engine.semi", "engine.step"),
    "engine.tracker",
}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("ssmtl_toolkit", *PLUGINS, cache_dir=None, exclude_type_checking_imports=True)


def below(graph, package):
    return {package, *graph.find_descendants(package)} if package in graph.modules else set()


def room(module):
    return module.split(".")[1] if module.count(".") else ""


def test_every_module_of_the_core_has_its_place_in_the_order_of_rooms(graph):
    known = {name for row in ROOMS for name in row}
    rooms = {room(module) for module in below(graph, "ssmtl_toolkit")} - {"", "__main__", "scaffold"}
    assert rooms == known


def test_imports_go_one_way(graph):
    place = {name: i for i, row in enumerate(ROOMS) for name in row}
    wrong = [
        f"{module} imports {target}"
        for module in below(graph, "ssmtl_toolkit")
        for target in graph.find_modules_directly_imported_by(module)
        if room(module) in place
        and room(target) in place
        and room(module) != room(target)
        and (
            place[room(target)] >= place[room(module)]
            or (room(module) in {"data", "engine"} and room(target) in NOT_FOR_DATA)
        )
    ]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others(graph):
    specs = set(PLUGINS)  # a spec builds its module lazily, and the module knows its spec
    imports = {module: graph.find_modules_directly_imported_by(module) - specs for module in graph.modules}
    assert list(TopologicalSorter(imports).static_order())  # raises CycleError, naming the circle


def test_the_core_imports_no_plugin(graph):
    for module in below(graph, "ssmtl_toolkit"):
        assert not {t.partition(".")[0] for t in graph.find_modules_directly_imported_by(module)} & set(PLUGINS)


def test_plugins_import_the_contract_and_nothing_else_of_the_toolkit(graph):
    wrong = [
        f"{module} imports {target}"
        for plugin in PLUGINS
        for module in below(graph, plugin)
        for target in graph.find_modules_directly_imported_by(module)
        if target.partition(".")[0] != plugin and target.removeprefix("ssmtl_toolkit.") not in CONTRACT
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["--version"], ["plugins", "list"], ["plugins", "show", "moco_v2"], ["run", "--help"]),
        *(["finetune", "--help"], ["predict", "--help"], ["evaluate", "--help"], ["data", "split", "--help"]),
        *(
            ["data", "suggest", "--help"],
            ["data", "prepare", "--help"],
            ["data", "info", "--help"],
            ["fewshot", "--help"],
            ["affinity", "--help"],
        ),
        *(["export", "--help"], ["experiment", "--help"], ["reproduce", "--help"], ["runs"], ["reproduce", "--list"]),
        ["report", "--help"],
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
        "assert 'pretrain' in dir(ssmtl_toolkit); ssmtl_toolkit.RunConfig; assert 'torch' not in sys.modules; "
        "assert 'ssmtl_toolkit.config.finetune' not in sys.modules; "
        "ssmtl_toolkit.evaluate; assert not {'scipy.ndimage', 'ssmtl_toolkit.config.finetune'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def metadata():
    """What an index shows of the package."""
    return project_wheel_metadata(ROOT, isolated=False)


def test_the_readme_of_the_package_links_to_files_of_the_repository_and_can_be_shown(metadata):
    shown = metadata.get_payload()
    addresses = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    home = addresses["Homepage"]
    assert all(address.startswith(home) for address in addresses.values())
    linked = re.findall(r"\]\(([^)]+)\)", shown)
    ours = [target.removeprefix(f"{home}/blob/main/") for target in linked if target.startswith(home)]
    assert "CONTRIBUTING.md" in ours
    assert [target for target in ours if not (ROOT / target).exists()] == []
    assert [target for target in linked if not target.startswith(("https://", "#"))] == []
    assert metadata["Description-Content-Type"] == "text/markdown"
    html = markdown.render(shown)
    assert "<h2" in html
    assert "<pre" in html


def test_the_extra_all_is_every_extra_for_users(metadata):
    wanted = [line.split("; extra == ") for line in metadata.get_all("Requires-Dist") if "; extra == " in line]
    extras = {
        name: {what for what, extra in wanted if extra == f"'{name}'"} for name in metadata.get_all("Provides-Extra")
    }
    assert {"formats", "metrics"} < set(extras)
    apart = {"all", "dev", "docs", "nnunet"}  # the last wants an older timm than others get
    assert extras["all"] == set.union(*(extras[name] for name in set(extras) - apart))


def test_every_plugin_folder_has_an_entry_point():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["project"]["entry-points"]["ssmtl"].values()) == set(PLUGINS)


def test_scoring_label_maps_needs_no_torch(tmp_path):
    nib.save(
        nib.Nifti1Image((np.indices((8, 8, 4)).sum(axis=0) % 3).astype(np.uint8), np.eye(4)), tmp_path / "a.nii.gz"
    )
    code = (
        "import sys; from ssmtl_toolkit.cli import main\n"
        "try: main(['evaluate', '--pred', 'a.nii.gz', '--label', 'a.nii.gz', '--no-surface'])\n"
        "finally: print('HEAVY', sorted({'torch', 'timm', 'lightning_fabric'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stderr

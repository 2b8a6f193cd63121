"""Plugins of others are found wherever Python finds distributions, which is not asked where there are none."""

import importlib.metadata
import sys
import zipfile

import pytest

from ssmtl_toolkit import installed

METADATA = "Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n"
POINTS = "[console_scripts]\nx = y:z\n\n[{group}]\ntheirs = their_module\n"


def install(folder, about, group="ssmtl"):
    (folder / about).mkdir(parents=True)
    (folder / about / ("METADATA" if about.endswith("dist-info") else "PKG-INFO")).write_text(METADATA)
    (folder / about / "entry_points.txt").write_text(POINTS.format(group=group))
    return folder


@pytest.fixture
def only_ours(monkeypatch):
    """Other distributions that are installed here do not count."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not installed._may_hold_others(place)])
    return monkeypatch


@pytest.mark.parametrize("about", ["theirs-1.0.dist-info", "Theirs.egg-info", "theirs-1.0-py3.11.egg/EGG-INFO"])
def test_a_plugin_of_another_distribution_is_found_in_a_folder(only_ours, tmp_path, about):
    place = install(tmp_path, about) / about
    only_ours.syspath_prepend(tmp_path if place.parent == tmp_path else place.parent)
    assert [point.value for point in installed.others()] == ["their_module"]


def test_a_plugin_of_another_distribution_is_found_in_a_zip_file(only_ours, tmp_path):
    with zipfile.ZipFile(tmp_path / "theirs.zip", "w") as file:
        file.writestr("theirs-1.0.dist-info/METADATA", METADATA)
        file.writestr("theirs-1.0.dist-info/entry_points.txt", POINTS.format(group="ssmtl"))
    only_ours.syspath_prepend(tmp_path / "theirs.zip")
    assert [point.value for point in installed.others()] == ["their_module"]


def test_a_plugin_that_another_finder_knows_is_found(only_ours, tmp_path):
    class Finder(importlib.metadata.DistributionFinder):
        def find_spec(self, *args):
            return None

        def find_distributions(self, context=None):
            there = importlib.metadata.DistributionFinder.Context(path=[str(tmp_path)])
            return importlib.metadata.MetadataPathFinder.find_distributions(there)

    install(tmp_path, "theirs-1.0.dist-info")
    only_ours.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert [point.value for point in installed.others()] == ["their_module"]


def test_where_there_are_no_others_python_is_not_asked(only_ours, tmp_path):
    only_ours.syspath_prepend(install(tmp_path, "theirs-1.0.dist-info", group="pytest11"))
    (tmp_path / "half-1.0.dist-info").mkdir()
    (tmp_path / "file.egg-info").write_text(METADATA)
    only_ours.setattr(installed, "points", lambda: pytest.fail("asked"))
    assert installed.others() == []


def test_plugins_of_others_that_are_switched_off_are_not_looked_for(only_ours, tmp_path):
    only_ours.syspath_prepend(install(tmp_path, "theirs-1.0.dist-info"))
    only_ours.setenv("SSMTL_DISABLE_PLUGINS", "1")
    assert installed.others() == []

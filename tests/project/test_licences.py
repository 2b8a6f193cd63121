"""Every installed package that ours needs, with its extras, may be used with ours: none under the GPL and its kin."""

import re
import tomllib
from fnmatch import fnmatch
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from helpers.places import ROOT

PERMISSIVE = re.compile(
    r"\b(0?BSD|MIT|MIT-CMU|Apache|ISC|PSF|Python Software Foundation|Python-2\.0|Unlicense|Zlib|HPND|CNRI|BSL-1\.0|"
    r"Boost|ZPL|CC0|Public Domain)\b",
    re.IGNORECASE,
)
REFUSED = re.compile(
    r"\b([AL]?GPL|(lesser |affero )?general public|non-?commercial|CC-BY-NC|SSPL|BUSL|proprietary)", re.I
)
ALLOWED = tomllib.loads((ROOT / "packaging" / "licences.toml").read_text(encoding="utf-8"))


def licence_of(package):
    """What a package's metadata says: its expression, else its classifiers, else the first line of its text."""
    about = package.metadata
    classifiers = [
        line.rsplit(" :: ", 1)[-1] for line in about.get_all("Classifier", []) if line.startswith("License ::")
    ]
    named = [name for name in classifiers if name != "OSI Approved"]
    text = (about.get("License") or "").strip().partition("\n")[0]
    return about.get("License-Expression") or " / ".join(named) or text


def needed(name, extras, seen):
    """The installed packages that a package with these extras needs, by name."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    for line in package.requires or ():
        wanted = Requirement(line)
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        key = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if frozenset(wanted.extras) not in seen.setdefault(key, set()):
            seen[key].add(frozenset(wanted.extras))
            needed(wanted.name, wanted.extras, seen)


def problem(name, licence):
    """Why a package under this licence may not be used; "": it may."""
    if any(fnmatch(name, pattern) for pattern in ALLOWED):
        return ""
    if REFUSED.search(licence):
        return f"{name}: {licence}"
    return "" if PERMISSIVE.search(licence) else f"{name}: its licence is not known to be permissive: {licence!r}"


def test_every_package_that_ours_needs_is_permissively_licensed_or_allowed_for_a_reason():
    extras = metadata.distribution("ssmtl-toolkit").metadata.get_all("Provides-Extra")
    seen = {}
    needed("ssmtl-toolkit", extras, seen)
    installed = {}
    for name in seen.keys() - {"ssmtl-toolkit"}:
        try:
            installed[name] = licence_of(metadata.distribution(name))
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed
    assert len(installed) > 40
    assert sorted(filter(None, (problem(name, licence) for name, licence in installed.items()))) == []


@pytest.mark.parametrize(
    ("licence", "fine"),
    [
        ("MIT", True),
        ("Apache-2.0 AND BSD-3-Clause", True),
        ("GPL-3.0-or-later", False),
        ("LGPL-2.1", False),
        ("AGPL-3.0", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("CC-BY-NC-4.0", False),
        ("for non-commercial use", False),
        ("", False),
        ("all rights reserved", False),
    ],
)
def test_licences_are_told_apart(licence, fine):
    assert (problem("some-package", licence) == "") == fine


def test_each_exception_has_a_reason_and_covers_no_more_than_it_says():
    assert all(len(reason) > 20 for reason in ALLOWED.values())
    assert problem("nvidia-cublas", "proprietary") == ""
    assert problem("other-cublas", "proprietary") != ""

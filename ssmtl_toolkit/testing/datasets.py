"""Checks of datasets, on an example folder."""

from __future__ import annotations

from pathlib import Path

from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.specs import DatasetSpec, Scan
from ssmtl_toolkit.testing.case import Bench, check, fail, require


@check(DatasetSpec, "what it suggests are options of a run")
def suggestions_are_options(bench: Bench) -> None:
    from ssmtl_toolkit.config import RunConfig

    spec = bench.spec
    assert isinstance(spec, DatasetSpec)
    RunConfig.of({**spec.suggested()}, f"suggested() of {spec.name}")


@check(
    DatasetSpec,
    "a root that is missing is refused in one line",
    applies=lambda spec: any(isinstance(value, Path) for _, value in spec),
)
def missing_root_is_refused(bench: Bench) -> None:
    spec = bench.spec
    assert isinstance(spec, DatasetSpec)
    nowhere = bench.folder / "nowhere"
    changed = spec.model_copy(update={name: nowhere for name, value in spec if isinstance(value, Path)})
    try:
        changed.scans(bench.folder / "cache", installed_readers())
    except DataError as error:
        require("nowhere" in str(error), f"of a missing root it says {str(error)[:100]!r}, without the path; name it")
    except Exception as error:
        fail(f"a missing root makes it fail with {type(error).__name__}: {str(error)[:100]}; raise DataError")
    else:
        fail("a missing root is no problem to it; raise DataError(f'{root}: no such folder')")


@check(DatasetSpec, "it lists scans that are there, each under a name of its own", needs_example=True)
def scans_are_there(bench: Bench) -> None:
    _, scans = _listed(bench)
    fit = [scan for scan in scans if not scan.unfit]
    require(bool(fit), "it lists no scan that is fit to be used")
    for scan in fit:
        for path in scan.paths:
            require(path.exists(), f"{path}: is listed and not there; mark it by `unfit`")
            require(installed_readers().can_read(path), f"{path}: no installed reader matches it")
        require(scan.label is None or scan.label.exists(), f"{scan.label}: is listed as a label and not there")
        require(bool(scan.patient), f"{scan.path}: has no patient; splits would mix patients, take the scan's name")
    names = [scan.name for scan in fit]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{len(twice)} names are given twice, such as {twice[:1]}; predictions would have one name")


@check(DatasetSpec, "it lists the same in the same order each time", needs_example=True)
def order_is_fixed(bench: Bench) -> None:
    spec, scans = _listed(bench)
    again = spec.scans(bench.folder / "cache", installed_readers())
    require(scans == again, "asked twice it lists other scans or another order; sort what a folder gives")


@check(DatasetSpec, "its classes have values of their own", needs_example=True)
def classes_are_distinct(bench: Bench) -> None:
    spec, _ = _listed(bench)
    values = [value for named in spec.classes().values() for value in named]
    require(
        all(isinstance(value, int) for value in values) and len(values) == len(set(values)),
        f"classes() is {dict(spec.classes())}; each class is a tuple of whole numbers that no other class has",
    )


def _listed(bench: Bench) -> tuple[DatasetSpec, list[Scan]]:
    spec = bench.made()
    if not isinstance(spec, DatasetSpec):
        fail(f"the example is {spec!r}; give a function folder -> {type(bench.spec).__name__}(…)")
    scans = spec.scans(bench.folder / "cache", installed_readers())
    for scan in scans:
        if not isinstance(scan, Scan):
            fail(f"scans() lists {type(scan).__name__}; list Scan")
    return spec, scans

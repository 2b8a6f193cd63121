"""Damaged texts, small files and scans: each is used or refused, within two seconds and 500 MB, and nothing else."""

import os
import random
import sys

import pytest

from helpers.fuzz_targets import NRRD, targets
from helpers.fuzzing import fuzz, report
from ssmtl_toolkit import DataError
from ssmtl_toolkit.runtime.scans import installed_readers

SEED = int(os.environ.get("SSMTL_FUZZ_SEED", "0"))
NUMBER = int(os.environ.get("SSMTL_FUZZ_NUMBER", "200000"))  # inputs of the long form
QUICK = 8  # of each target
SLOW = {"DICOM": 20, "NRRD": 4, "NRRD texts": 4, "MHA texts": 2}  # take so many times as long as others
TEXTS = (
    "spec texts",
    "data texts",
    "options of run",
    "options of finetune",
    "options of predict",
    "options of evaluate",
)


def test_a_few_damaged_inputs_of_each_kind_are_used_or_refused(tmp_path):
    outcomes = {target.name: fuzz(target, QUICK, SEED) for target in targets(tmp_path)}
    assert len(outcomes) > 30
    assert not any(outcome.faults for outcome in outcomes.values()), report(outcomes)


@pytest.mark.slow
@pytest.mark.soak
def test_many_damaged_inputs_of_each_kind_are_used_or_refused(tmp_path):
    """Texts are quick: each of their targets gets ten times as many inputs as one of files."""
    every = targets(tmp_path)
    shares = {target.name: 10 if target.name in TEXTS else 1 / SLOW.get(target.name, 1) for target in every}
    unit = NUMBER / sum(shares.values())
    outcomes = {target.name: fuzz(target, round(unit * shares[target.name]), SEED) for target in every}
    print(report(outcomes), file=sys.__stderr__)
    assert not any(outcome.faults for outcome in outcomes.values()), report(outcomes)


@pytest.mark.slow
@pytest.mark.soak
def test_reports_of_damaged_records_are_written_or_refused(pretrained, tuned, tmp_path):
    outcomes = {
        target.name: fuzz(target, 40, SEED) for target in targets(tmp_path, [pretrained, tuned]) if "/" in target.name
    }
    print(report(outcomes), file=sys.__stderr__)
    assert len(outcomes) > 8
    assert not any(outcome.faults for outcome in outcomes.values()), report(outcomes)


@pytest.mark.parametrize("line", ["x" * 3000, f"units: {'x' * 3000}", f"x: {'心' * 400}", f"a:=\0{'x' * 3000}"])
def test_a_header_line_that_would_end_itk_with_the_process_is_refused(line, tmp_path):
    (tmp_path / "a.nrrd").write_bytes(NRRD.replace(b"endian:", f"{line}\nendian:".encode()) + bytes(48))
    with pytest.raises(DataError, match="header"):
        installed_readers().read(tmp_path / "a.nrrd")


def test_long_free_texts_of_nrrd_are_read(tmp_path):
    free = f"Segment0_Tags:={'x' * 3000}\n# {'x' * 3000}\ncontent: {'x' * 3000}\nendian:"
    (tmp_path / "a.nrrd").write_bytes(NRRD.replace(b"endian:", free.encode()) + bytes(48))
    assert installed_readers().read(tmp_path / "a.nrrd").shape == (4, 3, 2)


def test_equal_seeds_damage_equally(tmp_path):
    target = targets(tmp_path)[0]
    assert target.make(random.Random("1")) == target.make(random.Random("1"))

"""What is said before a run reads anything, and what it says of the data before it trains."""

from pathlib import Path
from typing import ClassVar

import pytest

from helpers.small import SMALL, write_scan
from ssmtl_datasets import Folder
from ssmtl_toolkit.pretraining.pretrain import pretrain
from ssmtl_toolkit.runtime.progress import Progress


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backbone", "unet:encoder=resnet181"), "smp has none of this name; did you mean 'resnet18'?"),
        (("--backbone", "unet:encoder=tu-resnet181"), "encoder 'tu-resnet181' cannot be built"),
        (("--backbone", "fcn:encoder=resnet181"), "encoder 'resnet181' cannot be built"),
        (("--backbone", SMALL, "--task", "dense_contrast:level=9"), "level"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_before_scans_are_read(ssmtl, tmp_path, arguments, message):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "p0.nii.gz").write_text("not read")
    done = ssmtl("run", "--data", "scans", "--size", 32, *arguments, "--out", "run")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "p0" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_fine_tuning_too_refuses_a_network_before_it_reads(ssmtl, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "p0.nii.gz").write_text("not read")
    done = ssmtl("finetune", "--data", "scans", "--backbone", "unet:encoder=resnet181", "--out", "run")
    assert done.returncode == 2
    assert "did you mean 'resnet18'?" in done.stderr
    assert "p0" not in done.stderr


class Named(Folder):
    """A folder that says what it was taken for."""

    name: ClassVar[str] = "named"

    def layout(self):
        return "three scans of the moon"


class Heard(Progress):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def test_a_run_says_what_the_data_are_before_it_trains(tmp_path):
    for i, name in enumerate(("1_ED", "1_ES", "2_ED", "2_ES")):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", seed=i)
    heard = Heard()
    options = {"backbone": SMALL, "size": 32, "steps": 1, "tasks": "reconstruct_prev:t=5", "held_out": 0}
    pretrain(
        data=Named(root=tmp_path / "scans"),
        **options,
        out=tmp_path / "run",
        cache=Path(tmp_path / "cache"),
        progress=heard,
    )
    said = "\n".join(heard.lines)
    assert "layout    three scans of the moon" in said
    assert "scans     4 scans of 2 patients, 48 slices (12 a scan), " in said
    assert "pairs     reconstruct_prev: 58 % of the slices have a partner, 5 slices (10 mm) away" in said

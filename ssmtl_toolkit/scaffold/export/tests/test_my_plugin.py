"""What the export should write, and the checks that every export passes."""

from pathlib import Path

import pytest
import torch
from ssmtl_toolkit import export, load_backbone, pretrain
from ssmtl_toolkit.testing import Case, cases


def test_a_backbone_is_written_under_the_key_and_read_back(tmp_path: Path) -> None:
    run = pretrain(
        data="phantom:patients=3",
        backbone="unet:encoder=plain,width=8",
        tasks=["reconstruct_next:t=1"],
        size=32,
        steps=1,
        out=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    written = export(run, "my_plugin:key=model", out=tmp_path / "out")
    assert "README.md" in written.summary["files"]
    tensors = torch.load(tmp_path / "out" / "weights.pth", weights_only=True)["model"]
    assert set(tensors) == set(load_backbone(run).state_dict())


@pytest.mark.parametrize("case", cases("my_plugin"), ids=str)
def test_it_keeps_the_contract(case: Case) -> None:
    case.run()

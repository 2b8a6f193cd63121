"""Pre-train nnU-Net's own network on the scans of a dataset that nnU-Net has planned, and train nnU-Net from it.

    nnUNetv2_plan_and_preprocess -d 4 -c 2d
    python into_nnunet.py 4 nnunet/bin runs/nnunet [more options of nnUNetv2_train]

nnU-Net lives in an environment of its own (`python -m venv nnunet; nnunet/bin/pip install nnunetv2`), and its data
where its variables nnUNet_raw, nnUNet_preprocessed and nnUNet_results say. The extra `nnunet` is needed here.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from ssmtl_toolkit import export, pretrain


def main(number: str, programs: str, out: str, *options: str) -> None:
    (planned,) = Path(os.environ["nnUNet_preprocessed"]).glob(f"Dataset{int(number):03d}_*")  # noqa: SIM112
    plans = planned / "nnUNetPlans.json"
    design = json.loads(plans.read_text())["configurations"]["2d"]
    step = math.prod(max(pair) for pair in design["architecture"]["arch_kwargs"]["strides"])
    run = pretrain(
        data=Path(os.environ["nnUNet_raw"]) / planned.name / "imagesTr",  # noqa: SIM112
        backbone=f"nnunet:plans={plans}",
        tasks=["reconstruct_prev:t=1", "reconstruct_next:t=1"],
        size=math.ceil(max(design["patch_size"]) / step) * step,
        steps=int(os.environ.get("STEPS", "2000")),
        out=Path(out) / "pretraining",
    )
    weights = export(run, "nnunet", out=Path(out) / "weights").folder / "nnunet.pth"
    train = [Path(programs) / "nnUNetv2_train", number, "2d", "0", "-pretrained_weights", weights, *options]
    subprocess.run(list(map(str, train)), check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Pre-train SSMTL+ from Python, with your own distance, and load the encoder into a timm network.

python examples/pretrain_in_python.py SCANS OUT
"""

import sys

import timm
from safetensors.torch import load_file

import ssmtl_toolkit as ssmtl


def main(scans: str, out: str) -> None:
    run = ssmtl.pretrain(
        backbone="fcn:encoder=resnet18",
        tasks=["reconstruct_prev:t=2", "reconstruct_next:t=2", "slice_siam:t=2"],
        data=scans,
        out=out,
        size=64,
        steps=20,
    )
    for label, task in run.summary["tasks"].items():
        print(label, task)
    weights = load_file(run.backbone)
    channels = weights["encoder.conv1.weight"].shape[1]
    network = timm.create_model("resnet18", in_chans=channels, num_classes=0)
    network.load_state_dict({k.removeprefix("encoder."): v for k, v in weights.items() if k.startswith("encoder.")})
    print("the encoder is timm's resnet18, pre-trained")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["phantom:patients=4", "runs/example"]))

"""The pictures of these pages, made of real runs: `python docs/pictures.py pretraining RUN SCAN`, `... shrink PNG`.

The run of the first one (Sunnybrook Cardiac Data, CC0 1.0; Radau et al., MIDAS Journal 2009):

    ssmtl data split sunnybrook_lv --out split.json --test-scans 20
    ssmtl run --data sunnybrook_lv --without split.json --axis axial --size 64 --backbone unet:encoder=plain,width=16 \
              --task reconstruct_prev:t=1 --task reconstruct_next:t=1 --steps 500 --precision bf16 \
              --augment affine:rotate=30 --augment elastic --out RUN

SCAN is one of the test patients of split.json. `shrink` halves an overlay of `ssmtl predict` and keeps its upper part.
"""

import sys
from pathlib import Path

import torch
from PIL import Image

from ssmtl_toolkit.config import RunConfig
from ssmtl_toolkit.data.prepare import prepare
from ssmtl_toolkit.engine.multitask import MultiTask
from ssmtl_toolkit.runtime import checkpoint
from ssmtl_toolkit.runtime.scans import installed_readers

PICTURES = Path(__file__).parent / "pictures"


def pretraining(run: str, scan: str) -> None:
    """Two anchors of a scan, what the network predicts for their neighbours, and the neighbours."""
    import matplotlib.pyplot as plt

    config = RunConfig.of(RunConfig.read(Path(run) / "run.toml")).resolve()
    slices = torch.from_numpy(prepare(installed_readers().read(Path(scan)), config.slicing).slices).float()
    model = MultiTask.build(config.backbone, config.tasks, config.balancer, channels=1)
    tensors = checkpoint.newest(Path(run) / "checkpoints", print).tensors
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    model.eval()
    with torch.no_grad():
        dense = model.backbone(slices).dense
        before, behind = (task.decode(dense)[:, 0] for task in model.tasks)
    rows = [len(slices) // 4, 3 * len(slices) // 4]
    figure, axes = plt.subplots(len(rows), 5, figsize=(8, 1.72 * len(rows)), facecolor="white")
    titles = ["slice before", "predicted", "the anchor", "predicted", "slice behind"]
    for row, k in zip(axes, rows, strict=True):
        images = (slices[k - 1, 0], before[k], slices[k, 0], behind[k], slices[k + 1, 0])
        for axis, image, title in zip(row, images, titles, strict=True):
            axis.imshow(image, cmap="gray", vmin=-1.5, vmax=3)
            axis.set_title(title if k == rows[0] else "", fontsize=9)
            axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(PICTURES / "pretraining.png", dpi=110, pil_kwargs={"optimize": True})


def shrink(picture: str) -> None:
    """Halve a picture and keep its upper part."""
    image = Image.open(picture).convert("RGB")
    image = image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)
    upper = image.crop((0, 0, image.width, min(image.height, image.width * 4 // 7)))
    upper.quantize(128).save(PICTURES / "phantom.png", optimize=True)


if __name__ == "__main__":
    {"pretraining": pretraining, "shrink": shrink}[sys.argv[1]](*sys.argv[2:])

"""The workflow in Python: pre-train, fine-tune on few labelled slices with a twin from scratch, predict, evaluate.

python examples/few_labels.py DATA OUT        (DATA with images/ and labels/; without arguments: a small phantom)
"""

import sys
from pathlib import Path

import ssmtl_toolkit as ssmtl

NETWORK = "unet:encoder=plain,width=8"


def main(data: str, out: str) -> None:
    run = ssmtl.pretrain(
        data=data,
        backbone=NETWORK,
        tasks=["reconstruct_prev:t=1", "reconstruct_next:t=1"],
        size=32,
        steps=20,
        out=Path(out) / "pretraining",
    )
    tuned = ssmtl.finetune(
        run, data=data, train_scans=2, slices_per_scan=3, steps=20, seeds=2, baseline="scratch", out=Path(out) / "tuned"
    )
    for arm, scores in tuned.summary["arms"].items():
        print(arm, "IoU", scores["iou"]["mean"], "±", scores["iou"]["sd"])
    difference = tuned.summary["difference"]["iou"]
    print("difference", difference["mean"], "95 % interval", difference["ci95"])
    predicted = ssmtl.predict(tuned, data, out=Path(out) / "labels", largest_component=True)
    print(len(predicted.written), "label maps in", predicted.folder)
    if (Path(data) / "labels").is_dir():
        print("Dice of all scans", ssmtl.evaluate(predicted, Path(data) / "labels").mean["dice"])


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["phantom:patients=5", "runs/few_labels"]))

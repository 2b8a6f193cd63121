"""Digests of what some twenty commands give with fixed seeds: checks changes that should not change any number.

    python benchmarks/fingerprints.py before.json       # on the old tree
    python benchmarks/fingerprints.py after.json --compare before.json

Weights, losses, label maps, splits, scores and tables are compared to the bit; times, paths and versions are not.
Digests hold for one machine: other processors round differently. Takes about five minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from safetensors import safe_open

SSMTL = [sys.executable, "-m", "ssmtl_toolkit"]
WORDS = {
    "PHANTOM": "--data phantom:patients=4 --size 32 --batch-size 8 --log-every 2",
    "MRI": "--data phantom:patients=3,modality=mri --size 32 --batch-size 8 --log-every 2",
    "SMALL": "--backbone unet:encoder=plain,width=8",
    "PAIR": "--task reconstruct_prev:t=2 --task reconstruct_next:t=2",
    "LABELLED": "--data phantom:patients=5 --test-scans 2 --train-scans 2 --slices-per-scan 3 --steps 6 --batch-size 4"
    " --recipe paper --classes LV,RV --no-surface",
}
EXPERIMENT = """
data = "phantom:patients=4"
pretrain = { size = 32, steps = 4, batch_size = 8 }
finetune = { recipe = "paper", steps = 4, seeds = 2, slices_per_scan = 2, classes = "LV,RV", surface = false }
split = { train = 2, test = 2 }
[rows.scratch]
backbone = "unet:encoder=plain,width=8"
[rows.ssmtl]
backbone = "unet:encoder=plain,width=8"
tasks = ["reconstruct_prev:t=2", "reconstruct_next:t=2"]
"""

COMMANDS = {
    "run: ssmtl+": "run PHANTOM SMALL PAIR --task slice_siam:t=2 --steps 10 --out plus",
    "run: resnet18, mm, accumulate, uncertainty": "run PHANTOM --backbone unet:encoder=resnet18"
    " --task reconstruct_prev:t=6mm --task reconstruct_next:t=6mm --balancer uncertainty --accumulate 2 --steps 4"
    " --out mm",
    "run: moco, fcn": "run PHANTOM --backbone fcn:encoder=resnet18 --task moco_v2:queue=16 --steps 5 --out moco",
    "run: unetplusplus, clip, weights, window": "run PHANTOM --backbone smp:unetplusplus,encoder=resnet18"
    " --task reconstruct_prev:t=2,weight=0.5 --clip 1 --window -200 400 --weight-decay 0.01 --steps 3 --out plusplus",
    "run: dwa, gradient norms, disk": "run PHANTOM SMALL PAIR --balancer dwa --gradient-norms --store disk --steps 8"
    " --out dwa",
    "run: mgda": "run PHANTOM SMALL PAIR --balancer mgda --steps 5 --out mgda",
    "run: famo": "run PHANTOM SMALL PAIR --balancer famo --steps 5 --out famo",
    "run: begun": "run PHANTOM SMALL PAIR --steps 4 --out resumed",
    "run: resumed": "run --resume resumed --steps 8",
    "run: two processes": "run PHANTOM SMALL PAIR --accelerator cpu --devices 2 --steps 4 --out two",
    "run: mri, snapshots": "run MRI SMALL PAIR --epochs 1 --snapshot-every 1 --out mri",
    "data split": "data split phantom:patients=5 --test-scans 2 --out split.json",
    "run: without": "run --data phantom:patients=5 --size 32 SMALL PAIR --steps 3 --without split.json --out without",
    "finetune: twins": "finetune --from plus LABELLED --seeds 2 --baseline scratch --out twins",
    "finetune: early stopping, frozen": "finetune --from plus LABELLED --validation-scans 1 --check-every 2"
    " --freeze encoder --head segmentation:loss=ce+dice --out stopping",
    "finetune: denoising": "finetune --from plus --head denoising --data phantom:patients=4 --test-scans 1 --steps 4"
    " --recipe paper --no-surface --out denoising",
    "finetune: moco's encoder": "finetune --from moco LABELLED --out moco-tuned",
    "data phantom": "data phantom files --patients 2 --seed 3",
    "predict: labels": "predict --from twins/pretrained-0 files/images -o labels --probabilities --largest-component",
    "predict: image": "predict --from denoising files/images -o denoised",
    "evaluate": "evaluate --pred labels --label files/labels --classes LV=500,RV=600 --csv scores.csv --no-surface",
    "experiment": "experiment mine.toml --out mine",
    "reproduce": "reproduce table4 --data phantom:patients=4 --quick --seeds 1 --row scratch --row ssmtl"
    " --set pretrain.epochs=1 --set finetune.steps=3 --out repro",
}

UNTIMED = {"seconds", "seconds_to_first_step", "images_per_second", "seconds_of_network", "run", "source", "sha256"}
UNTIMED |= {"model", "out", "folder", "version", "device", "torch"}


def main() -> None:
    """Run all commands, write their digests, and print what differs from another file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--compare", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: fingerprint(name, Path(folder), line) for name, line in COMMANDS.items()}
    given.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if given.compare:
        before = json.loads(given.compare.read_text(encoding="utf-8"))
        changed = [f"{name}: {file}" for name, file in differences(before, found)]
        print("\n".join(changed) or f"all {len(found)} commands give the same, to the bit")
        raise SystemExit(bool(changed))


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[tuple[str, str]]:
    """List the files that differ, or that are missing on one side."""
    names = {(name, file) for found in (before, after) for name, files in found.items() for file in files}
    return sorted(k for k in names if before.get(k[0], {}).get(k[1]) != after.get(k[0], {}).get(k[1]))


def fingerprint(name: str, folder: Path, line: str) -> dict[str, str]:
    """Run a command in a folder; digest every file that it writes or changes there."""
    print(name, flush=True)
    (folder / "mine.toml").write_text(EXPERIMENT, encoding="utf-8")
    known = contents(folder)
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    words = " ".join(WORDS.get(word, word) for word in line.split()).split()
    done = subprocess.run([*SSMTL, *words], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ssmtl {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return {file: value for file, value in contents(folder).items() if known.get(file) != value}


def contents(folder: Path) -> dict[str, str]:
    """Digest the content of each file, under a name without digests of options; the cache is skipped."""
    found: dict[str, str] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in DIGESTS):
        relative = file.relative_to(folder)
        if relative.parts[0] != "cache" and not any(part.startswith("checkpoints") for part in relative.parts):
            value = DIGESTS[file.suffix](file)
            found[f"{stable(relative)} {value[:8]}" if relative.parts[0] in {"mine", "repro"} else str(relative)] = (
                value
            )
    return found


def stable(path: Path) -> str:
    """Reduce a path below an experiment, whose folders are named by digests, to its last part."""
    return f"{path.parts[0]}/…/{path.name}"


def digest(*parts: bytes) -> str:
    """Compute the sha256 of some bytes."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def of_tensors(file: Path) -> str:
    """Digest names, types, shapes and bytes of all tensors."""
    with safe_open(file, "numpy") as opened:
        names = sorted(opened.keys())
        arrays = {name: opened.get_tensor(name) for name in names}
    return digest(
        *(part for n, a in arrays.items() for part in (n.encode(), str((a.dtype, a.shape)).encode(), a.tobytes()))
    )


def of_volume(file: Path) -> str:
    """Digest voxels and affine of a NIfTI file."""
    image: Any = nib.load(file)
    return digest(np.asanyarray(image.dataobj).tobytes(), np.asarray(image.affine).tobytes())


def of_json(file: Path) -> str:
    """Digest a JSON file, or JSON lines, without times and paths."""
    lines = file.read_text(encoding="utf-8")
    whole = [json.loads(lines)] if file.suffix == ".json" else [json.loads(line) for line in lines.splitlines()]
    return digest(json.dumps([untimed(one) for one in whole], sort_keys=True).encode())


def untimed(content: Any) -> Any:
    """Remove what differs between two equal runs."""
    if isinstance(content, dict):
        return {key: untimed(value) for key, value in content.items() if key not in UNTIMED}
    return [untimed(item) for item in content] if isinstance(content, list) else content


def of_table(file: Path) -> str:
    """Digest a CSV file."""
    return digest(json.dumps(list(csv.reader(file.read_text(encoding="utf-8").splitlines()))).encode())


def of_picture(file: Path) -> str:
    """Digest the pixels of a PNG."""
    return digest(np.asarray(Image.open(file)).tobytes())


DIGESTS: dict[str, Callable[[Path], str]] = {
    ".safetensors": of_tensors,
    ".gz": of_volume,
    ".json": of_json,
    ".jsonl": of_json,
    ".csv": of_table,
    ".png": of_picture,
}

if __name__ == "__main__":
    main()

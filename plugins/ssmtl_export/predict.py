"""Label a scan by model.pt2 and usage.json beside this file: python predict.py OUT.nii.gz SCAN.nii.gz [CHANNEL_2 …].

It needs torch, numpy and nibabel, and shows all that there is to preparing slices and to the way back.
"""

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from torch.nn.functional import interpolate

usage = json.loads(Path(__file__).with_name("usage.json").read_text())
network = torch.export.load(Path(__file__).with_name("model.pt2")).module()


def scanned(scan: Any) -> str:
    """The anatomical axis nearest to the one that the scanner stepped along."""
    spacing, named = scan.header.get_zooms()[:3], scan.header.get_dim_info()[2]
    widest = int(np.argmax(spacing))
    wide = spacing[widest] > 1.5 * max(mm for i, mm in enumerate(spacing) if i != widest)
    step = named if named is not None else widest if wide else 2
    return ("sagittal", "coronal", "axial")[int(io_orientation(scan.affine)[step, 0])]


def prepared(images: torch.Tensor) -> Any:
    """Slices (S, C, H, W) as the network sees them, and the mean and deviation that were taken out."""
    if usage["window"]:
        images = images.clip(*usage["window"])
    resized = interpolate(images, usage["resize"]["size"], mode="bilinear", antialias=True)
    how = usage["normalise"]
    if how["by"] == "levels":
        mean, deviation = torch.tensor(how["levels"]).T[:, None, :, None, None]
        return (resized - mean) / deviation, mean, deviation
    of, axes = (resized, (2, 3)) if how["by"] == "slice" else (images, (0, 2, 3))
    mean = of.double().mean(axes, keepdim=True)
    deviation = of.double().std(axes, correction=0, keepdim=True)
    if how["by"] == "slice":
        blank = deviation <= how["constant"] * resized.abs().amax((2, 3), keepdim=True)
        return torch.where(blank, 0, (resized - mean) / deviation).float(), mean, deviation.where(~blank, 0)
    return ((resized - mean) / deviation).float(), mean, deviation


def predicted(raw: Any) -> Any:
    """Labels (S, H, W), or slices in the scan's units, of slices (S, C, H, W)."""
    images, mean, deviation = prepared(torch.from_numpy(raw.astype(np.float32)))
    maps = torch.cat([interpolate(network(part), raw.shape[2:], mode="bilinear") for part in images.split(16)])
    if usage["answer"]["kind"] == "image":
        return (maps * deviation + mean)[:, 0].float().numpy()
    sums = torch.stack([maps[:, list(owned)].sum(dim=1) for owned in usage["answer"]["members"]])
    return np.array(usage["answer"]["values"], np.int32)[sums.argmax(dim=0).numpy()]


def main(out: str, *files: str) -> None:
    scans: list[Any] = [nib.load(file) for file in files]
    axis = scanned(scans[0]) if usage["axis"] == "acquisition" else usage["axis"]
    source, goal = io_orientation(scans[0].affine), axcodes2ornt(usage["directions"][axis])
    turn = ornt_transform(source, goal)
    raw = np.stack([apply_orientation(np.asanyarray(scan.dataobj), turn) for scan in scans], axis=1)
    with torch.no_grad():
        result = apply_orientation(predicted(raw), ornt_transform(goal, source))
    nib.save(nib.Nifti1Image(result, scans[0].affine), out)


if __name__ == "__main__":
    main(*sys.argv[1:])

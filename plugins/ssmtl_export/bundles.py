"""MONAI bundles: the network as a program, and MONAI's transforms and inferer around it, written as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from torch import Tensor

from ssmtl_export.programs import PROGRAM, program_of, save_program
from ssmtl_toolkit.engine.export import Exported
from ssmtl_toolkit.errors import UsageError

INFERENCE, METADATA = "configs/inference.json", "configs/metadata.json"


def write_bundle(exported: Exported, folder: Path) -> str:
    """Write configs/inference.json, configs/metadata.json and models/model.pt2.

    Raises:
        UsageError: slices are prepared by more than clipping, resizing and normalising, or the axis is not certain.
    """
    usage = exported.usage
    if usage["preparations"] or usage["resize"] is None:
        raise UsageError(
            "export 'monai': its scans are prepared by --prepare, which MONAI's transforms do not do alike; predict by "
            "ssmtl predict, or export to torch"
        )
    if usage["answer"]["kind"] != "classes":
        raise UsageError("export 'monai': the model gives images, and bundles are written for labels; export to torch")
    axis = _axis(usage)
    for name in ("configs", "models"):
        (folder / name).mkdir()
    program, _ = program_of(exported)
    save_program(program, folder / "models" / PROGRAM)
    inference = _inference(usage, "".join(usage["directions"][axis]))
    (folder / INFERENCE).write_text(json.dumps(inference, indent=2) + "\n", encoding="utf-8")
    (folder / METADATA).write_text(json.dumps(_metadata(exported), indent=2) + "\n", encoding="utf-8")
    return (
        f"`python -m monai.bundle run --config_file {INFERENCE} --meta_file {METADATA} --bundle_root . --dataset_dir "
        f"SCANS` writes a label map for each `.nii.gz` below SCANS into `eval/` (pip install monai fire nibabel)."
    )


def _axis(usage: Mapping[str, Any]) -> str:
    if usage["axis"] == "time":
        raise UsageError("export 'monai': the slices are frames in time, and a bundle reads volumes; export to torch")
    if usage["axis"] != "acquisition":
        return str(usage["axis"])
    if len(usage["axes"]) != 1:
        seen = " and ".join(usage["axes"]) or "an axis that the file does not record"
        raise UsageError(
            f"export 'monai': the slices lie along the axis of the acquisition, in training {seen}, and a bundle turns "
            f"all scans alike; fine-tune with --axis axial, coronal or sagittal"
        )
    return str(usage["axes"][0])


def _inference(usage: Mapping[str, Any], directions: str) -> dict[str, Any]:
    """The bundle's programme: load, turn, predict slice by slice, turn back, save."""
    size = usage["resize"]["size"]
    return {
        "imports": ["$import glob", "$import torch", "$import numpy as np"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/**/*.nii*', recursive=True))",
        "device": "$torch.device('cpu')",
        "network_def": f"$torch.export.load(@bundle_root + '/models/{PROGRAM}').module()",
        "network": "$@network_def",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "LoadImaged",
                    "keys": "image",
                    "reader": "NibabelReader",
                    "image_only": True,
                    "ensure_channel_first": True,
                },
                {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": directions, "labels": None},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': file} for file in @datalist]",
            "transform": "@preprocessing",
        },
        "inferer": {"_target_": "SliceInferer", "roi_size": size, "spatial_dim": 0, "sw_batch_size": 16},
        "prepare": f"$lambda image: {_preparing(usage)}",
        "decide": f"$lambda maps: {_deciding(usage['answer'])}",
        "predict": (
            "$(lambda prepare, decide, inferer, network: lambda item: {**item, 'pred': decide(torch.nn.functional."
            "interpolate(inferer(prepare(item['image'])[None], network)[0], item['image'].shape[2:], "
            "mode='bilinear'))})(@prepare, @decide, @inferer, @network)"
        ),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": True,
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "",
                    "separate_folder": False,
                    "resample": False,
                    "output_dtype": "$np.int32",
                },
            ],
        },
        "run": ["$[@postprocessing(@predict(item)) for item in @dataset]"],
    }


def _preparing(usage: Mapping[str, Any]) -> str:
    """Python: scans `image` (C, S, H, W) as the network sees their slices."""
    window, size, by = usage["window"], usage["resize"]["size"], usage["normalise"]
    image = f"image.clip({window[0]!r}, {window[1]!r})" if window else "image"
    resized = f"torch.nn.functional.interpolate({image}, {size}, mode='bilinear', antialias=True)"
    if by["by"] == "levels":
        mean, deviation = (
            f"torch.tensor({list(numbers)}).view(-1, 1, 1, 1)" for numbers in zip(*by["levels"], strict=True)
        )
        return f"({resized} - {mean}) / {deviation}"
    if by["by"] == "scan":
        of = "x.double().{}(dim=(1, 2, 3), keepdim=True{}).float()"
        return (
            f"(lambda x: (torch.nn.functional.interpolate(x, {size}, mode='bilinear', antialias=True) - "
            f"{of.format('mean', '')}) / {of.format('std', ', correction=0')})({image})"
        )
    normal = (
        f"torch.where(deviation <= {by['constant']} * x.abs().amax((2, 3), keepdim=True), "
        f"torch.zeros_like(x), (x - mean) / deviation)"
    )
    mean, deviation = "mean((2, 3), keepdim=True)", "std((2, 3), correction=0, keepdim=True)"
    return (
        f"(lambda x: (lambda x, mean, deviation: {normal})(x, x.double().{mean}.float(), "
        f"x.double().{deviation}.float()))({resized})"
    )


def _deciding(answer: Mapping[str, Any]) -> str:
    """Python: maps (K, S, H, W) as labels (1, S, H, W)."""
    values, members = list(answer["values"]), [list(owned) for owned in answer["members"]]
    scores = f"torch.stack([maps[owned].sum(dim=0) for owned in {members}])"
    return f"torch.tensor({values})[{scores}.argmax(dim=0)][None]"


def _metadata(exported: Exported) -> dict[str, Any]:
    usage = exported.usage
    channels, size = usage["channels"], list(usage["resize"]["size"])
    names = {str(i): name for i, name in enumerate(usage["answer"]["names"])}
    plain = {
        "type": "image",
        "num_channels": channels,
        "spatial_shape": size,
        "dtype": "float32",
        "is_patch_data": False,
    }
    image = {**plain, "format": "magnitude", "modality": "n/a", "value_range": [], "channel_def": {"0": "image"}}
    maps = {**plain, "format": "segmentation", "num_channels": len(names), "value_range": [], "channel_def": names}
    title, _, _ = exported.card.partition("\n")
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by ssmtl_toolkit"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.2"},
        "task": "segmentation of slices",
        "description": title.lstrip("# "),
        "authors": "",
        "copyright": "",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": maps}},
        "usage": dict(usage),
    }


def network_of(folder: Path) -> Callable[[Tensor], Tensor]:
    """The network of a bundle, as MONAI's parser makes it."""
    parser = ConfigParser()
    parser.read_config(folder / INFERENCE)
    parser["bundle_root"] = str(folder)
    network: Callable[[Tensor], Tensor] = parser.get_parsed_content("network")
    return network

"""ONNX graphs by torch's exporter, and onnxruntime to open them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssmtl_toolkit.engine.export import Exported

GRAPH = "model.onnx"


def write_graph(exported: Exported, folder: Path, opset: int) -> str:
    """Write model.onnx: input `image` (n, C, h, w), output `maps` or `dense`, all sizes free but the channels."""
    import onnx

    output = "dense" if exported.head is None else "maps"
    torch.onnx.export(
        exported.module,
        (exported.images(2, larger=True),),
        folder / GRAPH,
        dynamo=True,
        opset_version=opset,
        input_names=["image"],
        output_names=[output],
        dynamic_shapes=({0: "n", 2: "height", 3: "width"},),
        external_data=False,
        verbose=False,
    )
    graph = onnx.load(folder / GRAPH)
    onnx.helper.set_model_props(graph, {"usage": json.dumps(exported.usage), "card": exported.card})
    onnx.save(graph, folder / GRAPH)
    return (
        f"`onnxruntime.InferenceSession('{GRAPH}').run(['{output}'], {{'image': images}})` takes float32 images "
        f"(n, {exported.backbone.in_channels}, h, w), prepared as below: any number of any size that the network "
        f"takes, such as multiples of 32 pixels."
    )


def run_graph(folder: Path, images: Tensor) -> Tensor:
    """What onnxruntime makes of images, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / GRAPH, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"image": images.numpy().astype(np.float32)})
    return torch.from_numpy(output)

"""The model card: what weights are, how they are used, what they were trained on, and whom to cite, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ssmtl_toolkit.documents import read_result
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.folder import SCORES, SUMMARY
from ssmtl_toolkit.runtime.provenance import sources
from ssmtl_toolkit.runtime.usage import Usage
from ssmtl_toolkit.specs import TaskSpec
from ssmtl_toolkit.text import counted, printable

_WAYS = {"S": "upwards", "I": "downwards", "P": "to the back", "A": "to the front", "L": "to the patient's left"}


def card(file: Path, about: Mapping[str, Any], usage: Usage) -> str:
    """Write the card of a file of weights; what its run folder says of losses and scores is part of it."""
    parts = [
        f"# {'Fine-tuned model' if 'head' in about else 'Pre-trained backbone'} `{about['backbone']['spec']}`",
        "## How to use it\n\n" + "\n".join(f"{i}. {line}" for i, line in enumerate(steps(usage), 1)),
        "The same as data: `usage.json`, and `usage` in the metadata (key `ssmtl`) of ssmtl_toolkit's own files.",
        "## What it was trained on\n\n" + "\n".join(f"- {line}" for line in _training(about)),
        *_results(file),
        "It is a research result, not a medical device.",
        f"## Citation\n\n```bibtex\n{_citations(about)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def steps(usage: Usage) -> Iterator[str]:
    """How a scan is prepared and what is done with the maps, in order, a sentence or two each."""
    if usage.axis == "time":
        yield (
            f"Take the frames of the 4-D scan, position after position along the axis of the acquisition: "
            f"{usage.scanned}."
        )
    elif usage.scanned:
        seen = f" The training scans were cut along: {', '.join(usage.axes)}." if usage.axes else ""
        yield f"Cut the scan along the axis of the acquisition: {usage.scanned}.{seen}"
    else:
        yield f"Cut the scan into {usage.axis} slices."
    for axis, (first, rows, columns) in usage.directions.items():
        ways = f"slices go {_WAYS[first]}, rows {_WAYS[rows]}, columns {_WAYS[columns]}"
        yield f"Flip and transpose, never resample: of {axis} slices, {ways} (`{first}{rows}{columns}` in nibabel)."
    if usage.channels > 1:
        yield f"Each slice has {usage.channels} channels, in the order of the training."
    if usage.window:
        yield "Clip all values to {:g} … {:g}.".format(*usage.window)
    for text in usage.preparations:
        yield f"Prepare the scan by `{text}` (ssmtl_toolkit does that)."
    if usage.resize:
        height, width = usage.resize.size
        yield (
            f"Resize each slice to {height} x {width} pixels: bilinear, corners not aligned, anti-aliased "
            f"(`torch.nn.functional.interpolate(…, antialias=True)`)."
        )
    else:
        yield "Do not resize: the network sees windows of the size that it was trained at, blended where they overlap."
    yield _normalising(usage)
    yield from _answering(usage)


def _normalising(usage: Usage) -> str:
    if usage.normalise.by == "levels":
        levels = ", ".join(f"mean {mean:g} and deviation {deviation:g}" for mean, deviation in usage.normalise.levels)
        return f"Then normalise each channel by {levels}."
    if usage.normalise.by == "scan":
        return "Then subtract the mean of all voxels of the scan (clipped, not resized), and divide by their deviation."
    return "Then give each slice zero mean and unit variance (population); a slice of one value becomes zeros."


def _answering(usage: Usage) -> Iterator[str]:
    answer = usage.answer
    if answer.kind == "features":
        yield "The network gives features: a pyramid of the encoder, and one dense map of the decoder."
        return
    yield "Resize the maps back to the rows and columns of the slice: bilinear, corners not aligned, not anti-aliased."
    if answer.kind == "image":
        yield "Multiply by the deviation of the slice and add its mean: the result is in the units of the scan."
    elif answer.activation == "softmax":
        yield f"Take the map with the largest value (after resizing): {_named(usage)}."
    else:
        names = ", ".join(f"{i} {printable(name)}" for i, name in enumerate(answer.names))
        cells = ", ".join(
            f"{value}: maps {list(maps)}" for value, maps in zip(answer.values, answer.members, strict=True)
        )
        yield f"Maps are logits of classes that may overlap ({names}); take the value whose maps have the largest sum "
        yield f"(0 for none): {cells}."
    if answer.kind == "classes":
        yield "Undo the flips and the transposition of the slices: the labels then lie on the grid of the scan."


def _named(usage: Usage) -> str:
    answer = usage.answer
    pairs = enumerate(zip(answer.names, answer.values, strict=True))
    return ", ".join(f"map {i} is {printable(name)}, written as {value}" for i, (name, value) in pairs)


def _pretraining(about: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return about.get("pretraining") if "head" in about else about


def _citations(about: Mapping[str, Any]) -> str:
    """BibTeX of the paper, and of the tasks of the pre-training whose plugins are installed."""
    before, parts = _pretraining(about), registry()
    names = [task["spec"].partition(":")[0] for task in before["tasks"]] if before else []
    return "\n\n".join(sources(parts.find(TaskSpec, name) for name in names if parts.has("task", name)))


def _training(about: Mapping[str, Any]) -> Iterator[str]:
    before = _pretraining(about)
    if before:
        tasks = ", ".join(f"`{task['spec']}`" for task in before["tasks"])
        number = counted(before["scans"]["number"], "scan")
        yield f"Pre-training: {tasks}; {before['step']} steps on {number}, without labels."
    if "head" in about:
        yield f"Fine-tuning: head `{about['head']['spec']}`{'' if before else ', from random weights'}."
        if about.get("augment"):
            yield f"Augmentation: {', '.join(f'`{text}`' for text in about['augment'])}."
    yield f"Written by ssmtl_toolkit {about['version']}; no names, paths or patients are in the file."


def _results(file: Path) -> Iterator[str]:
    scores = read_result(file.with_name(SCORES))
    if scores.get("mean"):
        rows = [f"| {name} | {value:.4g} |" for name, value in scores["mean"].items() if isinstance(value, int | float)]
        yield "## Scores on the test scans of its fine-tuning\n\n| metric | mean |\n|---|---|\n" + "\n".join(rows)
    tasks = read_result(file.with_name(SUMMARY)).get("tasks")
    if tasks:
        rows = [f"| `{label}` | {task['loss']:.4g} | {task.get('verdict', '')} |" for label, task in tasks.items()]
        yield "## Losses at the end of the pre-training\n\n| task | loss | verdict |\n|---|---|---|\n" + "\n".join(rows)

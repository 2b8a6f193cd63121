"""The features of a backbone: what each is made of, by which part, and where gradients of tasks can be compared.

All that the toolkit needs to know about a feature is here. To add one, add its line to `FEATURES` and a property of its
name to `engine.backbone.Features`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Feature = Literal["pyramid", "pooled", "decoded", "dense"]
"""What a backbone may provide, and a task or head may need."""

Part = Literal["encoder", "decoder"]
"""A module of a backbone, which is trained, saved and transferred as a whole."""


@dataclass(frozen=True)
class Origin:
    """Where a feature comes from.

    Attributes:
        of: the feature that it is computed from; None: the image.
        part: the part of the backbone that computes it; None: no weights are needed.
        maps: whether it is a map or maps (N, C, h, w), at which gradients of tasks can be compared.
    """

    of: Feature | None
    part: Part | None
    maps: bool


FEATURES: Mapping[Feature, Origin] = {
    "pyramid": Origin(of=None, part="encoder", maps=True),  # the encoder's maps, finest first
    "pooled": Origin(of="pyramid", part=None, maps=False),  # the mean of the deepest map, (N, C)
    "decoded": Origin(of="pyramid", part="decoder", maps=True),  # the decoder's maps, finest first
    "dense": Origin(of="decoded", part=None, maps=True),  # the first of them at image size, (N, C, H, W)
}

PARTS: Mapping[Part, Feature] = {"encoder": "pooled", "decoder": "dense"}
"""The parts in the order of computing, and for each the feature by which a file of weights shows what it computes."""


def parts_of(features: Iterable[Feature]) -> list[Part]:
    """The parts of a backbone that these features need, in the order of computing; the encoder is always one."""
    taken = {FEATURES[origin].part for feature in features for origin in _lineage(feature)}
    return [part for part in PARTS if part in taken or part == "encoder"]


def meeting_of(features: Iterable[Feature]) -> Feature:
    """The maps farthest from the image that all these features are made of: there the gradients of tasks meet."""
    lineages = [list(_lineage(feature)) for feature in features]
    common = [origin for origin in (lineages or [[]])[0] if all(origin in lineage for lineage in lineages)]
    return next((feature for feature in common if FEATURES[feature].maps), "pyramid")


def _lineage(feature: Feature) -> Iterator[Feature]:
    """The feature itself, what it is made of, and so on to the first one."""
    origin: Feature | None = feature
    while origin is not None:
        yield origin
        origin = FEATURES[origin].of

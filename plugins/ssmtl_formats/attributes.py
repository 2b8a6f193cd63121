"""What distinguishes images at one position: echo, b-value, kind and so on, from classic and enhanced headers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from ssmtl_formats import private

Vector = tuple[float, ...]
Value = float | str | Vector


@dataclass(frozen=True)
class Attribute:
    """A property of an image.

    Attributes:
        name: its plural, for messages.
        sources: where it may be, best first: keywords; `A/B` is B in the sequence A, `A+B` joins the two texts.
        missing: its value if absent, of the same type as its other values.
        tolerance: the relative difference up to which numbers count as equal.
        other: reads it from the whole header if no source has it.
        words: of a text, the only words that count.
    """

    name: str
    sources: tuple[str, ...]
    missing: Value = 0.0
    tolerance: float = 0.0
    other: Callable[[Dataset], Value] | None = None
    words: frozenset[str] = frozenset()

    def of(self, groups: list[Dataset], data: Dataset) -> Value:
        """Read it: sequences from the functional groups, the frame's own first; everything else from the file."""
        for source in self.sources:
            for group in groups if "/" in source else [data]:
                if (value := _typed(_lookup(group, source), self.missing)) != self.missing:
                    return self._words(value) if self.words else value
        return self.missing if self.other is None else self.other(data)

    def _words(self, value: Value) -> Value:
        return "\\".join(word for word in str(value).split("\\") if word in self.words)


# Words of image types that count; others are notes on the processing, which may differ from slice to slice
KINDS = frozenset(
    (
        *("ORIGINAL", "DERIVED", "M", "P", "R", "I", "MAGNITUDE", "PHASE", "REAL", "IMAGINARY", "PHASE MAP", "B0 MAP"),
        *(f"{part}_{kind}" for part in "MPRI" for kind in ("FFE", "SE", "IR", "TFE", "EPI", "PCA", "B0", "B1")),
        *("VELOCITY", "VELOCITY MAP", "VELOCITY_MAP", "FIELD_MAP", "PHASE_MAP", "B0_MAP", "W", "F", "IP", "OP", "OOP"),
        *("IN_PHASE", "OUT_PHASE", "OPP_PHASE", "WATER", "FAT", "FF", "FAT_FRACTION", "WATER_FRACTION", "UNI", "INV1"),
        *("INV2", "T1 MAP", "T2 MAP", "T1_MAP", "T2_MAP", "T2_STAR", "R2", "R2_STAR", "PD MAP", "ADC", "EADC", "TRACE"),
        *("TRACEW", "FA", "COLFA", "ISO", "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBF", "RCBV", "SUBTRACTION", "SUB"),
        *("MIP", "MINIP", "MPR", "AVERAGE", "MEAN", "STDDEV", "MOCO", "MONO", "VIRTUAL_MONO", "IODINE", "VNC"),
    )
)
_CONTENT = "FrameContentSequence"
_DIFFUSION = "MRDiffusionSequence"
_DIRECTION = f"{_DIFFUSION}/DiffusionGradientDirectionSequence/DiffusionGradientOrientation"
_FRAME_TYPES = tuple(f"{kind}FrameTypeSequence/FrameType" for kind in ("MRImage", "CTImage", "PET"))

# All images of a volume share these. Volumes are sorted by the numbers and names among them.
FIXED = (
    Attribute("echo times", ("MREchoSequence/EffectiveEchoTime", "EchoTime"), tolerance=0.01),
    Attribute("echo numbers", ("EchoNumbers",)),
    Attribute("b-values", (f"{_DIFFUSION}/DiffusionBValue", "DiffusionBValue"), tolerance=0.01, other=private.b_value),
    Attribute(
        "temporal positions",
        (f"{_CONTENT}/TemporalPositionIndex", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    ),
    # follows the contrast agent from breath-hold to breath-hold
    Attribute("inversion times", ("MRModifierSequence/InversionTimes", "InversionTime"), tolerance=0.4),
    # lowered in single slices to limit the SAR
    Attribute("flip angles", ("MRTimingAndRelatedParametersSequence/FlipAngle", "FlipAngle"), tolerance=0.2),
    Attribute("tube voltages", ("CTXRayDetailsSequence/KVP", "KVP"), tolerance=0.01),
    Attribute("kinds", (*_FRAME_TYPES, "ImageType"), "", words=KINDS),
    Attribute(
        "complex components",
        ("MRImageFrameTypeSequence/ComplexImageComponent", "ComplexImageComponent"),
        "",
        words=KINDS,
    ),
    Attribute("convolution kernels", ("CTReconstructionSequence/ConvolutionKernel", "ConvolutionKernel"), ""),
    Attribute("labelling contexts", ("MRArterialSpinLabelingSequence/ASLContext",), ""),
    Attribute("magnetization transfers", ("MRModifierSequence/MagnetizationTransfer",), ""),
    Attribute("velocity encodings", ("MRVelocityEncodingSequence/VelocityEncodingDirection",), ()),
    Attribute("gradient directions", (_DIRECTION, "DiffusionGradientOrientation"), (), other=private.direction),
)
# These may vary between the slices of a volume; they distinguish volumes if all positions have the same values.
FREE = (
    Attribute("repetition times", ("MRTimingAndRelatedParametersSequence/RepetitionTime", "RepetitionTime")),
    Attribute("stacks", (f"{_CONTENT}/StackID",), ""),
    Attribute("contrast agents", ("ContrastBolusAgent",), ""),
    Attribute("diameters", ("CTReconstructionSequence/ReconstructionDiameter", "ReconstructionDiameter")),
    Attribute("sequences", ("SequenceName",), ""),
    Attribute("options", ("ScanOptions",), ""),
    Attribute("image types", (*_FRAME_TYPES, "ImageType"), ""),
)
# Of these only the order counts: the first image at each position belongs to the first volume.
TIMES = (
    Attribute("trigger times", ("CardiacSynchronizationSequence/NominalCardiacTriggerDelayTime", "TriggerTime")),
    Attribute("frame times", ("FrameReferenceTime",)),
    Attribute("acquisitions", (f"{_CONTENT}/FrameAcquisitionNumber", "AcquisitionNumber")),
    Attribute(
        "times",
        (
            *(f"{_CONTENT}/{name}" for name in ("FrameAcquisitionDateTime", "FrameReferenceDateTime")),
            *("AcquisitionDateTime", "AcquisitionDate+AcquisitionTime"),
        ),
        "",
    ),
)
_INDICES = Attribute("dimension indices", (f"{_CONTENT}/DimensionIndexValues",), ())

_SOURCES = [source for attribute in (*FIXED, *FREE, *TIMES, _INDICES) for source in attribute.sources]
_KEYWORDS = {name for source in _SOURCES for name in source.split("/")[0].split("+")}
_TAG_OF = {name: Tag(name) for source in _SOURCES for name in re.split("[/+]", source)}
TAGS: tuple[str | int, ...] = (*sorted({*_KEYWORDS, "Manufacturer"}), *private.TAGS)


@dataclass(frozen=True)
class Marks:
    """The properties of one image: `fixed` as FIXED, `free` as FREE, `times` as TIMES followed by the indices."""

    fixed: tuple[Value, ...] = ()
    free: tuple[Value, ...] = ()
    times: tuple[Value, ...] = ()


def marks_of(groups: list[Dataset]) -> Marks:
    """Read all properties; `groups` are the functional groups of the frame, those of all frames, and the file."""
    *groups, data = groups
    groups = [group for group in groups if len(group) and group is not data]
    indices = _INDICES.of(groups, data)
    return Marks(
        tuple(attribute.of(groups, data) for attribute in FIXED),
        tuple(attribute.of(groups, data) for attribute in FREE),
        (*(attribute.of(groups, data) for attribute in TIMES), *(indices if isinstance(indices, tuple) else ())),
    )


def _lookup(group: Dataset, source: str) -> Any:
    *sequences, keyword = source.split("/")
    for sequence in sequences:
        items = _value(group, sequence)
        if not items:
            return None
        group = items[0]
    values = [_value(group, name) for name in keyword.split("+")]
    return values[0] if len(values) == 1 else "".join(str(value) for value in values if value)


def _value(group: Dataset, keyword: str) -> Any:
    tag = _TAG_OF[keyword]
    try:
        return group[tag].value if tag in group else None
    except Exception:  # damaged in a way that does not matter here
        return None


def _typed(value: Any, missing: Value) -> Value:
    """Convert pydicom's value to a number, text or vector; a value of another type counts as missing."""
    values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    if value is None or not values:
        return missing
    if isinstance(missing, str):
        return "\\".join(str(item).strip() for item in values).upper()
    try:
        numbers = tuple(float(item) for item in values)
    except (TypeError, ValueError):
        return missing
    if not all(map(math.isfinite, numbers)):
        return missing
    if isinstance(missing, float):
        return numbers[0]
    return numbers if any(numbers) else missing

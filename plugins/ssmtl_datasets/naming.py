"""Which names stand for a label map, as in public data sets, and which words of a name identify the case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import PurePath
from typing import Literal


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SUFFIX = re.compile(r"(\.nii|\.hdr)?(\.gz)?$|\.[A-Za-z0-9]{1,5}$", re.IGNORECASE)
_VOLUME = re.compile(r"\.(nii|hdr|nrrd|mha)(\.gz)?$|\.(nhdr|mhd|mgh|mgz)$", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NUMBER = re.compile(r"\d*$")

_LABEL = _set(
    "label labels labelmap labelmaps lbl lbls seg segs segm dseg probseg aseg autoseg manualseg segmentation "
    "segmentations mask masks msk msks groundtruth annotation annotations annot parcellation parcellations aparc "
    "aparcaseg wmparc ribbon asegedit lesionsmooth"
)
"""Words anywhere in a file name; a number after them is ignored."""
_LAST = _set("roi rois contour contours manual reader rater annotator consensus truth")
"""Words that count only as the last one: elsewhere an ROI may be a place, and a reader anything."""
_ALONE = _set("wmh empty")
_COMPOUND = re.compile(r"(?!un|no)[a-z0-9]+(masks?|segmentations?|groundtruth|parcellations?|labelmaps?)|labelsfor\w+")
_IMAGE = re.compile(
    r"images?|imgs?|imaging|scans?|vol|volumes?|cta?|cbct|mr[ia]?|pet|t|t[12]\w{1,3}|flair|dwi|adc|bold"
)
_NEGATION = _set("no non not un with without")
_FREESURFER = _set("wm filled ctrl_pts")  # besides aseg.mgz and the like, which the words above recognise
_BIDS_OWN = re.compile(r"_(ses|acq|task|rec|run|dir|ce)-[^_]*")  # entities whose values are the site's own words

_FOLDER = _LABEL | _set("gt gts ground truth instances")
_PARTS = _set(
    "tr ts te tt va val train training test testing valid validation manual auto expert consensus map maps file files "
    "nii final"
)
_JOINED = re.compile(r"(labels?|masks?|segmentations?|annotations?|gts?)(tr|ts|te|tt|va|val|train|test)")
_DOUBTFUL = _set("seg segmentation segmentations roi rois contour contours parcellation")
_OF_IMAGES = _set("image images imagestr imagests imagesva imagesval img imgs volumes scans")
_IMAGE_FOLDERS = _set("image images img imgs volume volumes scan scans data dataset")


def stem(name: str) -> str:
    """Return the name of a file without its suffix (`.nii.gz` and the like as a whole)."""
    return _SUFFIX.sub("", name) or name


def is_volume(name: str) -> bool:
    """Whether the name of a file is that of a volume in a format that public data sets use."""
    return _VOLUME.search(name) is not None


def words(name: str) -> list[str]:
    """Return the words of a name in lower case, each without a number at its end; numbers alone become "".

    >>> words("p7_T1w-label0001")
    ['p', 't1w', 'label']
    """
    return [_NUMBER.sub("", word) for word in _WORD.findall(name.lower())]


def is_label_file(name: str) -> bool:
    """Whether a file is a label map by its name: `x_seg`, `label0001`, `sub-1_label-L_desc-lesion_mask`, `x_gt`."""
    base = stem(name)
    if base.lower().startswith("sub-"):
        base = _BIDS_OWN.sub("", f"_{base.partition('_')[2]}")
    tokens = [word for word in words(base) if word]
    if {"vsd", "ot"} <= set(tokens) or (name.lower().endswith(".mgz") and base.lower() in _FREESURFER):
        return True
    if not tokens:
        return False
    alone = len(tokens) == 1 and tokens[0] in _ALONE
    return alone or tokens[-1] in _LAST or any(_marks_label(tokens, i) for i in range(len(tokens)))


def _marks_label(tokens: Sequence[str], i: int) -> bool:
    """Whether word `i` of a name marks it as that of a label map."""
    word, before, after = tokens[i], tokens[i - 1] if i else "", tokens[i + 1 :]
    if word == "gt":  # or a patient's initials, as in GT_001_T1
        return not any(_IMAGE.fullmatch(other) for other in after)
    if word == "ground":
        return after[:1] == ["truth"]
    return before not in _NEGATION and (word in _LABEL or _COMPOUND.fullmatch(word) is not None)


Holds = Literal["labels", "perhaps", ""]
"""What a folder holds by its name."""


@cache
def label_folder(name: str) -> Holds:
    """What a folder holds by its name: `labelsTr`, `masks`, `Ground`, `ct_labels` hold label maps.

    `perhaps` is returned for names that may as well be those of a data set: `Lung_Segmentation`, `seg-lungs-LUNA16`,
    `ROI`.
    """
    low = name.lower()
    tokens = [word for word in words(_CAMEL.sub(" ", name)) if word and word not in _PARTS]
    if low.startswith("labels") or _JOINED.fullmatch(low) or (tokens and set(tokens) <= _FOLDER):
        return "labels"
    of_both = "and" in tokens and any(map(_IMAGE.fullmatch, tokens))
    if not tokens or {*tokens[:-1]} & (_NEGATION | _IMAGE_FOLDERS) or of_both:
        return ""
    last = tokens[-1]
    if last not in _DOUBTFUL and (last in _LABEL | {"gt", "gts"} or _COMPOUND.fullmatch(last)):
        return "labels"
    return "perhaps" if {tokens[0], last} & (_FOLDER | _DOUBTFUL) else ""


def tells_case(name: str) -> bool:
    """Whether a file name identifies a case across data sets, as `liver_12` does, but not `ct` or `12`."""
    return any(word and not _IMAGE.fullmatch(word) for word in words(stem(name))) or len(stem(name)) > 20


def is_image_folder(name: str) -> bool:
    """Whether a folder holds images by its name: `images`, `img`, `Volumes`."""
    return name.lower() in _OF_IMAGES


def is_nnunet_folder(name: str) -> bool:
    """Whether a folder is one of nnU-Net's, in which CASE_0000 is a channel of CASE."""
    return name.lower() in {"imagestr", "imagests", "imagesva", "imagesval"}


@cache
def case_key(name: str) -> tuple[str, ...]:
    """Return the words that identify the case of a scan or label map, without those for image and label.

    >>> case_key("label/label0001"), case_key("img/img0001_0000"), case_key("p7_t2_seg")
    (('0001',), ('0001',), ('p7', 't2'))
    """
    path = PurePath(name)
    key = [part.lower() for part in path.parts[:-1] if not (label_folder(part) or is_image_folder(part))]
    for word in _WORD.findall(re.sub(r"_0\d{3}$", "", path.name).lower()):
        plain = _NUMBER.sub("", word)
        generic = plain in _LABEL | _LAST | {"gt"} or plain in {"image", "img", "imaging", "volume", "vol", "scan"}
        key += [word[len(plain) :]] if generic and len(plain) < len(word) else [word] * (not generic)
    return tuple(key)

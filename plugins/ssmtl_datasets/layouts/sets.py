"""The public data sets that are recognised as downloaded; the first that fits a file counts.

To add one, add an entry: what its images and label maps are called, and the classes as published. Patterns are matched
against the end of paths without the file's suffix; `Published` explains the groups in them.
"""

from __future__ import annotations

from ssmtl_datasets import WHOLE_HEART
from ssmtl_datasets.layouts.published import Published

_CONTRAST = "(?P<contrast>(?i:t1|t1w|t1c|t1ce|t1gd|t1n|t2|t2w|t2f|t2star|flair|pd|pdw|dwi|adc|swi))"
_BIDS = (
    "T1w|T2w|T1rho|T2starw|T2star|T2starmap|FLAIR|FLASH|PD|PDw|PDmap|PDT2|inplaneT[12]|UNIT1|angio|MEGRE|MESE|VFA|IRT1|"
    "MP2RAGE|MPM|MTS|MTR|T1map|T2map|R[12]map|R2starmap|Chimap|bold|boldref|cbv|sbref|phase|dwi|asl|m0scan|ct|pet|"
    "phasediff|phase[12]|magnitude[12]?|fieldmap|epi"
)
_ONE_IMAGE = "(?i:cta?|mri?|image|img|imaging|scan|volume)"
_MASK_FOLDER = "(?i:segmentations?|masks?|structures)"
_CINE = "the whole cine, 4-D; channels={} uses it instead of the single frames"


def _in_order(names: str, separator: str = ", ") -> dict[str, int]:
    """Return classes with the values 1, 2, 3 …"""
    return {name: value for value, name in enumerate(names.split(separator), start=1)}


SETS: tuple[Published, ...] = (
    Published(
        "ACDC",
        "Bernard et al. 2018, https://www.creatis.insa-lyon.fr/Challenge/acdc/",
        images=r"(?P<patient>patient\d{3})_(?:(?P<scan>frame\d{2})|(?P<contrast>4d))",
        labels=r"(?P<patient>patient\d{3})_(?P<scan>frame\d{2})_gt",
        classes={"RV": 1, "myocardium": 2, "LV": 3},
        apart={"4d": _CINE.format("4d")},
    ),
    Published(
        "M&Ms-2",
        "Martín-Isla et al. 2023, https://www.ub.edu/mnms-2/",
        images=r"(?P<patient>\d{3})_(?:(?P<scan>[SL]A_E[DS])|(?P<contrast>[SL]A_CINE))",
        labels=r"(?P<patient>\d{3})_(?P<scan>[SL]A_E[DS])_gt",
        classes={"LV": 1, "myocardium": 2, "RV": 3},
        apart={"SA_CINE": _CINE.format("SA_CINE"), "LA_CINE": _CINE.format("LA_CINE")},
    ),
    Published(
        "M&Ms",
        "Campello et al. 2021, https://www.ub.edu/mnms/",
        images=r"(?P<patient>[A-Z0-9]{6})_sa(?:_(?P<scan>E[DS]))?",
        labels=r"(?P<patient>[A-Z0-9]{6})_sa(?:_(?P<scan>E[DS]))?_gt",
        classes={"LV": 1, "myocardium": 2, "RV": 3},
        by_labels=True,
    ),
    Published(
        "Sunnybrook Cardiac Data",
        "Radau et al. 2009, https://www.cardiacatlas.org/sunnybrook-cardiac-data/",
        images=r"(?P<patient>SCD\d{7})/(?P<scan>[^/]+)",
        folders=True,
    ),
    Published(
        "MM-WHS",
        "Zhuang et al. 2019, https://zmiclab.github.io/zxh/0/mmwhs/",
        images=r"(?P<patient>(?:ct|mr)_(?:train|test)_\d+)_image",
        labels=r"(?P<patient>(?:ct|mr)_(?:train|test)_\d+)_label",
        classes=WHOLE_HEART,
    ),
    Published(
        "BraTS-PED (2023 and later)",
        "Kazerooni et al. 2023, https://www.synapse.org/brats2023",
        images=r"(?P<patient>BraTS-PED-\d+)(?:-(?P<scan>\d{3}))?-(?P<contrast>t1n|t1c|t2w|t2f)",
        labels=r"(?P<patient>BraTS-PED-\d+)(?:-(?P<scan>\d{3}))?-seg",
    ),
    Published(
        "BraTS-MEN-RT (2024)",
        "LaBella et al. 2024, https://www.synapse.org/brats2024",
        images=r"(?P<patient>BraTS-MEN-RT-\d+)-(?P<scan>\d+)_(?P<contrast>t1n|t1c|t2w|t2f)",
        labels=r"(?P<patient>BraTS-MEN-RT-\d+)-(?P<scan>\d+)_gtv",
        classes={"tumour": 1},
    ),
    Published(
        "BraTS (2023 and later)",
        "Baid et al. 2021, https://www.synapse.org/brats2023",
        images=r"(?P<patient>BraTS-(?:[A-Za-z]+-)?[^-/]+)(?:-(?P<scan>\d{3}))?-(?P<contrast>t1n|t1c|t2w|t2f)",
        labels=r"(?P<patient>BraTS-(?:[A-Za-z]+-)?[^-/]+)(?:-(?P<scan>\d{3}))?-seg",
        classes={"necrotic core": 1, "oedema": 2, "enhancing tumour": 3, "resection cavity": 4},
    ),
    Published(
        "BraTS (2017 to 2021)",
        "Menze et al. 2015, Baid et al. 2021, https://www.med.upenn.edu/cbica/brats/",
        images=r"(?P<patient>B(?i:rats)(?:2021|20|19|18|17)_[^/]+)_(?P<contrast>t1|t1ce|t2|flair)",
        labels=r"(?P<patient>B(?i:rats)(?:2021|20|19|18|17)_[^/]+)(?:_seg|/W39_1998\.09\.19_Segm)",
        classes={"necrotic and non-enhancing core": 1, "oedema": 2, "enhancing tumour": 4},
    ),
    Published(
        "Virtual Skeleton Database (BraTS 2013 to 2015, ISLES 2015 to 2017)",
        "Menze et al. 2015; Maier et al. 2017, https://www.smir.ch",
        images=r"(?P<patient>[^/]+)/VSD\.Brain[^/]*\.O\.MR_(?P<contrast>\w+)\.\d+(?:/VSD\.[^/]+)",
        labels=r"(?P<patient>[^/]+)/VSD\.Brain[^/]*\.O\.OT\.\d+(?:/VSD\.[^/]+)",
        apart={"4DPWI": "a perfusion series, 4-D; channels=4DPWI uses it instead"},
    ),
    Published(
        "ISLES 2022",
        "Hernandez Petzsche et al. 2022, https://zenodo.org/records/7960856",
        images=r"(?P<patient>sub-strokecase\d+)_(?P<scan>ses-\d+)_(?P<contrast>dwi|adc|flair|FLAIR)",
        labels=r"(?P<patient>sub-strokecase\d+)_(?P<scan>ses-\d+)_msk",
        classes={"infarct": 1},
        on_grid=("dwi", "adc"),
    ),
    Published(
        "KiTS21, KiTS23",
        "Heller et al. 2023, https://kits-challenge.org",
        images=r"(?P<patient>case_\d{5})/imaging",
        labels=r"(?P<patient>case_\d{5})/(?:segmentation|aggregated_MAJ_seg)",
        has=r"case_\d{5}/(?:instances|segmentations|aggregated_MAJ_seg)",
        classes={"kidney": 1, "tumour": 2, "cyst": 3},
    ),
    Published(
        "KiTS19",
        "Heller et al. 2019, https://kits19.grand-challenge.org",
        images=r"(?P<patient>case_\d{5})/imaging",
        labels=r"(?P<patient>case_\d{5})/segmentation",
        classes={"kidney": 1, "tumour": 2},
    ),
    Published(
        "CT-ORG",
        "Rister et al. 2020, https://www.cancerimagingarchive.net/collection/ct-org/",
        images=r"volume-(?P<patient>\d+)",
        labels=r"labels-(?P<patient>\d+)",
        classes={"liver": 1, "bladder": 2, "lungs": 3, "kidneys": 4, "bone": 5, "brain": 6},
        by_labels=True,
    ),
    Published(
        "LiTS",
        "Bilic et al. 2023, https://competitions.codalab.org/competitions/17094",
        images=r"(?:volume-(?P<patient>\d+)|(?P<scan>test-volume-\d+))",
        labels=r"segmentation-(?P<patient>\d+)",
        classes={"liver": 1, "tumour": 2},
        by_labels=True,
    ),
    Published(
        "BTCV (Synapse, abdomen)",
        "Landman et al. 2015, https://www.synapse.org/Synapse:syn3193805",
        images=r"img(?P<patient>\d{4})(?:-(?P<scan>\d{4}))?",  # the second number: the one that it was registered to
        labels=r"label(?P<patient>\d{4})(?:-(?P<scan>\d{4}))?",
        classes=_in_order(
            "spleen, right kidney, left kidney, gallbladder, oesophagus, liver, stomach, aorta, inferior vena cava, "
            "portal and splenic veins, pancreas, right adrenal gland, left adrenal gland"
        ),
        by_labels=True,
    ),
    Published(
        "FLARE22",
        "Ma et al. 2023, https://flare22.grand-challenge.org",
        images=r"(?P<patient>FLARE22_Tr_\d{4})_(?P<contrast>0000)",
        labels=r"(?P<patient>FLARE22_Tr_\d{4})",
        classes=_in_order(
            "liver, right kidney, spleen, pancreas, aorta, inferior vena cava, right adrenal gland, "
            "left adrenal gland, gallbladder, oesophagus, stomach, duodenum, left kidney"
        ),
        by_labels=True,
    ),
    Published(
        "CHAOS, CT",
        "Kavur et al. 2021, https://chaos.grand-challenge.org",
        images=r"(?P<patient>CT/\d+)/DICOM_anon",
        masks=r"(?P<patient>CT/\d+)/(?P<structure>Ground)",
        folders=True,
        classes={"liver": 63},
        structures={"Ground": "liver"},
    ),
    Published(
        "CHAOS, MR",
        "Kavur et al. 2021, https://chaos.grand-challenge.org",
        images=r"(?P<patient>MR/\d+)/(?P<scan>T1DUAL|T2SPIR)/DICOM_anon(?:/(?P<contrast>InPhase|OutPhase))?",
        labels=r"(?P<patient>MR/\d+)/(?P<scan>T1DUAL|T2SPIR)/Ground",
        folders=True,
        classes={
            "liver": (63, *range(55, 63), *range(64, 71)),
            "right kidney": (126, *range(110, 126), *range(127, 136)),
            "left kidney": (189, *range(175, 189), *range(190, 201)),
            "spleen": (252, *range(240, 252), *range(253, 256)),
        },
    ),
    Published(
        "TotalSegmentator",
        "Wasserthal et al. 2023, https://zenodo.org/records/10047292",
        images=r"(?P<patient>s\d{4})/(?:ct|mri)",
        masks=r"(?P<patient>s\d{4})/segmentations/(?P<structure>[^/]+)",
    ),
    Published(
        "VerSe",
        "Sekuboyina et al. 2021, https://github.com/anjany/verse",
        images=r"(?P<patient>sub-[^_/]+)(?P<scan>(?:_(?:dir|split|ses|run)-[^_/]+)*)_ct",
        labels=r"(?P<patient>sub-[^_/]+)(?P<scan>(?:_(?:dir|split|ses|run)-[^_/]+)*)_seg-vert_msk",
        classes=_in_order("C1 C2 C3 C4 C5 C6 C7 T1 T2 T3 T4 T5 T6 T7 T8 T9 T10 T11 T12 L1 L2 L3 L4 L5 L6", " ")
        | {"sacrum": 26, "coccyx": 27, "T13": 28},
        by_labels=True,
    ),
    Published(
        "PROMISE12",
        "Litjens et al. 2014, https://promise12.grand-challenge.org",
        images=r"(?P<patient>Case\d{2})",
        labels=r"(?P<patient>Case\d{2})_segmentation",
        classes={"prostate": 1},
        by_labels=True,
    ),
    Published(
        "SPIDER",
        "van der Graaf et al. 2024, https://zenodo.org/records/10159290",
        images=r"images/(?P<patient>\d+)_(?P<contrast>t1|t2_SPACE|t2)",
        labels=r"masks/(?P<patient>\d+)_(?P<contrast>t1|t2_SPACE|t2)",
        classes={
            "vertebrae": tuple(range(1, 26)),
            "spinal canal": 100,
            "vertebrae in part": tuple(range(101, 126)),
            "discs": tuple(range(201, 226)),
        },
        by_labels=True,
    ),
    Published(
        "a folder for each patient, a mask for each structure",
        "TotalSegmentator and 3D Slicer write this",
        images=rf"(?P<patient>.+)/{_ONE_IMAGE}",
        masks=rf"(?P<patient>.+)/{_MASK_FOLDER}/(?P<structure>(?!{_ONE_IMAGE}$)[^/]+)",
        by_labels=True,
    ),
    Published(
        "a folder of images, a folder with a mask for each structure for each of them",
        "exports of many tools",
        images=r"(?i:images?|imgs?|scans|volumes)/(?P<patient>[^/]+)",
        masks=rf"(?:{_MASK_FOLDER}|(?i:labels?))/(?P<patient>[^/]+)/(?P<structure>(?!{_ONE_IMAGE}$)[^/]+)",
        by_labels=True,
    ),
    Published(
        "BIDS images",
        "Gorgolewski et al. 2016, https://bids.neuroimaging.io; bids:ROOT,suffix=… pairs label maps, too",
        images=rf"(?P<patient>sub-[^_/]+)(?P<scan>(?:_[a-z]+-[^_/]+)*)_(?P<contrast>{_BIDS})",
        copies="(?:^|/)(?:derivatives|sourcedata)/",
    ),
    Published(
        "a folder for each patient, a file for each contrast",
        "a common way to keep the contrasts of a head",
        images=rf"(?P<patient>(?:.*/)?(?P<folder>[^/]+))/(?:(?P=folder)[-_.]?)?{_CONTRAST}",
        labels=r"(?P<patient>(?:.*/)?(?P<folder>[^/]+))/(?:(?P=folder)[-_.]?)?(?i:seg|segmentation|label|mask)",
        together=True,
    ),
)

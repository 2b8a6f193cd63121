"""Bundled datasets: a folder of scans, a table, the embedded phantom, MM-WHS as downloaded, BIDS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ssmtl_datasets.channels import Channel, Choice
from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import DatasetSpec, Scan

if TYPE_CHECKING:
    from ssmtl_datasets.bids import LabelMaps
    from ssmtl_datasets.layouts import Layout
    from ssmtl_toolkit.data.readers import Readers


_OUTSIDE = "Take files outside of the folder of a manifest or dataset.json too (--allow-outside)."


class Folder(DatasetSpec):
    """A file, or all scans below a folder; with labels from `images` + `labels`, Decathlon and nnU-Net folders.

    Public data sets are recognised as downloaded (docs/formats.md lists them), and so are a dataset.json or data list
    of the Decathlon, nnU-Net or MONAI. If there is a folder `images` (or `imagesTr`), its scans with the label maps of
    the same names in `labels` (`labelsTr`, `masks`, …). A .csv or .toml file is a manifest. Label maps are recognised
    by their names and skipped.
    """

    name: ClassVar[str] = "folder"
    positional: ClassVar[str | None] = "root"

    root: Path = Field(description="File or folder.")
    channel: Channel = Field(
        0, description="Channel of nnU-Net cases to use (CASE_0000.nii.gz, …); all: join them as one scan."
    )
    channels: str | None = Field(
        "",
        description="Join these contrasts as channels: t1n+t2f by words of file names, 0+2 by numbers, or all; none: "
        "each file is a scan of its own.",
    )
    public: bool = Field(True, description="Recognise public data sets as downloaded; no: use the general rules.")
    outside: bool = Field(False, description=_OUTSIDE)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.channels != "" and self.channel != 0:
            raise ValueError("both `channel` and `channels` are given; give one of them")
        if self.channels and not all(self.channels.split("+")):
            raise ValueError(f"`channels` is {self.channels!r}; expected names with + between them, as in t1+flair")
        return self

    def scans(self, cache: Path, readers: Readers) -> list[Scan]:
        from ssmtl_datasets.manifest import list_manifest

        if self._is_manifest():
            return list_manifest(self.root, outside=self.outside)
        scans = self._layout().scans(readers, self._choice())
        return [replace(scan, contrasts=()) for scan in scans] if self.channels is None else scans

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        from ssmtl_datasets.manifest import classes_of

        return classes_of(self.root) if self._is_manifest() else self._layout().classes()

    def ignored(self) -> int | None:
        return None if self._is_manifest() else self._layout().ignored()

    def layout(self) -> str:
        from ssmtl_datasets.manifest import words

        return words(self.root) if self._is_manifest() else self._layout().words(self._choice())

    def remarks(self, scans: Sequence[Scan]) -> Sequence[str]:
        from ssmtl_datasets.overlooked import overlooked

        return overlooked(self.root, scans) if self.root.is_dir() else ()

    def with_contrasts(self, contrasts: Sequence[str]) -> Self:
        if self.channels != "" or self.channel != 0 or self.root.is_file():
            return self
        return self.model_copy(update={"channels": "+".join(contrasts)})

    def _layout(self) -> Layout:
        from ssmtl_datasets.layouts import recognise

        return recognise(self.root, public=self.public, outside=self.outside)

    def _choice(self) -> Choice:
        if self.channels == "all":
            return Choice("all")
        return Choice(self.channel, tuple(self.channels.split("+")) if self.channels else ())

    def _is_manifest(self) -> bool:
        return self.root.suffix.lower() in (".csv", ".toml") and not self.root.is_dir()


class Manifest(DatasetSpec):
    """Scans listed in a CSV or TOML file: image and, optionally, label, patient, modality, annotated slices and name.

    For scans with several channels in separate files, `image` is the first, and image_2, image_3 … are the others (in
    TOML `image` may be a list).
    """

    name: ClassVar[str] = "manifest"
    positional: ClassVar[str | None] = "file"

    file: Path = Field(description="A .csv file (a header, then a line per scan) or .toml file ([[scan]] tables).")
    outside: bool = Field(False, description=_OUTSIDE)

    def scans(self, cache: Path, readers: Readers) -> list[Scan]:
        from ssmtl_datasets.manifest import list_manifest

        return list_manifest(self.file, outside=self.outside)

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        from ssmtl_datasets.manifest import classes_of

        return classes_of(self.file)

    def layout(self) -> str:
        from ssmtl_datasets.manifest import words

        return words(self.file)


class Phantom(DatasetSpec):
    """Synthetic chest CT or cardiac MRI volumes with the seven MM-WHS structures; nothing is downloaded."""

    name: ClassVar[str] = "phantom"

    patients: int = Field(20, ge=1, le=9999, description="Number of patients.")
    modality: Literal["ct", "mri"] = Field("ct", description="Chest CT (axial) or cardiac MRI (sagittal).")
    seed: int = Field(0, ge=0, description="Another seed gives other patients.")

    def scans(self, cache: Path, readers: Readers) -> list[Scan]:
        from ssmtl_datasets.phantom import REVISION

        folder = cache / "phantom" / f"{REVISION}-{self.modality}-{self.seed}-{self.patients}"
        labels = folder / "labels"
        return [
            Scan(
                file,
                file.name.partition(".")[0],
                file.name.partition(".")[0],
                self.modality,
                labels / file.name,
            )
            for file in self.write(folder)
        ]

    def write(self, out: Path) -> list[Path]:
        """Write the volumes to `out/images` and their labels to `out/labels`; existing files are kept."""
        from ssmtl_datasets.phantom import write_phantom

        return write_phantom(out, self.patients, self.modality, self.seed)

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        return WHOLE_HEART

    def suggested(self) -> Mapping[str, Any]:
        return {"size": 64, "epochs": 3}


class MmWhs(DatasetSpec):
    """The MM-WHS challenge as downloaded: `ct_train_1001_image.nii.gz`, `…_label.nii.gz`, in any folders."""

    name: ClassVar[str] = "mmwhs"
    positional: ClassVar[str | None] = "root"

    root: Path = Field(description="Folder with the files, or one above it.")
    modality: Literal["ct", "mr"] = Field("ct", description="Which of the two sets to use.")
    acquired: Literal["any", "axial", "coronal", "sagittal"] = Field(
        "any", description="Skip scans acquired along another axis (the paper: sagittal, 14 of the MR scans)."
    )
    test: bool = Field(False, description="Include the unlabelled test scans (the paper: the 20 training scans only).")

    def scans(self, cache: Path, readers: Readers) -> list[Scan]:
        from ssmtl_datasets.mmwhs import list_mmwhs, unless_acquired

        scans = list_mmwhs(self.root, self.modality, self.test, readers)
        return scans if self.acquired == "any" else [unless_acquired(scan, self.acquired) for scan in scans]

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        return WHOLE_HEART

    def layout(self) -> str:
        return f"MM-WHS, {self.modality}"

    def suggested(self) -> Mapping[str, Any]:
        ct = {"axis": "axial", "size": 256, "epochs": 100}
        return ct if self.modality == "ct" else {"axis": "sagittal", "size": 256, "epochs": 400}


class Bids(DatasetSpec):
    """A BIDS data set: images by the suffix of their names, patients by `sub-`, label maps of derivatives."""

    name: ClassVar[str] = "bids"
    positional: ClassVar[str | None] = "root"

    root: Path = Field(description="Folder with sub-01 and so on.")
    suffix: str = Field(
        "T1w",
        pattern=r"^[^+]+(\+[^+]+)*$",
        description="Suffix of the images: T1w, T2w, FLAIR, bold, …; T1w+FLAIR joins both as channels.",
    )
    datatype: str = Field("", pattern=r"^[A-Za-z0-9]*$", description="Only images in anat, func, dwi, …; default: all.")
    labels: str | None = Field(
        "", pattern=r"^[^/.][^/]*$|^$", description="Folder of derivatives with the label maps; none: no label maps."
    )
    desc: str = Field("", pattern=r"^[A-Za-z0-9+]*$", description="Choose among several label maps by desc-….")
    seg: str = Field("", pattern=r"^[A-Za-z0-9+]*$", description="Choose among several label maps by seg-….")
    maps: str = Field(
        "",
        pattern=r"^[A-Za-z0-9+_-]*$",
        description="Ending of label map names: label-SC_seg, mask, …; default: dseg, or the only one that exists.",
    )

    def scans(self, cache: Path, readers: Readers) -> list[Scan]:
        from ssmtl_datasets.bids import list_bids

        return list_bids(self.root, self.suffix.split("+"), self.datatype, self._label_maps(), readers)

    def layout(self) -> str:
        from ssmtl_datasets.bids import words

        return words(self.root, self.suffix)

    def with_contrasts(self, contrasts: Sequence[str]) -> Self:
        if "suffix" in self.model_fields_set:
            return self
        return self.model_copy(update={"suffix": "+".join(contrasts)})

    def classes(self) -> Mapping[str, tuple[int, ...]]:
        from ssmtl_datasets.bids import classes_of

        return classes_of(self.root, self._label_maps())

    def _label_maps(self) -> LabelMaps | None:
        from ssmtl_datasets.bids import LabelMaps

        return None if self.labels is None else LabelMaps(self.labels, {"desc": self.desc, "seg": self.seg}, self.maps)


WHOLE_HEART: Mapping[str, tuple[int, ...]] = {
    "LV": (500,),
    "RV": (600,),
    "LA": (420, 421),  # 421 occurs in one published file and means 420
    "RA": (550,),
    "myocardium": (205,),
    "aorta": (820,),
    "PA": (850,),
}
"""The label values of MM-WHS: blood cavities of ventricles and atria, myocardium, ascending aorta, pulmonary artery."""


@hookimpl
def ssmtl_datasets() -> list[type[DatasetSpec]]:
    return [Folder, Manifest, Phantom, MmWhs, Bids]

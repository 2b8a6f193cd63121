"""Bundled datasets: a folder of scans, the embedded phantom, and MM-WHS as downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from ssmtl_toolkit.hookspecs import hookimpl
from ssmtl_toolkit.specs import DatasetSpec, ReadableTest, Scan


class Folder(DatasetSpec):
    """A file, or all scans below a folder; where it has a folder `images` (or `imagesTr`), those in there."""

    name: ClassVar[str] = "folder"
    positional: ClassVar[str | None] = "root"

    root: Path = Field(description="The file or folder.")

    def scans(self, cache: Path, readable: ReadableTest) -> list[Scan]:
        from ssmtl_datasets.folder import list_scans

        return list_scans(self.root, readable)


class Phantom(DatasetSpec):
    """Made-up chest CT or cardiac MRI volumes with the seven MM-WHS structures; nothing is downloaded."""

    name: ClassVar[str] = "phantom"

    patients: int = Field(20, ge=1, le=9999, description="How many patients.")
    modality: Literal["ct", "mri"] = Field("ct", description="Chest CT (axial) or cardiac MRI (sagittal).")
    seed: int = Field(0, ge=0, description="Another seed, other patients.")

    def scans(self, cache: Path, readable: ReadableTest) -> list[Scan]:
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
        """Write the volumes to `out/images` and their labels to `out/labels`; files that are there stay."""
        from ssmtl_datasets.phantom import write_phantom

        return write_phantom(out, self.patients, self.modality, self.seed)

    def suggested(self) -> Mapping[str, Any]:
        return {"size": 64, "epochs": 3}


class MmWhs(DatasetSpec):
    """The MM-WHS challenge as downloaded: `ct_train_1001_image.nii.gz`, `…_label.nii.gz`, in any folders."""

    name: ClassVar[str] = "mmwhs"
    positional: ClassVar[str | None] = "root"

    root: Path = Field(description="The folder with the files, or above it.")
    modality: Literal["ct", "mr"] = Field("ct", description="Which of the two sets.")
    test: bool = Field(False, description="Take the unlabelled test scans too (the paper: the 20 training scans).")

    def scans(self, cache: Path, readable: ReadableTest) -> list[Scan]:
        from ssmtl_datasets.folder import list_mmwhs

        return list_mmwhs(self.root, self.modality, self.test, readable)

    def suggested(self) -> Mapping[str, Any]:
        ct = {"axis": "axial", "size": 256, "epochs": 100}
        return ct if self.modality == "ct" else {"axis": "sagittal", "size": 256, "epochs": 400}


@hookimpl
def ssmtl_datasets() -> list[type[DatasetSpec]]:
    return [Folder, Phantom, MmWhs]

"""The dataset.json of a folder, or a data list such as MONAI's: what it says of channels and classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmtl_datasets.channels import Choice
from ssmtl_toolkit.documents import read_json
from ssmtl_toolkit.errors import DataError
from ssmtl_toolkit.text import did_you_mean, printable

_FILE = "dataset.json"
_SPLIT = re.compile(r"(train(ing)?|val(id|idation)?|test(ing)?)(_?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Description:
    """A file of JSON that describes the scans in its folder."""

    file: Path
    document: Mapping[str, Any]

    @classmethod
    def of(cls, root: Path) -> Description | None:
        """Read root/dataset.json, the only root/dataset_….json, or `root` itself; None if it describes no scans.

        Raises:
            DataError: it cannot be read as JSON, or `root` itself describes no scans.
        """
        file = root if root.is_file() else _file(root)
        if file is None or file.suffix.lower() != ".json":
            return None
        document = _read(file)
        if isinstance(document, dict) and _is_ours(document):
            return cls(file, document)
        if file == root:
            raise DataError(
                f"{printable(file)}: lists no scans; expected `training`: [{{'image': …, 'label': …}}] as in MONAI, "
                f"the Decathlon and nnU-Net, or a manifest (.csv, .toml)"
            )
        return None

    @property
    def root(self) -> Path:
        """The folder that it describes."""
        return self.file.parent

    @property
    def where(self) -> str:
        """The file, for messages."""
        return printable(self.file)

    @property
    def raw(self) -> bool:
        """Whether it is nnU-Net v2, which finds scans by their names."""
        return "file_ending" in self.document and "training" not in self.document

    @property
    def channels(self) -> dict[int, str]:
        """The channels that every case has, by number; empty if it does not say."""
        known = self.document.get("channel_names") or self.document.get("modality")
        if not isinstance(known, dict):
            return {}
        return {int(key): printable(str(name)) for key, name in known.items() if key.isdecimal()}

    def numbers(self, choice: Choice) -> tuple[int, ...]:
        """The channels that are chosen, by number; (): all of them.

        Raises:
            DataError: there is none of such a name.
        """
        if choice.numbers is not None:
            return choice.numbers
        known = {name.casefold(): number for number, name in self.channels.items()}
        if unknown := [name for name in choice.contrasts if name.casefold() not in known]:
            names = ", ".join(f"{number} {name}" for number, name in self.channels.items()) or "none"
            hint = did_you_mean(unknown[0], self.channels.values())
            raise DataError(f"{self.where}: has no channel {printable(unknown[0])!r}{hint} (known: {names})")
        return tuple(known[name.casefold()] for name in choice.contrasts)

    def modality(self, numbers: tuple[int, ...]) -> str:
        """What these channels are."""
        known = self.channels
        if len(numbers) == 1 and numbers[0] not in known:
            return next(iter(known.values()), "")
        return "+".join(known[number] for number in numbers or known if number in known)

    def classes(self) -> dict[str, tuple[int, ...]]:
        """Return class name -> its values, without background; Decathlon writes value: name, nnU-Net name: value.

        nnU-Net's regions are classes of several values, which may overlap. Of those that no other region tells apart,
        the one in its `regions_class_order` comes first: it is what predictions write. nnU-Net's `ignore` is no class.

        Raises:
            DataError: the labels do not have these forms.
        """
        return {name: values for name, values in self._labels().items() if set(values) != {0} and name != "ignore"}

    def ignored(self) -> int | None:
        """Return the value of nnU-Net's label `ignore`: not annotated."""
        values = self._labels().get("ignore")
        return values[0] if values else None

    def _labels(self) -> dict[str, tuple[int, ...]]:
        labels = self.document.get("labels", {})
        if not isinstance(labels, dict):
            raise DataError(f"{self.where}: its `labels` are {labels!r}; expected a table such as {{'1': 'liver'}}")
        order = self.document.get("regions_class_order")
        first = order if isinstance(order, list) else []
        classes: dict[str, tuple[int, ...]] = {}
        for key, value in labels.items():
            name, numbers = (key, value) if isinstance(value, int | list) else (value, key)
            try:
                values = [int(number) for number in (numbers if isinstance(numbers, list) else [numbers])]
            except (TypeError, ValueError, OverflowError):
                shown = printable(f"{key!r:.100}: {value!r:.100}")
                raise DataError(f"{self.where}: label {shown} has no integer value; fix it") from None
            classes[str(name)] = tuple(sorted(values, key=lambda number: number not in first))
        return classes

    def words(self, numbers: tuple[int, ...]) -> str:
        """What the folder was taken for: which tool writes such a file, and how many channels there are."""
        table = is_table(self.document.get("dataset"))
        if "file_ending" in self.document or table:
            tool = "nnU-Net v2"
        elif "tensorImageSize" in self.document or "modality" in self.document:
            tool = "Decathlon or nnU-Net v1"
        else:
            tool = "data list of MONAI"
        count = len(self.channels)
        if count < 2:
            return tool
        used = "+".join(map(str, numbers)) if numbers else "all"
        return f"{tool}, {count} channels ({', '.join(self.channels.values())}; {used} used)"


def is_table(value: Any) -> bool:
    """Whether this is nnU-Net's table of cases, {case: {"images": […], "label": …}}."""
    return isinstance(value, dict) and any(isinstance(item, dict) and "images" in item for item in value.values())


def is_list(part: str, value: Any) -> bool:
    """Whether this is a list of scans: the Decathlon's `training` or `test`, or a similar one, as in MONAI."""
    items = value if isinstance(value, list) else []
    return part == "training" or any(isinstance(item, dict) and "image" in item for item in items)


def is_split(part: str) -> bool:
    """Whether a key is called like a part of the data: `validation`, `test_0`."""
    return _SPLIT.fullmatch(part) is not None


def _file(root: Path) -> Path | None:
    if (root / _FILE).is_file():
        return root / _FILE
    others = sorted(root.glob("dataset_*.json")) if root.is_dir() else []
    return others[0] if len(others) == 1 else None


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{printable(file)}: cannot be read as JSON ({error}); fix it, or move it away") from None


def _is_ours(document: Mapping[str, Any]) -> bool:
    lists = (is_split(part) and is_list(part, value) for part, value in document.items() if part != "test")
    return "training" in document or "file_ending" in document or is_table(document.get("dataset")) or any(lists)

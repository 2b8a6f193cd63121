"""The models that predict together: which they are, whether they belong together, and what identifies them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmtl_toolkit.config import FinetuneConfig
from ssmtl_toolkit.data.classes import Classes
from ssmtl_toolkit.data.folds import Folds
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.downstream.largest import by_most
from ssmtl_toolkit.downstream.model import TODO, Downstream, Flip, ModelSpec
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.about import Model
from ssmtl_toolkit.runtime.fetching import fetched
from ssmtl_toolkit.runtime.folder import FINETUNE, FOLD, FOLDS, MODEL
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.runtime.usage import Usage
from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.text import did_you_mean, listed, printable, read_options, split

_ARMS = ("pretrained", "scratch")
_REPETITION = re.compile(rf"({'|'.join(_ARMS)})-(0|[1-9][0-9]*)")
_FOLD = re.compile(FOLD.format("(0|[1-9][0-9]*)"))
_AGREE = ("head", "backbone", "slicing", "classes", "channels")
_FLIPS: Mapping[Any, frozenset[Flip]] = {
    "lr": frozenset({"lr"}),
    "ud": frozenset({"ud"}),
    "both": frozenset({"lr", "ud"}),
}
_SHOWN = 10


@dataclass(frozen=True)
class Member:
    """A model's file.

    Attributes:
        digest: of its weights and metadata.
        flips: that it was trained with.
        largest: classes whose largest part alone was better on its validation scans; None without such scans.
    """

    file: Path
    digest: str
    flips: frozenset[Flip] = frozenset()
    largest: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """The repetition that it comes from, such as `pretrained-0` or `fold-1/pretrained-0`; else the file's name."""
        if self.file.name != MODEL:
            return self.file.name
        place = self.file.absolute().parent
        return f"{place.parent.name}/{place.name}" if _FOLD.fullmatch(place.parent.name) else place.name

    def to_json(self) -> dict[str, str]:
        """What reports say of it."""
        return {"name": self.name, "digest": self.digest}


@dataclass(frozen=True)
class Ensemble:
    """One model, or several that differ in their weights alone.

    Attributes:
        source: the file of the one model, or the folder of the fine-tuning.
        members: where they come from, in the order of `models`.
        usage: how the first is used, as its file says it.
    """

    source: Path
    model_spec: ModelSpec
    members: Sequence[Member]
    models: Sequence[Downstream]
    usage: Usage

    @classmethod
    def open(cls, source: Path, progress: Progress, classes: Sequence[type[Spec]] = ()) -> Ensemble:
        """Read the models of a fine-tuning, or the one of a repetition or file.

        `classes` of specs are known beside those of plugins.

        Raises:
            UsageError: there is none, or they do not belong together.
            DataError: one cannot be read.
        """
        source = fetched(source)
        files = model_files(source)
        members, specs, models, usages = [], list[ModelSpec](), [], []
        for file in files:
            read = weights.read(file, TODO)
            model_spec, model = ModelSpec.restore(read, classes)
            about = read.about(Model)
            members.append(Member(file, read.digest, flips_of(about.augment), about.largest_component))
            usages.append(about.usage or model_spec.usage())
            specs.append(model_spec)
            models.append(model)
            _check_agree(source, members, specs)
        if missing := _unfinished(source, files):
            progress.note(
                f"{printable(source)}: {listed(missing, _SHOWN)} of this fine-tuning {_are(missing)} not finished, and "
                f"not used; finish with ssmtl finetune --resume {printable(source)}"
            )
        return cls(files[0] if len(files) == 1 else source, specs[0], members, models, usages[0])

    @property
    def digest(self) -> str:
        """That of the one model; of several that of their digests, in order."""
        return digest_of([member.digest for member in self.members])

    @property
    def largest(self) -> list[str] | None:
        """Classes whose largest part alone is better, as more than half of the models say; None: they do not know."""
        said = [member.largest for member in self.members if member.largest is not None]
        return by_most(said) if said else None

    @property
    def words(self) -> str:
        """Which models predict."""
        if len(self.members) == 1:
            return f"model     {printable(self.source)}"
        names = listed((printable(member.name) for member in self.members), _SHOWN)
        mean = "images" if self.model_spec.classes is None else "probabilities"
        return f"models    {names} of {printable(self.source)}: the mean of their {mean}"

    def flips(self) -> frozenset[Flip]:
        """The flips that all of the models were trained with.

        Raises:
            UsageError: one was not trained with flips, or they were trained with different ones.
        """
        for member in self.members:
            if not member.flips:
                raise UsageError(
                    f"--tta flips: {printable(member.file)} was trained without flips, and mirrored slices would make "
                    f"its predictions worse (by 0.2 to 0.35 mIoU where it was measured); omit it, or train with flips"
                )
            if member.flips != self.members[0].flips:
                names = " and ".join(printable(other.name) for other in (self.members[0], member))
                raise UsageError(f"--tta flips: {names} were trained with different flips; give one of them (--from)")
        return self.members[0].flips


def digest_of(digests: Sequence[str]) -> str:
    """What identifies models that predict together."""
    return digests[0] if len(digests) == 1 else hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def model_files(source: Path) -> list[Path]:
    """Find the models to predict with: of a fine-tuning all with pre-training, or, without any, those from scratch.

    Those of a cross-validation are those of all folds. `source` may also be the folder of one repetition, or a file.

    Raises:
        UsageError: there is none.
    """
    if source.is_file():
        return [source]
    if (source / MODEL).is_file():
        return [source / MODEL]
    finished = {place: _finished(place) for place in _places(source)}
    for arm in _ARMS:
        files = [place / f"{arm}-{n}" / MODEL for place, numbers in finished.items() for n in sorted(numbers[arm])]
        if files:
            return files
    raise UsageError(f"{printable(source)}: {_why_none(source)}; give the run folder of ssmtl finetune (--from)")


def _places(source: Path) -> list[Path]:
    """The folders of the folds of a cross-validation, of which some may be missing; else `source` itself."""
    if not (source / FOLDS).is_file():
        return [source]
    return [source / FOLD.format(number) for number in range(len(Folds.read(source / FOLDS).folds))]


def _finished(folder: Path) -> dict[str, list[int]]:
    """The numbers of the repetitions of each arm that have a model."""
    names = (_REPETITION.fullmatch(file.parent.name) for file in folder.glob(f"*/{MODEL}"))
    numbers: dict[str, list[int]] = {arm: [] for arm in _ARMS}
    for name in filter(None, names):
        numbers[name[1]].append(int(name[2]))
    return numbers


def _why_none(source: Path) -> str:
    if source.is_dir():
        unfinished = (source / FINETUNE).is_file() or (source.parent / FINETUNE).is_file()
        return "its fine-tuning is not finished" if unfinished else "holds no fine-tuned model"
    siblings = [f"{arm}-{number}" for arm, numbers in _finished(source.parent).items() for number in sorted(numbers)]
    others = f" ({printable(source.parent)} has {listed(siblings, _SHOWN)})" if siblings else ""
    return f"no such file or folder{did_you_mean(source.name, siblings)}{others}"


def _unfinished(source: Path, files: Sequence[Path]) -> list[str]:
    """The names of the repetitions of this arm that finetune.toml asks for and that have no model yet."""
    found = _REPETITION.fullmatch(files[0].parent.name)
    if found is None or not (source / FINETUNE).is_file():
        return []
    with contextlib.suppress(UsageError, TypeError):  # a damaged one does not keep the models from being used
        options = FinetuneConfig.read(source / FINETUNE)
        first, number = (options.get(key, FinetuneConfig.model_fields[key].default) for key in ("seed", "seeds"))
        wanted = [place / f"{found[1]}-{first + i}" / MODEL for place in _places(source) for i in range(number)]
        return [Member(file, "").name for file in wanted if file not in files]
    return []


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _check_agree(source: Path, members: Sequence[Member], specs: Sequence[ModelSpec]) -> None:
    """Refuse the last of several models if it differs from the first in more than its weights, or is one of the others.

    Raises:
        UsageError: naming both, and in what they differ.
    """
    first, last = members[0], members[-1]
    names = f"{printable(source)}: {printable(first.name)} and {printable(last.name)}"
    differences = [
        f"{name} {_text(getattr(specs[0], name))} and {_text(getattr(specs[-1], name))}"
        for name in _AGREE
        if getattr(specs[0], name) != getattr(specs[-1], name)
    ]
    if differences:
        raise UsageError(
            f"{names} do not belong together: they differ in {'; '.join(differences)}; give one of them (--from)"
        )
    copies = [member.name for member in members[:-1] if member.digest == last.digest]
    if copies:
        raise UsageError(
            f"{printable(source)}: {printable(last.name)} is a copy of {printable(copies[0])} and would count twice; "
            f"remove it, or give one of them (--from)"
        )


def _text(value: Any) -> str:
    """Print what models can differ in."""
    if isinstance(value, Slicing):
        return repr(value.model_dump())
    if isinstance(value, Classes):
        return json.dumps(value.to_json())
    return repr(str(value))


def flips_of(augment: Sequence[str]) -> frozenset[Flip]:
    """The flips among the specs of augmentations; none of a text that does not say which."""
    flips: frozenset[Flip] = frozenset()
    for text in augment:
        name, options = split(text)
        with contextlib.suppress(UsageError):
            positional, named = read_options(options)
            if name == "flip":
                flips |= _FLIPS.get(str(named.get("axes", positional[0] if positional else "")), frozenset())
    return flips

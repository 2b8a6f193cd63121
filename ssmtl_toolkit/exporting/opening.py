"""What is exported: the weights of a run folder or file, with all that is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmtl_toolkit.downstream.loading import LoadedBackbone, LoadedModel, load_backbone, load_model
from ssmtl_toolkit.engine.export import Exported
from ssmtl_toolkit.errors import UsageError
from ssmtl_toolkit.exporting.card import card
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.fetching import fetched
from ssmtl_toolkit.runtime.folder import BACKBONE, BEST
from ssmtl_toolkit.runtime.progress import Progress
from ssmtl_toolkit.specs import Spec
from ssmtl_toolkit.text import printable

_TODO = "give the run folder of ssmtl run or ssmtl finetune"


def opened(source: Path, spec: type[Spec] | Sequence[type[Spec]], progress: Progress) -> Exported:
    """Read the weights of a run folder or file.

    Raises:
        UsageError: there are none, or those of several repetitions.
        DataError: they cannot be used.
    """
    source = fetched(source)
    if not source.exists():
        raise UsageError(f"{printable(source)}: no such file or folder; {_TODO}")
    if _is_backbone(source):
        backbone = load_backbone(source, spec=spec)
        return _exported(backbone, backbone.file)
    model = load_model(source, spec=spec, progress=progress)
    if len(model.models) > 1:
        raise UsageError(
            f"{printable(source)}: has {len(model.models)} models, which predict together, and one can be exported; "
            f"give it, such as {printable(model.members[0].file.parent)}"
        )
    return _exported(model, model.source)


def _is_backbone(source: Path) -> bool:
    if source.is_dir():
        return any((source / name).is_file() for name in (BACKBONE, BEST))
    return "head" not in weights.read(source, _TODO).said()


def _exported(loaded: LoadedBackbone | LoadedModel, file: Path) -> Exported:
    read = weights.read(file, _TODO)
    about = read.said()
    if not about:
        raise UsageError(f"{printable(file)}: was not written by ssmtl_toolkit; {_TODO}")
    model = None if isinstance(loaded, LoadedBackbone) else loaded.models[0]
    backbone = loaded.backbone if isinstance(loaded, LoadedBackbone) else loaded.models[0].backbone

    def save(target: Path, digests: bool) -> None:
        weights.write(target, read.tensors, about if digests else _without_digests(about))

    return Exported(
        spec=loaded.spec if isinstance(loaded, LoadedBackbone) else loaded.model_spec.backbone,
        backbone=backbone,  # type: ignore[arg-type]
        head=model and model.head,  # type: ignore[arg-type]
        module=(model or loaded).eval(),
        about=about,
        usage=loaded.usage.model_dump(mode="json"),
        card=card(file, about, loaded.usage),
        folder=file.parent,
        save=save,
    )


def _without_digests(about: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata by which nobody who has a scan can tell that it was used."""
    kept: dict[str, Any] = {}
    for name, value in about.items():
        if isinstance(value, Mapping):
            kept[name] = _without_digests(value)
        else:
            kept[name] = [] if name == "digests" else value
    return kept

"""Pre-trained weights into a network, with a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ssmtl_toolkit.data.files import digest
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.engine.backbone import Backbone
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.features import PARTS, Part
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime import weights
from ssmtl_toolkit.runtime.about import Model, Pretraining, restored_slicing
from ssmtl_toolkit.runtime.external import PICKLED, place, read_tensors
from ssmtl_toolkit.runtime.fetching import fetched
from ssmtl_toolkit.runtime.fingerprint import difference, fingerprint
from ssmtl_toolkit.runtime.folder import BACKBONE, chosen_weights
from ssmtl_toolkit.runtime.transfer_report import TransferReport
from ssmtl_toolkit.runtime.usage import Usage
from ssmtl_toolkit.specs import BackboneSpec, Spec
from ssmtl_toolkit.text import listed, printable, shortened

_SAME = 1e-3  # largest relative difference of a fingerprint; other builds and machines stay below 1e-5


@dataclass(frozen=True)
class Pretrained:
    """A file of backbone weights and its metadata (empty if it is not ours).

    It is a pre-training, a fine-tuned model (its head is kept apart), or a file from elsewhere, whose tensors get the
    backbone's names when they are loaded.

    Attributes:
        wanted: the parts to load.
        classes: of specs, known beside those of plugins.
        prefix: what stands before the names in a file from elsewhere; None: it is found.
        head: tensors of the head of a fine-tuned model.
    """

    file: Path
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]
    wanted: Sequence[Part] = tuple(PARTS)
    classes: Sequence[type[Spec]] = ()
    prefix: str | None = None
    head: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def open(cls, source: Path, classes: Sequence[type[Spec]] = (), prefix: str | None = None) -> Pretrained:
        """Read the weights of a run folder, of a fine-tuned model, or of any file of tensors.

        A run with a probe has two: the best by the probe is taken. `hf://USER/NAME` is fetched.

        Raises:
            UsageError: there is none.
            DataError: the file is damaged or holds no tensors.
        """
        source = fetched(source)
        file = chosen_weights(source) if source.is_dir() else source
        if not file.is_file():
            what = "holds no pre-trained backbone" if source.is_dir() else "no such file or folder"
            raise UsageError(f"{printable(source)}: {what}; give the folder of an ssmtl run (--from)")
        if file.suffix in PICKLED:
            return cls(file, read_tensors(file), {}, classes=classes, prefix=prefix)
        content = weights.read(file, "give the backbone.safetensors of a run")
        about = content.said()
        if about and prefix is not None:
            raise UsageError(f"--prefix {prefix}: {printable(file)} was written by ssmtl_toolkit; omit it")
        if "head" in about:
            content.about(Model)
            inner = {part: _below(f"{part}.", content.tensors) for part in ("backbone", "head")}
            return cls(file, inner["backbone"], about, classes=classes, head=inner["head"])
        if content.text:
            content.about(Pretraining)
        return cls(file, content.tensors, about, classes=classes, prefix=prefix)

    def spec(self) -> BackboneSpec | None:
        """The backbone that the weights belong to, if the file records it."""
        said = self.about.get("backbone")
        return registry().restore(BackboneSpec, said, printable(self.file), self.classes) if said else None

    def slicing(self) -> Slicing:
        """How its slices were made; the defaults if the file does not record it.

        Raises:
            UsageError: a preparation is not installed here.
        """
        if not self.about:
            return Slicing()
        read = self._said()
        return restored_slicing(read.prepare, read.preparations, printable(self.file), self.classes)

    @property
    def usage(self) -> Usage | None:
        """How it is used, if the file records it."""
        return self._said().usage if self.about else None

    def _said(self) -> Pretraining | Model:
        kind = Model if "head" in self.about else Pretraining
        return kind.model_validate_json(json.dumps(self.about))

    def limited(self, transfer: Literal["all", "encoder"]) -> Pretrained:
        """The same, of which only these parts are loaded."""
        return replace(self, wanted=tuple(PARTS) if transfer == "all" else (transfer,))

    @property
    def trained(self) -> Sequence[Part]:
        """The parts of the backbone that were trained."""
        parts: Sequence[Part] = self.about.get("trained", tuple(PARTS))
        return parts

    @property
    def loaded(self) -> Sequence[Part]:
        """Those of them that are wanted."""
        return [part for part in self.trained if part in self.wanted]

    @property
    def channels(self) -> int | None:
        """How many channels its images had; None: the file does not say."""
        return self.about.get("channels", 1) if self.about else None

    @property
    def scans(self) -> frozenset[str]:
        """First 16 digits of the sha256 of every file of the scans that were seen without labels."""
        return self._digests("scans") | self._digests("unlabelled")

    @property
    def probed(self) -> frozenset[str]:
        """The same of the labelled scans by which its step was chosen; empty if it was not chosen."""
        return self._digests("probe")

    @property
    def learned(self) -> frozenset[str] | None:
        """The same of the scans that a fine-tuned model was trained and validated on; None: it does not record them."""
        learned = self.about.get("learned", None if "head" in self.about else ())
        return None if learned is None else frozenset(learned)

    def _digests(self, key: str) -> frozenset[str]:
        """Those that the metadata hold under this key: the file's, and those of all that a fine-tuned model began with.

        A pre-training has put together itself what it began with. The types of what lies within metadata are not
        checked when a file is read: what is none of ours counts as nothing.
        """
        found: set[str] = set()
        about: Any = self.about
        while isinstance(about, Mapping):
            entry = about.get(key)
            digests = entry.get("digests") if isinstance(entry, Mapping) else None
            if isinstance(digests, list):
                found.update(digest for digest in digests if isinstance(digest, str))
            about = about.get("pretraining") if "head" in about else None
        return frozenset(found)

    def chosen(self) -> str:
        """What a user should know of the step that these weights are of; "" if no probe has chosen it."""
        if self.learned is None:
            return (
                f"{printable(self.file)}: a fine-tuned model: the labelled scans that it has learned from are not "
                f"recorded; test on none of them (--split of that run)"
            )
        probe = self.about.get("probe")
        if not probe:
            return ""
        return (
            f"{printable(self.file)}: step {self.about['step']} of the pre-training, the best by its probe (mIoU "
            f"{probe['iou']:.3f}); give {BACKBONE} beside it for the last step"
        )

    def check_fits(self, spec: BackboneSpec, channels: int, min_transfer: float | None) -> None:
        """Load into a network for so many channels and forget it; random numbers stay as they are.

        Raises:
            UsageError, SsmtlError: as `load_into`.
        """
        with torch.random.fork_rng(devices=[]):
            self.load_into(spec.build(channels), min_transfer)

    def load_into(self, backbone: Backbone, min_transfer: float | None = None) -> TransferReport:
        """Copy what fits into `backbone`, in place, and check the result.

        Args:
            backbone: the network.
            min_transfer: minimum share of its parameters to be loaded; None: all of the encoder.

        Raises:
            UsageError: less than that was loaded.
            SsmtlError: everything fits, but the network computes something else than the saved one.
        """
        wanted = backbone.state_dict()
        used = tuple(f"{part}." for part in self.loaded)
        placed = None if self.about else place(self.tensors, wanted, self.prefix)
        tensors = self.tensors if placed is None else placed.tensors
        trained = {name: tensor for name, tensor in tensors.items() if name.startswith(used)}
        fits = {n: t for n, t in trained.items() if n in wanted and t.shape == wanted[n].shape}
        report = self._transfer_report(backbone, wanted, trained, fits)
        if placed is not None:
            skipped = [printable(name) for name in self.tensors if name not in placed.used]
            odd = [printable(name) for name in placed.odd(self.tensors)]
            report = replace(report, prefixes=placed.prefixes, summed=placed.summed, skipped=skipped, odd=odd)
        if not fits:
            raise UsageError(_nothing_fits(report, self.tensors, wanted, self.prefix))
        reached = report.share["encoder"] if min_transfer is None else report.share["both"]
        if reached < (1.0 if min_transfer is None else min_transfer):
            raise UsageError(_too_little(report, min_transfer, self.about))
        with torch.no_grad():
            for name, tensor in fits.items():
                wanted[name].copy_(tensor)
        return self._checked(report, backbone)

    def _transfer_report(
        self,
        backbone: Backbone,
        wanted: Mapping[str, Tensor],
        trained: Mapping[str, Tensor],
        fits: Mapping[str, Tensor],
    ) -> TransferReport:
        expected = [name for name in wanted if name.startswith(tuple(f"{part}." for part in self.loaded))]
        sizes = {name: parameter.numel() for name, parameter in backbone.named_parameters()}
        seen = {k: self.about[k] for k in ("version", "step", "seed", "prepare") if k in self.about}
        return TransferReport(
            source=printable(self.file),
            sha256=digest(self.file),
            backbone=printable(self.about.get("backbone", {}).get("spec", "")),
            pretraining={**seen, "tasks": [task["spec"] for task in self.about.get("tasks", [])]},
            loaded=len(fits),
            missing=[name for name in expected if name not in trained],
            mismatched=[
                f"{name} {tuple(trained[name].shape)} here {tuple(tensor.shape)}"
                for name, tensor in wanted.items()
                if name in trained and name not in fits
            ],
            skipped=[printable(name) for name in self.tensors if name not in wanted or name not in trained],
            fresh=[part for part in PARTS if part not in self.trained],
            unwanted=[part for part in self.trained if part not in self.wanted],
            share={
                "encoder": _share(sizes, fits, "encoder."),
                "decoder": _share(sizes, fits, "decoder."),
                "both": _share(sizes, fits, ""),
            },
            fingerprint=None,
            unchecked="",
        )

    def load_head(self, model_spec_head: str, classes: object, head: nn.Module) -> bool:
        """Load the head of a fine-tuned model too, if it is for the same head and classes; return whether it was."""
        same = self.head and self.about["head"]["spec"] == model_spec_head and self.about["classes"] == classes
        if same:
            head.load_state_dict(dict(self.head))
        return bool(same)

    def _checked(self, report: TransferReport, backbone: Backbone) -> TransferReport:
        saved = dict(self.about.get("fingerprint", {}))
        for part in report.unwanted:
            saved.pop(PARTS[part], None)
        if not saved:
            return replace(report, unchecked="the file holds no fingerprint")
        if report.missing or report.mismatched:
            return replace(report, unchecked="not everything could be loaded")
        shown = [part for part, feature in PARTS.items() if feature in saved]
        deviation = difference(saved, fingerprint(backbone, saved["size"], shown))
        if not deviation <= _SAME:
            raise SsmtlError(
                f"{report.source}: all tensors fit, but on a fixed image the network's output differs from the saved "
                f"run's own by {deviation:.2g} (relative; at most {_SAME} is right): the plugin or library that builds "
                f"{report.backbone} may have changed since; install the version that trained it"
            )
        return replace(report, fingerprint=deviation)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors below a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _nothing_fits(
    report: TransferReport, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str | None
) -> str:
    below = "" if prefix is None else f" below {prefix!r}"
    return (
        f"{report.source}: 0 % can be loaded: no tensor fits the backbone{below} (the file has "
        f"{listed(map(printable, given), 3)}; the backbone {listed(wanted, 3)}); choose the --backbone of these weights"
        f"{', or --prefix, what stands before their names' if not report.backbone else ''}"
    )


def _share(sizes: Mapping[str, int], fits: Mapping[str, Tensor], prefix: str) -> float:
    total = sum(number for name, number in sizes.items() if name.startswith(prefix))
    return sum(n for name, n in sizes.items() if name.startswith(prefix) and name in fits) / total if total else 1.0


def _too_little(report: TransferReport, min_transfer: float | None, about: Mapping[str, Any]) -> str:
    what = "encoder" if min_transfer is None else "both"
    least = "all of the encoder" if min_transfer is None else f"{100 * min_transfer:.4g} % of the backbone"
    examples = [*report.mismatched, *(f"{name} is missing" for name in report.missing)]
    spec = printable(about.get("backbone", {}).get("spec", ""))
    hint = f"omit --backbone (the weights belong to {spec})" if spec else "choose the --backbone of these weights"
    return (
        f"{report.source}: only {100 * report.share[what]:.4g} % of the parameters of the "
        f"{'encoder' if what == 'encoder' else 'backbone'} can be loaded, at least {least} is required "
        f"({'; '.join(shortened(examples, 3)) or 'no name fits'}); {hint}, or lower --min-transfer"
    )

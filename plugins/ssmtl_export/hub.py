"""Folders for the Hugging Face hub: weights, config.json, a model card."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import Tensor

from ssmtl_toolkit.engine.export import Exported
from ssmtl_toolkit.errors import SsmtlError, UsageError
from ssmtl_toolkit.text import printable

if TYPE_CHECKING:
    from ssmtl_export import Hf

_MOST = 50  # pictures


def _weights(exported: Exported) -> str:
    return "backbone.safetensors" if exported.head is None else "model.safetensors"


def write_repository(options: Hf, exported: Exported, folder: Path) -> str:
    """Write what the hub shows and `--from hf://…` reads, README.md included."""
    file = _weights(exported)
    exported.save(folder / file, options.digests)
    about = exported.about
    config = {"library_name": "ssmtl-toolkit", "version": about["version"], "backbone": about["backbone"]["spec"]}
    config |= {"head": about["head"]["spec"]} if exported.head is not None else {}
    (folder / "config.json").write_text(json.dumps({**config, "usage": exported.usage}, indent=2), encoding="utf-8")
    shown = _pictures(exported.folder, folder) if options.pictures else []
    function, command = ("load_backbone", "finetune") if exported.head is None else ("load_model", "predict")
    opening = (
        f"```sh\nssmtl {command} --from hf://USER/NAME …\n```\n\n"
        f"or in Python `ssmtl_toolkit.{function}('hf://USER/NAME')`; or `{file}` by safetensors."
    )
    title, _, rest = exported.card.partition("\n")
    pictures = "\n## Pictures\n\n" + "\n".join(f"![{name}]({name})" for name in shown) + "\n" if shown else ""
    text = f"{_front_matter(options, exported)}\n{title}\n\n## Open it\n\n{opening}\n{rest}{pictures}"
    (folder / "README.md").write_text(text, encoding="utf-8")
    return opening


def _front_matter(options: Hf, exported: Exported) -> str:
    lines = ["library_name: ssmtl-toolkit", *([f"license: {options.licence}"] if options.licence else [])]
    task = "image-feature-extraction" if exported.head is None else "image-segmentation"
    lines += [f"pipeline_tag: {task}", "tags:", "- medical", "- self-supervised", "- ssmtl"]
    return "\n".join(["---", *lines, "---"])


def _pictures(source: Path, folder: Path) -> list[str]:
    """Copy the pictures of a run folder; return their names."""
    found = sorted(
        file for kind in ("png", "svg") for file in source.glob(f"**/*.{kind}") if "export" not in file.parts
    )
    names = []
    for file in found[:_MOST]:
        name = "-".join(file.relative_to(source).parts)
        (folder / "pictures").mkdir(exist_ok=True)
        shutil.copyfile(file, folder / "pictures" / name)
        names.append(f"pictures/{name}")
    return names


def differing(exported: Exported, folder: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """What the module computes, and what it computes with the weights of the folder."""
    module, images = copy.deepcopy(exported.module), exported.images(3)
    network = module if exported.head is not None else module.get_submodule("backbone")
    network.load_state_dict(load_file(folder / _weights(exported)))
    yield exported.module(images), module(images)


def push(options: Hf, folder: Path) -> str:
    """Send a folder to the hub; return its address.

    Raises:
        UsageError: nobody is logged in, or may write there.
        SsmtlError: the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api, name = HfApi(), options.push.removeprefix("hf://")
    try:
        api.create_repo(name, private=not options.public, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except (LocalTokenNotFoundError, HFValidationError) as error:
        raise UsageError(
            f"hf: {printable(name)}: {printable(str(error).splitlines()[0])}; log in by `hf auth login`; "
            f"{_kept(folder)}"
        ) from error
    except HfHubHTTPError as error:
        reason = printable(str(error).splitlines()[0])
        raise UsageError(f"hf: {printable(name)}: refused by the hub ({reason}); {_kept(folder)}") from error
    except Exception as error:  # of the network, whichever library the hub's client uses
        kind = type(error).__name__
        raise SsmtlError(f"hf: the Hugging Face hub cannot be reached ({kind}); {_kept(folder)}") from error
    return f"https://huggingface.co/{name}"


def _kept(folder: Path) -> str:
    return f"the folder is in {printable(folder)}, and can be sent later by `hf upload`"

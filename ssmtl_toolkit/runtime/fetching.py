"""Weights from the Hugging Face hub: `hf://USER/NAME` as a folder here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ssmtl_toolkit.engine.hub import hub
from ssmtl_toolkit.errors import DataError, SsmtlError, UsageError
from ssmtl_toolkit.text import printable

_FILES = ("*.safetensors", "config.json")


def fetched(source: Path) -> Path:
    """The folder of what `hf://USER/NAME` or `hf://USER/NAME@REVISION` names; any other path as it is.

    What was fetched before is taken from the hub's cache.

    Raises:
        UsageError: it names no repository, or a package is missing.
        DataError: there is no such repository, or it holds no weights.
        SsmtlError: there is no network, and it was not fetched before.
    """
    if not on_hub(source):
        return source
    name, _, revision = str(source).removeprefix("hf:").strip("/").partition("@")
    if find_spec("huggingface_hub") is None:
        raise UsageError(f"hf://{name}: needs huggingface_hub: pip install 'ssmtl-toolkit[hf]'")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with hub():
            folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(_FILES)))
    except HFValidationError as error:
        raise UsageError(f"hf://{printable(name)}: names no repository; write hf://USER/NAME") from error
    except LocalEntryNotFoundError as error:
        raise SsmtlError(
            f"hf://{printable(name)}: the Hugging Face hub cannot be reached, and it was not fetched before; go online "
            f"once, or give a folder"
        ) from error
    except HfHubHTTPError as error:
        reason = printable(str(error).splitlines()[0])
        raise DataError(f"hf://{printable(name)}: cannot be fetched ({reason}); check its name, or log in") from error
    if not any(folder.glob("*.safetensors")):
        raise DataError(f"hf://{printable(name)}: holds no .safetensors file")
    return folder


def on_hub(source: Path) -> bool:
    """Whether a path is an address on the hub; paths lose one of the two slashes."""
    return str(source).startswith("hf:/")

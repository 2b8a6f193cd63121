"""Builds a network once before any data are read, so that what cannot be built is reported at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ssmtl_toolkit.errors import SsmtlError
from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.specs import BackboneSpec, TaskSpec, named


def check_buildable(backbone: BackboneSpec, tasks: Sequence[TaskSpec] = ()) -> None:
    """Build the backbone for one channel, and the tasks on it, and forget them; random numbers stay as they are.

    Raises:
        UsageError: an encoder, a level or the like that does not exist.
        SsmtlError: start weights cannot be downloaded, or a plugin fails.
    """
    with torch.random.fork_rng(devices=[]):
        network = built(backbone, 1)
        for task in tasks:
            built(task, network)


def built(part: BackboneSpec | TaskSpec, given: Any) -> Any:
    """Build a part, from the number of channels or from the backbone.

    Raises:
        UsageError: an option says what does not exist.
        SsmtlError: its plugin fails, or gives what cannot be trained and saved.
    """
    with foreign(f"building {named(part)}"):
        made = part.build(given)
    if not isinstance(made, nn.Module):
        raise SsmtlError(f"{named(part)}: its build gives {type(made).__name__}; give a torch.nn.Module")
    for name, tensor in [*made.named_parameters(), *made.named_buffers()]:
        if not is_lazy(tensor) and (tensor.is_meta or tensor.layout != torch.strided):  # lazy: the first step makes it
            raise SsmtlError(
                f"{named(part)}: its tensor {name!r} is sparse or on the meta device, and could not be saved; make it "
                f"a plain one in build"
            )
    return made

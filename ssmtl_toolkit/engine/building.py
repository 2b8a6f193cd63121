"""Builds a network once before any data are read, so that what cannot be built is reported at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ssmtl_toolkit.foreign import foreign
from ssmtl_toolkit.specs import BackboneSpec, TaskSpec, named


def check_buildable(backbone: BackboneSpec, tasks: Sequence[TaskSpec] = ()) -> None:
    """Build the backbone for one channel, and the tasks on it, and forget them; random numbers stay as they are.

    Raises:
        UsageError: an encoder, a level or the like that does not exist.
        SsmtlError: start weights cannot be downloaded, or a plugin fails.
    """
    with torch.random.fork_rng(devices=[]):
        with foreign(f"building {named(backbone)}"):
            network = backbone.build(1)
        for task in tasks:
            with foreign(f"building {named(task)}"):
                task.build(network)

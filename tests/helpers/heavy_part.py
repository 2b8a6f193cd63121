"""A part whose module imports torch at once, as none should."""

import torch

from ssmtl_toolkit.specs import TaskSpec


class Heavy(TaskSpec):
    """Imports torch too early."""

    name = "heavy"

    def build(self, backbone) -> torch.nn.Module: ...

"""What is saved of a network keeps its names, types and shapes while it trains, or nothing could load it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from ssmtl_toolkit.errors import SsmtlError


class Shapes:
    """Names, types and shapes of all tensors of a network's state, as they were when its training began."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._before = _shapes(state)

    def check(self, state: Mapping[str, Tensor], step: int, owner: Callable[[str], str], left: str = "") -> None:
        """Refuse a state with other ones.

        Args:
            state: the present one.
            step: how many steps were done.
            owner: says what errors call the part that a tensor belongs to.
            left: what is left to continue from.

        Raises:
            SsmtlError: naming the part and its tensor.
        """
        now = _shapes(state)
        for name in self._before.keys() | now.keys():
            then, is_now = self._before.get(name, "missing"), now.get(name, "missing")
            if then != is_now:
                raise SsmtlError(
                    f"{owner(name)}: its {name!r} was {then} when the training began, and is {is_now} after step "
                    f"{step}, so that nothing could load it; {left}make all parameters and buffers in build, in their "
                    f"final shapes, or keep this one by register_buffer(…, persistent=False)"
                )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}" for name, tensor in state.items()}

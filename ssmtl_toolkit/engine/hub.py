"""The Hugging Face hub, asked once and without retries: a machine without a network gets its answer at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_SECONDS = 5.0


@contextlib.contextmanager
def hub(allowed: bool = True) -> Iterator[None]:
    """Let what is built in here fetch from the hub if `allowed` and the hub answers; else its cache alone is used.

    Without a network the hub's client would retry for half a minute and print every try.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not allowed or not _answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers() -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception:  # the client's own kinds of errors differ between its versions
        return False
    return True

"""Where this repository is, and the shared real data."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def shared_data() -> Path:
    return Path(os.environ.get("SSMTL_TEST_DATA", ROOT.parent / "shared" / "data"))

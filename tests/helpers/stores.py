"""How tests list scans and read them into a store."""

from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.runtime.scans import installed_readers

OPTIONS = Slicing(size=16)


def listed(folder):
    return registry().dataset(str(folder)).scans(folder / "unused", installed_readers())

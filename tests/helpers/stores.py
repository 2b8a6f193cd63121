"""How tests list scans and read them into a store."""

from ssmtl_toolkit.data.readers import ReadableTest
from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.registry import registry
from ssmtl_toolkit.specs import ReaderSpec

OPTIONS = Slicing(size=16)


def readers():
    return [reader() for reader in registry().of(ReaderSpec)]


def listed(folder):
    return registry().dataset(str(folder)).scans(folder / "unused", ReadableTest(readers()))

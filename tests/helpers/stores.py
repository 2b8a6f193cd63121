"""How tests list scans and read them into a store."""

from ssmtl_toolkit.data.slicing import Slicing
from ssmtl_toolkit.runtime.scans import installed_readers
from ssmtl_toolkit.sources import dataset_of

OPTIONS = Slicing(size=16)


def listed(folder):
    return dataset_of(str(folder)).scans(folder / "unused", installed_readers())

"""Checks that every plugin part should pass, for `ssmtl plugins check` and for the tests of plugins.

    import pytest
    from ssmtl_toolkit.testing import cases

    @pytest.mark.parametrize("case", cases("my_task"), ids=str)
    def test_it_keeps_the_contract(case):
        case.run()

`cases()` without a name lists those of everything installed.
"""

from ssmtl_toolkit.testing.case import Case as Case
from ssmtl_toolkit.testing.case import ContractError as ContractError
from ssmtl_toolkit.testing.case import Example as Example
from ssmtl_toolkit.testing.case import cases as cases

__all__ = ["Case", "ContractError", "Example", "cases"]

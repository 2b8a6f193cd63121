"""`python -m ssmtl_toolkit` is `ssmtl`."""

from ssmtl_toolkit.cli import main

main()

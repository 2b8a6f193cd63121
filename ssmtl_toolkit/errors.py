"""The errors shown to a user without a traceback; each class is one exit code."""


class SsmtlError(Exception):
    """The run failed. Say what is wrong, where, what was got and what to do."""

    exit_code = 1


class UsageError(SsmtlError):
    """An option, a spec or a configuration is wrong."""

    exit_code = 2


class DataError(SsmtlError):
    """A scan, a label or a checkpoint cannot be used."""

    exit_code = 3

"""Errors by which a subcommand ends with one line and an exit code."""

from apexpert.errors import ApexpertError

TRACEBACK = "--traceback"
"""Flag of every command: print the whole traceback of an error before its line."""


class UsageError(ApexpertError):
    """The command line cannot be understood: exit code 2; the message is one line."""


class CommandFailed(ApexpertError):
    """The command could not do what was asked: exit code 1; the message is one line."""

"""What a subcommand raises to end with one line and an exit code."""

from apexpert.errors import ApexpertError


class UsageError(ApexpertError):
    """A command line that cannot be understood, exit code 2; the message is one line."""


class CommandFailed(ApexpertError):
    """What was asked for could not be done, exit code 1; the message is one line."""

"""Errors about a run's folder; each message is one line."""

from apexpert.errors import ApexpertError


class RunError(ApexpertError):
    """Something is wrong with a run's folder; the message is one line."""


class RunNotFound(RunError):
    """The run does not exist."""


class RunExists(RunError):
    """A run of that name already exists."""


class RunBusy(RunError):
    """Another process is at work on the run."""

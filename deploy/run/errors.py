"""What can be wrong with a run's folder; each message is one line."""

from apexpert.errors import ApexpertError


class RunError(ApexpertError):
    """Something is wrong with a run's folder; the message is one line."""


class RunNotFound(RunError):
    """There is no such run."""


class RunExists(RunError):
    """A run of that name is there already."""


class RunBusy(RunError):
    """Another process is at work on the run."""

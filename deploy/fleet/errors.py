"""Errors that the fleet raises."""

from apexpert.errors import ApexpertError


class FleetError(ApexpertError):
    """Ray, the supervisor or a role cannot do what was asked; the message is one line for the user."""


class WrongFlag(FleetError):
    """A value of the configuration does not fit the Ray that was found; the message names the flag."""


class LearnerDied(FleetError):
    """The learner's process is gone and has not said why."""

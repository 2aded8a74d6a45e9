"""Errors of studies."""

from apexpert.errors import ApexpertError


class StudyError(ApexpertError):
    """A study's file or folder cannot be used; the message is one line that names the file and the field."""


class ScoresError(ApexpertError, ValueError):
    """Scores cannot be aggregated; the message is one line."""


class ProtocolError(ApexpertError, ValueError):
    """Rows do not belong into one table; the message is one line that says why."""

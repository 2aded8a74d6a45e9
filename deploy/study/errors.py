"""Errors of studies."""

from apexpert.errors import ApexpertError


class StudyError(ApexpertError):
    """A study's file or folder cannot be used; the message is one line that names the file and the field."""

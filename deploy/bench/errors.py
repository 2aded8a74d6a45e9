"""Errors of benchmarks."""

from apexpert.errors import ApexpertError


class BenchmarkError(ApexpertError):
    """A benchmark cannot be measured, or its check fails; the message is one line."""

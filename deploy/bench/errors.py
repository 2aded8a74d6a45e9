"""Errors of benchmarks."""

from apexpert.errors import ApexpertError


class BenchmarkError(ApexpertError):
    """A benchmark cannot be measured, or its check fails; the message is one line."""


class WrongConfig(BenchmarkError):
    """The benchmark cannot measure this configuration; the message names the flag."""

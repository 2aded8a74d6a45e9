"""Composes the system: configuration, command line, Ray fleet, monitoring, reports, benchmarks."""

"""Everything that composes the system: configuration, command line, Ray fleet, monitoring, reports, benchmarks."""

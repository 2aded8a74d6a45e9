"""Counters of what happened to a run's items since the run began."""

from dataclasses import dataclass


@dataclass
class Counters:
    """Counts since the run began; part of every checkpoint."""

    inserted: int = 0
    """Items ever inserted, each once."""
    sampled: int = 0
    """Items ever drawn."""
    unearned: int = 0
    """Items inserted to fill a replay that a resume found empty: like the warm-up's, they earn no samples."""
    evicted: int = 0
    """Items that left to make room or to free memory."""
    missing: int = 0
    """Segments that an index entry or a log entry named and Redis did not have."""
    rejected: int = 0
    """Indexed segments whose bytes were damaged when read again, or segments that could never fit."""
    stale_updates: int = 0
    """Priority updates for items that had left."""
    refused_priorities: int = 0
    """Priorities that were NaN, infinite or negative, from actors and learner."""

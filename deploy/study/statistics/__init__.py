"""Statistics over games and seeds: aggregates, comparisons, and the protocol that scores belong to."""

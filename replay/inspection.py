"""What a sampler tells about itself: its counters under the run's metric names."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from replay.items import ItemTable


@dataclass
class Counters:
    """What happened since the run began; part of every checkpoint."""

    inserted: int = 0
    """Items ever inserted, each once."""
    sampled: int = 0
    """Items ever drawn."""
    evicted: int = 0
    """Items that left to make room or to free memory."""
    missing: int = 0
    """Segments that an index entry or a log entry named and Redis did not have."""
    rejected: int = 0
    """Indexed segments whose bytes turned out damaged when they were read again, or that could never fit."""
    stale_updates: int = 0
    """Priority updates for items that had left."""
    refused_priorities: int = 0
    """Priorities that were NaN, infinite or negative, from actors and learner."""


def samples_per_insert(counters: Counters, min_size: int) -> float:
    """Samples drawn for each item inserted after the warm-up; 0 during it."""
    earning = counters.inserted - min_size
    return counters.sampled / earning if earning > 0 else 0.0


@dataclass(frozen=True)
class ShardSummary:
    """What the sampler indexes of one shard."""

    index: int
    segments: int
    items: int
    num_bytes: int
    mass: float
    """Sum of the masses of its items."""


def summarise_shards(table: ItemTable, num_shards: int) -> list[ShardSummary]:
    """One line a shard, for people."""
    slots = table.in_order()
    rows = table.slots[slots]
    masses = np.array([table.index.mass(table.leaves(slot)).sum() for slot in slots.tolist()])
    lines = []
    for shard in range(num_shards):
        own = rows["shard"] == shard
        items, num_bytes = int(rows["num_items"][own].sum()), int(rows["num_bytes"][own].sum())
        lines.append(ShardSummary(shard, int(own.sum()), items, num_bytes, float(masses[own].sum())))
    return lines


def summarise_priorities(
    table: ItemTable, points: tuple[float, ...] = (0, 0.1, 0.5, 0.9, 0.99, 1)
) -> dict[str, Any]:
    """Quantiles of the masses of all items, and the share of the total mass that the top 1 % of them hold."""
    masses = np.sort(table.index.masses()[table.index.masses() > 0])
    if not len(masses):
        return {"items": 0}
    top = masses[-max(1, len(masses) // 100) :].sum() / masses.sum()
    quantiles = {f"{point:g}": float(np.quantile(masses, point)) for point in points}
    return {"items": len(masses), "quantiles": quantiles, "top_share": float(top)}

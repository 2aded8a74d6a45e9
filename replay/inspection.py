"""What a sampler tells about itself: its counters under the run's metric names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from replay.config import ReplayConfig
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


def metrics(
    counters: Counters, read: Mapping[str, int], table: ItemTable, config: ReplayConfig, *, misses: int
) -> dict[str, float]:
    """A sampler's counters and sizes under the run's metric names; `read` are its log reader's counters.

    The ratio counts inserts after the warm-up only, and is 0 until there are any.
    """
    earning = counters.inserted - config.min_size
    values = {
        "samples_per_insert": counters.sampled / earning if earning > 0 else 0.0,
        "size": table.size,
        "fill": table.size / config.capacity,
        "bytes": table.num_bytes,
        "segments": table.num_segments,
        "inserted": counters.inserted,
        "sampled": counters.sampled,
        "evicted": counters.evicted,
        "duplicates": read["duplicates"],
        "rejected": counters.rejected + read["corrupt"] + read["foreign"],
        "missing": counters.missing + read["missing"],
        "stale_updates": counters.stale_updates,
        "refused_priorities": counters.refused_priorities,
        "frame_store_bytes": table.store.bytes,
        "frame_store_misses": misses,
    }
    return {f"replay/{name}": float(value) for name, value in values.items()}


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

"""What a sampler tells about itself: counters under the run's metric names, and how uneven its draws are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from replay.config import ReplayConfig
from replay.rejections import REJECTED

if TYPE_CHECKING:
    from replay.follower import Follower

QUANTILES = (0, 0.01, 0.1, 0.5, 0.9, 0.99, 1)


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
    counters: Counters,
    follower: "Follower",
    config: ReplayConfig,
    *,
    misses: int,
) -> dict[str, float]:
    """A sampler's counters and sizes under the run's metric names.

    The ratio counts inserts after the warm-up only, and is 0 until there are any. Of all items that were
    acknowledged, each is in `size`, `parked`, `evicted`, `lost` or `unread`, once the logs are read.
    """
    table, read, accounts = follower.table, follower.reader.counters, follower.reader.accounts
    earning = counters.inserted - config.min_size
    values = {
        "samples_per_insert": counters.sampled / earning if earning > 0 else 0.0,
        "size": table.size,
        "fill": table.num_items / config.capacity,
        "bytes": table.num_bytes,
        "segments": table.num_segments,
        "inserted": counters.inserted,
        "sampled": counters.sampled,
        "evicted": counters.evicted,
        "parked": table.num_parked,
        "parked_shards": len(follower.parking),
        "lost": accounts.lost_items,
        "unread": accounts.unread_items,
        "duplicates": read["duplicates"],
        "rejected": counters.rejected + sum(read[kind] for kind in REJECTED),
        **{f"rejected_{kind}": read[kind] for kind in REJECTED},
        "rejected_indexed": counters.rejected,
        "missing": counters.missing + read["missing"],
        "stale_updates": counters.stale_updates,
        "refused_priorities": counters.refused_priorities,
        "frame_store_bytes": table.store.bytes,
        "frame_store_misses": misses,
    }
    return {f"replay/{name}": float(value) for name, value in values.items()}


@dataclass(frozen=True)
class PrioritySummary:
    """How unevenly items are drawn; `priority` here is the mass that draws are in proportion to."""

    items: int
    quantiles: dict[str, float]
    """Priority at 0, 0.01, 0.1, 0.5, 0.9, 0.99 and 1."""
    edges: list[float]
    """(bins + 1,) edges of the histogram, in equal ratios from the smallest priority to the largest."""
    counts: list[int]
    """(bins,) items in each bin."""
    effective_sample_size: float
    """1 / sum(P^2) of the draw probabilities P: Kish's effective sample size (Kish, 1965)."""
    top_share: float
    """Share of all draws that the 1 % of items with the largest priorities get."""


def summarise_priorities(masses: NDArray[np.float64], bins: int = 40) -> PrioritySummary:
    """The distribution of masses (N,), all finite and positive; raises ValueError for none."""
    if not len(masses):
        raise ValueError("no items")
    ordered = np.sort(masses)
    probability = ordered / ordered.sum()
    low, high = float(ordered[0]), float(ordered[-1])
    edges = np.geomspace(low, high, bins + 1) if high > low else np.array([low, high])
    edges[0], edges[-1] = low, high  # geomspace rounds
    counts = np.histogram(ordered, edges)[0] if high > low else np.array([len(ordered)])
    return PrioritySummary(
        items=len(ordered),
        quantiles={f"{point:g}": float(np.quantile(ordered, point)) for point in QUANTILES},
        edges=edges.tolist(),
        counts=counts.tolist(),
        effective_sample_size=float(1.0 / np.square(probability).sum()),
        top_share=float(probability[-max(1, len(ordered) // 100) :].sum()),
    )

"""The counters and sizes of a sampler as metrics of the run."""

from replay.config import ReplayConfig
from replay.items.counters import Counters
from replay.log.rejections import REJECTED
from replay.owner.recovery import Recovery


def metrics(
    counters: Counters,
    recovery: Recovery,
    config: ReplayConfig,
    *,
    misses: int,
    refill: int = 0,
) -> dict[str, float]:
    """Return a sampler's counters and sizes under the run's metric names.

    The ratio counts only inserts after the warm-up, and is 0 until there are any. Once the logs are
    read, every acknowledged item is in exactly one of `size`, `parked`, `evicted`, `lost` and
    `unread`.
    """
    table, read, ledger = recovery.table, recovery.reader.counters, recovery.reader.ledger
    # Negative before the warm-up is over.
    earning = counters.inserted - counters.unearned - config.min_size
    values = {
        "samples_per_insert": counters.sampled / earning if earning > 0 else 0.0,
        "size": table.size,
        "fill": table.num_items / config.capacity,
        "bytes": table.num_bytes,
        "segments": table.num_segments,
        "inserted": counters.inserted,
        "sampled": counters.sampled,
        "unearned": counters.unearned,
        "refill": refill,
        "evicted": counters.evicted,
        "parked": table.num_parked,
        "parked_shards": len(recovery.availability),
        "lost": ledger.lost_items,
        "unread": ledger.unread_items,
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

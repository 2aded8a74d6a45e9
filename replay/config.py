"""The configuration of what replay keeps and how it is sampled; every field is one command-line flag."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ReplayConfig:
    """Shards, capacity, items and the distribution from which items are drawn."""

    urls: tuple[str, ...] = field(default=(), repr=False)
    """Redis URLs of the shards (`redis://`, `rediss://`, `unix://`); none starts embedded servers.
    `@FILE` reads them from a file, one per line: other users can see arguments, so passwords do not
    belong there."""
    shards: int = 2
    """Embedded Redis servers, when no URLs are given."""
    append_fsync: Literal["everysec", "always"] = "everysec"
    """How often embedded servers sync their append-only file to disk."""
    shard_memory_bytes: int = 4 * 1024**3
    """`maxmemory` of each embedded server; the oldest segments leave at 90 % of it."""
    capacity: int = 1_000_000
    """Transitions kept; the oldest leave first."""
    capacity_bytes: int = 0
    """Encoded bytes of the segments kept, all shards together, without the servers' own overhead;
    the oldest leave first. For servers without a `maxmemory` of their own; 0: no limit."""
    min_size: int = 20_000
    """Transitions inserted before the first update (warm-up)."""
    frame_store_bytes: int = 8 * 1024**3
    """Cap of the sampler's store of decoded frames; what it does not hold is read from Redis when drawn."""
    segment_steps: int = 64
    """Env steps stored together as one segment."""
    n_step: int = 3
    """Steps of the n-step return."""
    gamma: float = 0.99
    """Discount factor of one env step."""
    reward_clip: float = 1.0
    """Rewards are clipped to +- this value when sampled; 0 leaves them raw."""
    life_loss_terminates: bool = False
    """A lost life counts as a true end when sampled (the game itself goes on)."""
    prioritized: bool = True
    """Prioritized sampling (Schaul et al., 2016); else uniform."""
    priority_exponent: float = 0.5
    """Exponent on the raw priority (the loss, or a TD error), applied once, when the sampler receives it."""
    importance_exponent: float = 0.5
    """Exponent of the importance weights (N * P) ** -exponent, divided by the batch's largest."""
    error_buffer: float = 0.0
    """Samples by which the limiter may leave the exact ratio, either way; 0 picks a suitable value."""

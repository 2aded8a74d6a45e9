"""The configuration of what replay keeps and how it is sampled; every field is one command-line flag."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from apexpert.limits import SHARE, Ge, Gt, Interval, InWords, Predicate


class ReturnRule(NamedTuple):
    """How n-step returns are computed of rewards (replay/segments/returns.py)."""

    n_step: int
    gamma: float
    reward_clip: float
    """Rewards are clipped to +- this value; 0 leaves them raw."""
    life_loss_terminates: bool = False
    """Whether a lost life counts as a true end."""


MIN_BYTES = 16 * 1024**2
"""Least memory with which a server works."""
ENOUGH = f"16 MiB ({MIN_BYTES}) or more"


def is_no_limit_or_enough(num_bytes: int) -> bool:
    """Whether a limit of memory is none, or one that a server can work with."""
    return num_bytes == 0 or num_bytes >= MIN_BYTES


@dataclass(frozen=True)
class ReplayConfig:
    """Shards, capacity, items and the distribution from which items are drawn."""

    urls: tuple[str, ...] = field(default=(), repr=False)
    """Redis URLs of the shards (`redis://`, `rediss://`, `unix://`); none starts embedded servers.
    `@FILE` reads them from a file, one per line: other users can see arguments, so passwords do not
    belong there."""
    urls_file: str = ""
    """File with these URLs, which `@FILE` sets: each machine of a cluster reads its own."""
    shards: Annotated[int, Interval(ge=1, le=64)] = 2
    """Embedded Redis servers, when no URLs are given."""
    append_fsync: Literal["everysec", "always"] = "everysec"
    """How often embedded servers sync their append-only file to disk."""
    folder: str = ""
    """Folder, on a local disk say, for embedded servers' files, in a subfolder for each run; empty: in the
    run's folder."""
    shard_memory_bytes: Annotated[int, Ge(MIN_BYTES), InWords(ENOUGH)] = 4 * 1024**3
    """`maxmemory` of each embedded server; the oldest segments leave at 90 % of it."""
    capacity: Annotated[int, Gt(0)] = 1_000_000
    """Transitions kept; the oldest leave first."""
    capacity_bytes: Annotated[
        int, Predicate(is_no_limit_or_enough), InWords(f"{ENOUGH}, or 0 for no limit")
    ] = 0
    """Encoded bytes of the segments kept, all shards together, without the servers' own overhead;
    the oldest leave first. For servers without a `maxmemory` of their own; 0: no limit."""
    min_size: Annotated[int, Gt(0)] = 20_000
    """Transitions inserted before the first update (warm-up)."""
    frame_store_bytes: Annotated[int, Ge(0)] = 8 * 1024**3
    """Cap of the sampler's store of decoded frames; what it does not hold is read from Redis when drawn."""
    segment_steps: Annotated[int, Interval(ge=1, le=4096)] = 64
    """Env steps stored together as one segment."""
    n_step: Annotated[int, Interval(ge=1, le=255)] = 3
    """Steps of the n-step return."""
    gamma: Annotated[float, SHARE] = 0.99
    """Discount factor of one env step."""
    reward_clip: Annotated[float, Ge(0)] = 1.0
    """Rewards are clipped to +- this value when sampled; 0 leaves them raw."""
    life_loss_terminates: bool = False
    """A lost life counts as a true end when sampled (the game itself continues)."""
    prioritized: bool = True
    """Prioritized sampling (Schaul et al., 2016); else uniform."""
    priority_exponent: Annotated[float, SHARE] = 0.5
    """Exponent on the raw priority (the loss, or a TD error), applied once, when the sampler receives it."""
    importance_exponent: Annotated[float, SHARE] = 0.5
    """Exponent of the importance weights (N * P) ** -exponent, divided by the batch's largest."""
    error_buffer: Annotated[float, Ge(0)] = 0.0
    """Samples by which the limiter may leave the exact ratio, either way; 0 picks a suitable value."""

    @property
    def return_rule(self) -> ReturnRule:
        """How returns are computed of the rewards stored."""
        return ReturnRule(self.n_step, self.gamma, self.reward_clip, self.life_loss_terminates)

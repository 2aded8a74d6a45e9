"""The sampler: tails every shard's log, and draws batches over all of them in proportion to priority.

It lives in the learner's process and is the one owner of a run's replay: it alone evicts and allows. It has
no thread: everything happens in the caller's (docs/decisions/0004).
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replay.config import ReplayConfig
from replay.errors import NotEnoughData
from replay.eviction import Eviction
from replay.fetch import FrameReader, Observations, Places, SegmentsGone
from replay.frame_store import FrameStore, HostFrameStore
from replay.inspection import Counters, metrics
from replay.items import ItemTable
from replay.limiter import Allowance, Limiter
from replay.log_reader import LogReader, ReceivedSegment
from replay.priorities import Priorities
from replay.shard import Shard
from replay.snapshot import RestoreReport, restore_table, table_state
from replay.transitions import Returns, n_step_returns
from replay.types import Batch, Signature

__all__ = ["RestoreReport", "Sampler"]

REBUILD_SEGMENTS = 256
"""Segments read at once when everything is read."""
REFRESH_SECONDS = 0.01
"""While nothing comes in, the allowance is refreshed at most this often."""


class Sampler:
    """Draws batches from everything the shards hold."""

    def __init__(
        self,
        config: ReplayConfig,
        shards: Sequence[Shard],
        *,
        run: str,
        signature: Signature,
        batch_size: int,
        samples_per_insert: float,
        total_env_steps: int | None = None,
        seed: int | Sequence[int],
        frame_store: FrameStore | None = None,
    ) -> None:
        self.config = config
        self.batch_size = batch_size
        self.samples_per_insert = samples_per_insert
        self.counters = Counters()
        self._run, self._signature, self._shards = run, signature, list(shards)
        self.store = self._host_store() if frame_store is None else frame_store
        self.table = ItemTable(
            config.capacity, config.segment_steps, config.n_step, self.store, len(self._shards)
        )
        self._priorities = Priorities(config, self.table, self.counters, seed)
        self._frames = FrameReader(self.table, self.store, self._shards, signature.stack)
        self._eviction = Eviction(self.table, self._shards, self.counters)
        self._reader = LogReader(self._shards, run=run, signature=signature)
        self.limiter = Limiter(
            min_size=config.min_size,
            samples_per_insert=samples_per_insert,
            batch_size=batch_size,
            error_buffer=self._error_buffer(),
            total_env_steps=total_env_steps,
        )
        self._allowance = Allowance(self._shards, self.limiter, self._reader)
        self._dead: set[tuple[int, int]] = set()
        self._refreshed_at = float("-inf")

    # What comes in

    def ingest(self, limit: int = 256) -> int:
        """Index up to `limit` new segments, evict, refresh the allowance; returns the items added.

        Raises ShardUnavailable when a shard cannot be reached for its whole retry budget.
        """
        added = self._index(limit)
        if added or time.monotonic() - self._refreshed_at >= REFRESH_SECONDS:
            self.refresh_allowance()
        return added

    def rebuild(self) -> int:
        """Index all that the logs hold, for a run without a checkpoint; returns the number of items kept."""
        before = None
        while before != self._reader.cursors:
            before = self._reader.cursors
            self._index(REBUILD_SEGMENTS)
        self.refresh_allowance()
        return self.size

    def refresh_allowance(self, dead: Iterable[tuple[int, int]] = ()) -> None:
        """Tell the shards how much may be inserted; takes back what dead (actor, incarnation)s reserved."""
        self.mark_dead(dead)
        self._allowance.refresh(self.inserted, self.sampled, self._dead)
        self._refreshed_at = time.monotonic()

    def mark_dead(self, incarnations: Iterable[tuple[int, int]]) -> None:
        """Note (actor, incarnation) pairs that are dead: they never write again."""
        self._dead |= set(incarnations)

    # What goes out

    def can_sample(self) -> bool:
        """Whether the limiter allows a batch, and there is anything to draw."""
        return self.size > 0 and self.limiter.can_sample(self.inserted, self.sampled)

    def sample(self) -> Batch:
        """Draw a batch, one item from each of B equal strata of the total mass (Schaul et al., 2016).

        Raises NotEnoughData when `can_sample()` is false, or when all there was turned out to be gone.
        """
        if not self.can_sample():
            raise NotEnoughData(
                f"no batch of {self.batch_size} yet, with {self.inserted} inserted and {self.sampled} sampled"
            )
        strata = np.arange(self.batch_size)
        leaves = self._priorities.draw(strata, self.batch_size)
        while True:
            returns, places = self._windows(leaves)
            try:
                observations = self._frames.read(places)
                break
            except SegmentsGone as gone:
                lost = np.isin(places.slots, gone.missing + gone.corrupt)
                self._forget(gone)
                leaves[lost] = self._priorities.draw(strata[lost], self.batch_size)
        self.counters.sampled += self.batch_size
        return self._batch(leaves, places.slots, returns, observations)

    def update_priorities(self, leaf: ArrayLike, generation: ArrayLike, priorities: ArrayLike) -> None:
        """Give items (B,) new raw priorities (B,), as a batch named them by `leaf` and `generation`.

        Priorities that are NaN, infinite or negative are refused, and those of items that have left are
        dropped; both are counted. Of an item that comes twice the last one counts. Uniform sampling ignores
        them all.
        """
        self._priorities.update(leaf, generation, priorities)

    # How things stand

    @property
    def inserted(self) -> int:
        """Items ever inserted, each once: the run's env steps."""
        return self.counters.inserted

    @property
    def sampled(self) -> int:
        """Items ever drawn."""
        return self.counters.sampled

    @property
    def size(self) -> int:
        """Items that can be drawn now."""
        return self.table.size

    @property
    def max_inserts(self) -> int:
        """Items that may have been inserted in all, by what was sampled so far."""
        return int(self.limiter.max_inserts(self.sampled))

    def caught_up(self) -> bool:
        """Whether the samples have used up what the inserts since the warm-up earned."""
        return (self.inserted - self.config.min_size) * self.samples_per_insert <= self.sampled

    def metrics(self) -> dict[str, float]:
        """Counters and sizes under the run's metric names."""
        return metrics(
            self.counters, self._reader.counters, self.table, self.config, misses=self._frames.misses
        )

    # Checkpoints

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What a bit-identical continuation needs besides the segments: JSON-able values and arrays."""
        table, arrays = table_state(self.table)
        document = {
            "table": table,
            "counters": asdict(self.counters),
            "random": self._priorities.random.bit_generator.state,
            "reader": self._reader.state,
        }
        return document, arrays

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> RestoreReport:
        """Take a state back and read its segments again from the shards; what came later comes with `ingest`.

        Segments that are gone are dropped. Without any, and with the same capacity, segment length and
        n-step, the draws go on exactly where they were (`exact`). Nothing may have been ingested before.
        """
        self._priorities.random.bit_generator.state = document["random"]
        self._reader.restore(document["reader"])
        for name, value in document["counters"].items():
            setattr(self.counters, name, value)
        report = restore_table(
            self.table, self._shards, document["table"], arrays, run=self._run, signature=self._signature
        )
        self._priorities.level()
        self.counters.missing += report.missing_segments
        self.counters.rejected += report.rejected_segments
        self.refresh_allowance()
        return report

    def _host_store(self) -> HostFrameStore:
        """A store within the configured bytes that is no larger than everything it could ever be given."""
        config, (height, width) = self.config, self._signature.frame_shape
        a_segment = config.segment_steps + config.n_step + self._signature.stack - 1
        segments = -(-config.capacity // config.segment_steps) + 1
        most = segments * a_segment * height * width
        return HostFrameStore((height, width), min(config.frame_store_bytes, most))

    def _error_buffer(self) -> float:
        """Samples by which the limiter may leave the exact ratio: room for two segments that come at once."""
        ratio, config = self.samples_per_insert, self.config
        smallest = self.batch_size + 2 * ratio * config.segment_steps
        return config.error_buffer or max(smallest, 0.1 * config.min_size * ratio)

    def _index(self, limit: int) -> int:
        added = sum(self._insert(received) for received in self._reader.poll(limit))
        self._eviction.relieve()
        self._eviction.flush()
        return added

    def _insert(self, received: ReceivedSegment) -> int:
        """Index one segment; returns its number of items."""
        segment = received.segment
        if not self.table.fits_ever(segment.num_items, segment.num_steps):
            self.counters.rejected += 1
            return 0
        self._eviction.make_room(segment.num_items, segment.num_steps)
        self.table.insert(
            segment,
            received.header,
            self._priorities.first_masses(segment),
            shard=received.shard,
            log_id=received.log_id,
            num_bytes=received.num_bytes,
        )
        self._eviction.note_bytes(received.shard, received.num_bytes)
        self.counters.inserted += segment.num_items
        return segment.num_items

    def _forget(self, gone: SegmentsGone) -> None:
        """Drop segments that cannot be read."""
        for slot in (*gone.missing, *gone.corrupt):
            self.table.remove(slot)
        self.counters.missing += len(gone.missing)
        self.counters.rejected += len(gone.corrupt)

    def _windows(self, leaves: NDArray[np.int64]) -> tuple[Returns, Places]:
        """Returns of items and where their observations lie."""
        table = self.table
        slots = table.leaf_slots[leaves].astype(np.int64)
        rows = table.slots[slots]
        returns = n_step_returns(
            table.rewards,
            table.terminated,
            table.truncated,
            table.life_lost,
            leaves,
            rows["first_leaf"] + rows["num_steps"],
            n_step=self.config.n_step,
            gamma=self.config.gamma,
            reward_clip=self.config.reward_clip,
            life_loss_terminates=self.config.life_loss_terminates,
        )
        return returns, Places(slots, rows["lead"] + leaves - rows["first_leaf"], returns.steps)

    def _batch(
        self,
        leaves: NDArray[np.int64],
        slots: NDArray[np.int64],
        returns: Returns,
        observations: Observations,
    ) -> Batch:
        table = self.table
        probability, importance_weight = self._priorities.chances(leaves)
        return Batch(
            observation=observations.observation,
            action=table.actions[leaves].astype(np.int64),
            reward=returns.reward,
            discount=returns.discount,
            next_observation=observations.next_observation,
            probability=probability,
            importance_weight=importance_weight,
            leaf=leaves,
            generation=table.slots["generation"][slots],
            weights_version=table.slots["weights_version"][slots],
        )

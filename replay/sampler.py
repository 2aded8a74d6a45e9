"""The sampler: tails every shard's log, and draws batches over all of them in proportion to priority.

It lives in the learner's process and is the one owner of a run's replay: it alone evicts and allows.
Everything happens in the caller's thread (docs/decisions/0004); while a shard is out of reach, a thread of
its own waits for it to answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from numpy.typing import ArrayLike, NDArray

from replay.batches.builder import BatchBuilder
from replay.batches.observations import FrameReader
from replay.config import ReplayConfig
from replay.errors import NotEnoughData, ShardError
from replay.items.counters import Counters
from replay.items.frame_store import FrameStore, host_store
from replay.items.priorities import Priorities
from replay.items.table import item_table
from replay.log.cursor import Poll
from replay.log.reader import LogReader
from replay.owner.indexer import Indexer
from replay.owner.limiter import Allowance, Limiter, fitting_error_buffer
from replay.owner.metrics import metrics
from replay.owner.ownership import Ownership
from replay.owner.restore import Restoration, RestoreReport, table_state
from replay.shards.shard import Shard
from replay.types import Batch, Signature

__all__ = ["RestoreReport", "Sampler"]

REBUILD_SEGMENTS = 256
"""Segments read at once when everything is read."""


class Sampler:
    """Draws batches from everything the shards hold.

    A shard that does not answer for its `retry_seconds` is parked: draws continue with the rest until it is
    back. Everything that reaches out to the shards raises StaleOwner once another sampler has taken them.
    """

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
        signed = (signature.frame_shape, signature.stack)
        self.store = host_store(config, *signed) if frame_store is None else frame_store
        self.table = item_table(config, self.store)
        self._priorities = Priorities(config, self.table, self.counters, seed)
        self._shards = list(shards)
        reader = LogReader(self._shards, run=run, signature=signature)
        self._indexer = Indexer(reader, self.table, self._priorities, self.counters, owns=True)
        self._recovery = self._indexer.recovery
        self._frames = FrameReader(self.table, self.store, reader.cursors, signature)
        self._batches = BatchBuilder(
            config, self.table, self._priorities, self._frames, self._recovery.forget
        )
        self._ownership = Ownership(self._shards)
        self.limiter = Limiter(
            min_size=config.min_size,
            samples_per_insert=samples_per_insert,
            batch_size=batch_size,
            error_buffer=config.error_buffer or fitting_error_buffer(config, batch_size, samples_per_insert),
            total_env_steps=total_env_steps,
        )
        self._allowance = Allowance(reader.cursors, self.limiter)
        self._dead: set[tuple[int, int]] = set()

    def ingest(self, limit: int = 256) -> int:
        """Index up to about `limit` new segments, evict, refresh the allowance; returns the items added.

        One round trip, to all shards at once, when nothing is new.
        """
        self._own()
        turn = self._indexer.turn(limit, self._check)
        self._allowance.refresh(turn.books, self.inserted, self.sampled, self._dead, empty=self.size == 0)
        return turn.added

    def rebuild(self) -> int:
        """Index all that the logs hold, for a run without a checkpoint; returns the number of items kept."""
        self._own()
        before = None
        while before != self._indexer.positions:
            before = self._indexer.positions
            self.ingest(REBUILD_SEGMENTS)
        return self.size

    def refresh_allowance(self, dead: Iterable[tuple[int, int]] = ()) -> None:
        """Tell the shards how much may be inserted; takes back what dead (actor, incarnation)s reserved.

        Returns when they know. Nothing is indexed.
        """
        self._own()
        self.mark_dead(dead)
        books = self._indexer.books(REBUILD_SEGMENTS, self._check)
        self._allowance.refresh(books, self.inserted, self.sampled, self._dead, empty=self.size == 0)
        self._indexer.settle()

    def mark_dead(self, incarnations: Iterable[tuple[int, int]]) -> None:
        """Note (actor, incarnation) pairs that are dead: they never write again."""
        self._dead |= set(incarnations)

    def take_ownership(self) -> None:
        """Take the shards from whoever owns them; the first call that reaches out to them does it as well."""
        for shard, error in self._ownership.take().items():
            self._recovery.park(shard, error)

    def add_shard(self, shard: Shard) -> None:
        """Use one more shard from now on; its index must be the next one. Raises ValueError."""
        if shard.index != len(self._shards):
            raise ValueError(f"the next shard is number {len(self._shards)}, not {shard.index}")
        # Ownership shares this list, and others the reader's list of cursors, so all know the new
        # shard; the check of the next turn takes ownership of it.
        self._shards.append(shard)
        self._indexer.add_shard(shard)

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
        batch = self._batches.draw(self.batch_size)
        self.counters.sampled += self.batch_size
        return batch

    def update_priorities(self, leaf: ArrayLike, generation: ArrayLike, priorities: ArrayLike) -> None:
        """Give items (B,) new raw priorities (B,), as a batch named them by `leaf` and `generation`.

        Priorities that are NaN, infinite or negative are refused, and those of items that have left are
        dropped; both are counted. Of an item that comes twice the last one counts. Uniform sampling ignores
        them all.
        """
        self._priorities.update(leaf, generation, priorities)

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
    def has_nothing(self) -> bool:
        """Whether there are no items, not even in shards that do not answer."""
        return not self.table.num_items

    def metrics(self) -> dict[str, float]:
        """Counters and sizes under the run's metric names."""
        refill = self.limiter.refill_left(self.inserted)
        return metrics(self.counters, self._recovery, self.config, misses=self._frames.misses, refill=refill)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Collect what a bit-identical continuation needs besides segments: JSON-able values and arrays."""
        table, arrays = table_state(self.table)
        document = {
            "table": table,
            "counters": asdict(self.counters),
            "random": self._priorities.random.bit_generator.state,
            **self._indexer.state,
        }
        return document, arrays

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> RestoreReport:
        """Take a state back and read its segments again from the shards; what came later comes with `ingest`.

        Segments that are gone are dropped; those of a shard that does not answer are parked. Without any, and
        with the same capacity, segment length and n-step, the draws continue exactly as before (`exact`).
        The number of shards may be another one. Nothing may have been ingested before.
        """
        self._own()
        self._priorities.random.bit_generator.state = document["random"]
        # Before the table: what is not found again is counted in this ledger and these counters.
        self._indexer.restore_positions(document)
        for name, value in document["counters"].items():
            setattr(self.counters, name, value)
        report = Restoration(self._recovery, self.counters, document["table"], arrays).run()
        self._indexer.restore_deletions(document)
        self._priorities.level()
        # Those of silent shards count, because they may come back.
        lacks = max(0, self.config.min_size - self.table.num_items)
        report = replace(report, refill=lacks if self.inserted >= self.config.min_size else 0)
        self.counters.unearned = self.limiter.refill(
            report.refill, self.inserted, self.sampled, self.counters.unearned
        )
        self.refresh_allowance()
        return report

    def close(self) -> None:
        """Let the shards go and close the connections; nothing may be asked any more."""
        self._frames.close()
        self._ownership.leave(self._indexer.pipelines())
        with suppress(ShardError):
            self._indexer.settle()
        self._indexer.close()

    def _own(self) -> None:
        if not self._ownership.is_taken:
            self.take_ownership()

    def _check(self, polls: Mapping[int, Poll]) -> None:
        """Raise StaleOwner where another sampler has taken a shard; show the others that this one lives."""
        self._ownership.check({shard_index: poll.owner for shard_index, poll in polls.items()})
        self._ownership.show_life(self._indexer.pipelines(polls))

"""Reads a replay: attaches to a live or finished run, draws batches, and changes nothing of it."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from numpy.typing import NDArray

from replay.batches.builder import BatchBuilder
from replay.batches.observations import FrameReader
from replay.config import ReplayConfig
from replay.errors import NotEnoughData, SegmentError, ShardUnavailable
from replay.items.counters import Counters
from replay.items.frame_store import FrameStore, host_store
from replay.items.priorities import Priorities
from replay.items.table import item_table
from replay.log.reader import LogReader
from replay.owner.indexer import Indexer
from replay.owner.metrics import metrics
from replay.owner.restore import Restoration, RestoreReport
from replay.segments.codec import decode
from replay.shards.records import log_order
from replay.shards.shard import LOG_START, Shard
from replay.types import Batch, Segment, SegmentIdentity, Signature

HEAD_SECONDS = 1.0
"""Longest time for which what the owner has evicted may still be drawn."""
PAGE = 64
"""Segments fetched at once by `segments`: 2 to 5 MB of encoded bytes."""


class ReplayReader:
    """Draws as the run's owner would, by the priorities that can be known: those that items were written
    with, or those of a checkpoint. `with` closes it at the end.

    It takes no ownership, allows, evicts and deletes nothing; any number may attach. The owner's own
    evictions show in the logs' heads; the few segments that leave next may be missing already, as shards are
    not read in the very order in which the owner read them. A shard that does not answer is parked, as in
    `Sampler`.
    """

    def __init__(
        self,
        config: ReplayConfig,
        shards: Sequence[Shard],
        *,
        run: str,
        signature: Signature,
        seed: int | Sequence[int],
        frame_store: FrameStore | None = None,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        """`on_close` is called by `close`, after the connections."""
        self.config, self.signature = config, signature
        self._run, self._shards, self._on_close = run, shards, on_close
        self.counters = Counters()
        store = (
            host_store(config, signature.frame_shape, signature.stack) if frame_store is None else frame_store
        )
        self.table = item_table(config, store)
        self._priorities = Priorities(config, self.table, self.counters, seed)
        # The owner may delete any entry, so none can be expected to be where it was read.
        reader = LogReader(shards, run=run, signature=signature, anchored=False)
        self._indexer = Indexer(reader, self.table, self._priorities, self.counters, owns=False)
        self._recovery = self._indexer.recovery
        self._frames = FrameReader(self.table, store, reader.cursors, signature)
        self._batches = BatchBuilder(
            config, self.table, self._priorities, self._frames, self._recovery.forget
        )
        self._heads_at = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def refresh(self) -> int:
        """Index all that is stored by now, drop what the owner evicted; returns the items added."""
        total, before = 0, None
        while before != self._indexer.positions:  # a turn may add nothing and still read on
            before = self._indexer.positions
            total += self.ingest()
        return total

    def ingest(self, limit: int = 256) -> int:
        """Index up to about `limit` new segments, drop what the owner evicted; returns the items added."""
        added = self._indexer.turn(limit).added
        if time.monotonic() - self._heads_at >= HEAD_SECONDS:
            self.drop_evicted()
        return added

    def drop_evicted(self) -> None:
        """Drop what lies before the logs' heads."""
        for shard in self._recovery.live:
            try:
                first = self._recovery.cursors[shard].shard.read_log(LOG_START, 1)
            except ShardUnavailable as error:
                self._recovery.park(shard, error)
                continue
            # An empty log has no head: all that it named has left.
            head = log_order(first[0].log_id) if first else (2**63, 0)
            while (slot := self.table.oldest(shard)) is not None:
                log_id = self.table.log_ids[slot]
                # A segment without an id waits for its log, which is being read again, to name it.
                if not log_id or log_order(log_id) >= head:
                    break
                self._indexer.eviction.evict(slot)
        self._heads_at = time.monotonic()

    def sample(self, batch_size: int) -> Batch:
        """Draw a batch as `Sampler.sample` does, without a limit, from what is indexed.

        Raises NotEnoughData without any items.
        """
        if not self.size:
            raise NotEnoughData("there is nothing to draw yet")
        batch = self._batches.draw(batch_size)
        self.counters.sampled += batch_size
        return batch

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Draw batches without an end, and index before each one what the run has stored meanwhile."""
        while True:
            self.ingest()
            yield self.sample(batch_size)

    def segments(self) -> Iterator[Segment]:
        """Yield every stored segment once, shard by shard in the order of its log.

        Segments that cannot be decoded, or leave meanwhile, are passed over (`apexpert replay --verify`
        counts them). Raises ShardError.
        """
        seen = set[SegmentIdentity]()
        for shard in self._shards:
            cursor = LOG_START
            while entries := shard.read_log(cursor, PAGE):
                cursor = entries[-1].log_id
                logged = (entry.identity for entry in entries if entry.identity is not None)
                # A writer's retry may have logged a segment twice, here or in another shard.
                wanted = [identity for identity in dict.fromkeys(logged) if identity not in seen]
                for identity, encoded in zip(wanted, shard.fetch(wanted), strict=True):
                    segment = None if encoded is None else self._decoded(encoded)
                    if segment is not None:
                        # Only now: an entry without its segment must not hide a copy elsewhere.
                        seen.add(identity)
                        yield segment

    def _decoded(self, encoded: bytes) -> Segment | None:
        try:
            return decode(encoded, run=self._run, signature=self.signature)
        except SegmentError:
            return None

    @property
    def size(self) -> int:
        """Items that can be drawn now."""
        return self.table.size

    def metrics(self) -> dict[str, float]:
        """Counters and sizes under the run's metric names."""
        return metrics(self.counters, self._recovery, self.config, misses=self._frames.misses)

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> RestoreReport:
        """Take the priorities of a `Sampler`'s checkpoint; what came after it comes with `ingest`."""
        # Neither random state nor deletions: a reader draws by its own seed and deletes nothing.
        self._indexer.restore_positions(document)
        for name, value in document["counters"].items():
            setattr(self.counters, name, value)
        restoration = Restoration(self._recovery, self.counters, document["table"], arrays)
        report = restoration.run()
        self._priorities.level()
        return report

    def close(self) -> None:
        """Close the connections, and what was opened for this reader."""
        try:
            self._frames.close()
            self._indexer.close()
        finally:
            self._on_close()

"""Write segments into the shards: encode, take a ticket, wait until the owner allows it, commit."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from apexpert.backoff import Backoff
from replay.errors import ShardError, ShardFull, ShardUnavailable, WriterStopped
from replay.segments.codec import encode
from replay.shards.availability import Probe
from replay.shards.shard import Shard
from replay.types import Segment, SegmentIdentity, Signature

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.002, 0.2
FIRST_REST_S, LONGEST_REST_S = 1.0, 60.0
"""A shard that failed is left alone for this long while others work; each time in a row twice as long."""
WARN_EVERY_S = 30.0


@dataclass
class WriterCounters:
    """A writer's work: `bytes` are encoded bytes, `retries` are attempts that had to be repeated."""

    segments: int = 0
    items: int = 0
    bytes: int = 0
    waited_s: float = 0.0
    retries: int = 0


class _EncodedSegment:
    """A segment being written, encoded when its bytes are first needed."""

    def __init__(self, segment: Segment, total: int, encoded: Callable[[], bytes]) -> None:
        self.segment, self.total, self._encode = segment, total, encoded
        self.identity = segment.identity

    @cached_property
    def data(self) -> bytes:
        """The encoded bytes."""
        return self._encode()


class _WritableShard:
    """A shard as the writer sees it: open, or left alone for a while after it failed."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.checked = False
        """Whether the signature of its data was compared with the writer's."""
        self._rests = Backoff(FIRST_REST_S, LONGEST_REST_S)
        self._rests_until = 0.0
        self._probe: Probe | None = None

    @property
    def is_open(self) -> bool:
        """Whether to use the shard: its rest is over and, if it had stopped answering, it answers again."""
        silent, rests_until = self.order
        return not silent and time.monotonic() >= rests_until

    @property
    def order(self) -> tuple[bool, float]:
        """Order in which to try closed shards: those that answer first, then by the end of their rest."""
        return (self._probe is not None and not self._probe.answered, self._rests_until)

    def fail(self, error: ShardError) -> None:
        """Leave the shard alone for a while; if it does not answer, at least until it does."""
        self._rests_until = time.monotonic() + self._rests.next()
        if isinstance(error, ShardUnavailable):
            self.close()
            # A new probe, because the old one may have been answered before this failure.
            self._probe = Probe(self.shard)

    def succeed(self) -> None:
        """Open the shard: it took a segment."""
        self.close()
        self._rests.reset()
        self._rests_until = 0.0

    def close(self) -> None:
        """Stop probing whether the shard is back."""
        if self._probe is not None:
            self._probe.close()
        self._probe = None


class Writer:
    """One actor's access to the shards, which it uses in turn from `first_shard` on; for one thread.

    `signature` is that of the data written. Segments must come in the order of their sequence
    numbers. If a shard does not answer for its `retry_seconds`, or is full, the others are used
    instead.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        *,
        run: str,
        signature: Signature,
        first_shard: int = 0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._shards = [_WritableShard(shard) for shard in shards]
        self._run, self._signature, self._should_stop = run, signature, should_stop
        self._turn = first_shard % len(self._shards)
        # Tickets that no commit gave back: they could hold allowance forever (docs/decisions/0006).
        self._left_tickets: set[tuple[int, SegmentIdentity]] = set()
        self._warned_at = -WARN_EVERY_S
        # (actor, incarnation) of the last segment, and the items that this incarnation has written.
        self._written: tuple[tuple[int, int], int] = ((-1, -1), 0)
        self.counters = WriterCounters()

    def add_shard(self, shard: Shard) -> None:
        """Use one more shard from now on."""
        self._shards.append(_WritableShard(shard))

    def metrics(self) -> dict[str, float]:
        """Return the counters, and retries of single calls, under the run's metric names; from any thread."""
        repeated = sum(writable.shard.retries for writable in self._shards)
        counters = asdict(self.counters) | {"connection_retries": repeated}
        return {f"writer/{name}": float(value) for name, value in counters.items()}

    def close(self) -> None:
        """Stop probing shards that do not answer."""
        for writable in self._shards:
            writable.close()

    def write(self, segment: Segment, *, wait: bool = True) -> int:
        """Store one segment and return its encoded bytes; once it returns, the segment is acknowledged.

        With `wait`, wait as long as needed for the owner's allowance, for a shard that can be
        reached and for room in it; raises WriterStopped if `should_stop()` turns true meanwhile
        (write the segment again to keep it). Without, try each shard once and raise
        ShardUnavailable or ShardFull if none takes it. Raises SignatureMismatch if the shards hold
        data that this writer's cannot join.
        """
        total = self._total(segment)
        encoded = _EncodedSegment(segment, total, lambda: encode(segment, self._run, self._signature))
        self._release_left_tickets()
        if wait:
            self._write_patiently(encoded)
        else:
            self._write_now(encoded)
        self._turn = (self._turn + 1) % len(self._shards)
        self._written = (segment.identity[:2], total)
        self.counters.segments += 1
        self.counters.items += segment.num_items
        self.counters.bytes += len(encoded.data)
        return len(encoded.data)

    def _total(self, segment: Segment) -> int:
        """Return the items of this incarnation up to and including this segment."""
        incarnation, items = self._written
        return segment.num_items + (items if incarnation == segment.identity[:2] else 0)

    def _write_patiently(self, encoded: _EncodedSegment) -> None:
        waits, attempt = self._new_waits(), 0
        while True:
            index = self._pick()
            try:
                self._reserve_and_commit(index, encoded, attempt)
                return
            except (WriterStopped, ValueError):  # told to stop, or a segment that cannot be encoded
                self._left_tickets.add((index, encoded.identity))
                raise
            except (ShardUnavailable, ShardFull) as error:
                self._leave(index, encoded, error)
                attempt += 1
            self._wait(waits)

    def _write_now(self, encoded: _EncodedSegment) -> None:
        error: ShardError | None = None
        # No ticket is taken: a writer that drains does not wait for allowance.
        first = self._pick()
        for index in (*range(first, len(self._shards)), *range(first)):
            try:
                self._commit(index, encoded)
                return
            except (ShardUnavailable, ShardFull) as refusal:
                error = refusal
                self._leave(index, encoded, refusal)
        assert error is not None
        raise error

    def _reserve_and_commit(self, index: int, encoded: _EncodedSegment, attempt: int) -> None:
        shard, waits = self._shards[index].shard, self._new_waits()
        ticket: int | None = None
        # Before a ticket is taken, which a mismatch would leave in the book.
        self._check_signature(index)
        while True:
            if ticket is None:
                asked = shard.writing.ask_ticket(encoded.identity, encoded.segment.num_items, attempt=attempt)
                _ = encoded.data  # encoded while the ticket is on its way
                ticket, covered = shard.writing.take_ticket(asked)
                if covered:
                    break
            allowed, held = shard.writing.ticket_state(encoded.identity)
            if not held:  # the server lost its last second, or the owner took this writer for dead
                ticket = None
            elif allowed > ticket - encoded.segment.num_items:
                # Any item covered is enough: the overdraw stays below one segment a writer.
                break
            self._wait(waits)
        self._commit(index, encoded)

    def _commit(self, index: int, encoded: _EncodedSegment) -> None:
        self._check_signature(index)
        writable, segment = self._shards[index], encoded.segment
        writable.shard.writing.commit(
            encoded.identity, encoded.data, segment.num_items, segment.num_steps, encoded.total
        )
        writable.succeed()
        self._left_tickets.discard((index, encoded.identity))  # the commit gave the ticket back

    def _check_signature(self, index: int) -> None:
        writable = self._shards[index]
        if not writable.checked:
            writable.shard.check_meta(self._signature, writes=True)
            writable.shard.writing.keep_one_line()  # thousands of writers may be connected
            writable.checked = True

    def _pick(self) -> int:
        """Return the shard whose turn it is, skipping closed shards as long as any is open."""
        order = [(self._turn + step) % len(self._shards) for step in range(len(self._shards))]
        is_open = [index for index in order if self._shards[index].is_open]
        return is_open[0] if is_open else min(order, key=lambda index: self._shards[index].order)

    def _leave(self, index: int, encoded: _EncodedSegment, error: ShardError) -> None:
        """Use other shards for a while; the ticket here is given back once the shard can be used again."""
        self._shards[index].fail(error)
        self._left_tickets.add((index, encoded.identity))
        self.counters.retries += 1
        self._warn(error)

    def _release_left_tickets(self) -> None:
        for index, identity in list(self._left_tickets):
            writable = self._shards[index]
            if not writable.is_open:
                # A shard that does not answer would delay each segment by `retry_seconds`.
                continue
            try:
                writable.shard.writing.drop_outstanding([identity])
            except ShardError as error:
                writable.fail(error)
                self._warn(error)
            else:
                self._left_tickets.discard((index, identity))

    def _new_waits(self) -> Backoff:
        return Backoff(FIRST_WAIT_S, LONGEST_WAIT_S, jitter=True)

    def _wait(self, waits: Backoff) -> None:
        """Sleep until the next try, and count the time; raise WriterStopped when told to stop."""
        if self._should_stop():
            raise WriterStopped("told to stop while waiting to write a segment")
        began = time.monotonic()
        time.sleep(waits.next())
        self.counters.waited_s += time.monotonic() - began

    def _warn(self, error: ShardError) -> None:
        if time.monotonic() - self._warned_at >= WARN_EVERY_S:
            self._warned_at = time.monotonic()
            log.warning("writing waits: %s", error)

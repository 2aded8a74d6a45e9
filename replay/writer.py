"""Writes segments into the shards: encode, take a ticket, wait until the owner allows it, commit."""

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from replay.errors import ShardError, ShardFull, ShardUnavailable, WriterStopped
from replay.segment import encode
from replay.shard import Shard
from replay.types import Segment, SegmentIdentity, Signature

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.002, 0.2
SHARD_DOWN_S = 10.0
"""A shard that could not be reached is left alone for so long, while others can be."""
PROBE_S = 1.0
"""Then it is tried again, for this long instead of its whole retry budget."""
WARN_EVERY_S = 30.0


@dataclass
class WriterCounters:
    """What a writer has done: `bytes` are encoded ones, `retries` are attempts that another had to follow."""

    segments: int = 0
    items: int = 0
    bytes: int = 0
    waited_s: float = 0.0
    retries: int = 0


@dataclass(frozen=True)
class _Parcel:
    identity: SegmentIdentity
    data: bytes
    num_items: int
    num_steps: int


class Writer:
    """One actor's way into the shards, which it uses in turns from `first_shard` on; for one thread.

    `signature` is of the data written. Segments must come in the order of their sequence numbers.
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
        self._shards = list(shards)
        self._run, self._signature, self._should_stop = run, signature, should_stop
        self._turn = first_shard % len(self._shards)
        self._checked: set[int] = set()
        self._budgets = [shard.retry_seconds for shard in self._shards]
        self._down_until = [0.0] * len(self._shards)
        self._left_tickets: set[tuple[int, SegmentIdentity]] = set()
        self._warned_at = -WARN_EVERY_S
        self.counters = WriterCounters()

    def write(self, segment: Segment, *, wait: bool = True) -> int:
        """Store one segment and return its encoded bytes; once it returns, the segment is acknowledged.

        With `wait`, it waits for the owner's allowance, for a shard that can be reached and for room in it,
        as long as needed, and raises WriterStopped when `should_stop()` says so meanwhile (write it again to
        keep it). Without, it tries each shard once and raises ShardUnavailable or ShardFull when none takes
        it. Raises SignatureMismatch when the shards hold data that this writer's cannot join.
        """
        data = encode(segment, self._run, self._signature)
        parcel = _Parcel(segment.identity, data, segment.num_items, segment.num_steps)
        self._release_left_tickets()
        if wait:
            self._write_patiently(parcel)
        else:
            self._write_now(parcel)
        self._turn = (self._turn + 1) % len(self._shards)
        self.counters.segments += 1
        self.counters.items += parcel.num_items
        self.counters.bytes += len(data)
        return len(data)

    def _write_patiently(self, parcel: _Parcel) -> None:
        backoff, attempt = FIRST_WAIT_S, 0
        while True:
            index = self._pick()
            try:
                self._reserve_and_commit(index, parcel, attempt)
                return
            except WriterStopped:
                self._left_tickets.add((index, parcel.identity))
                raise
            except ShardUnavailable as error:
                self._leave(index, parcel, error)
                attempt += 1
            except ShardFull as error:
                # The owner makes room: it stays with this shard, and takes a new ticket then.
                self._left_tickets.add((index, parcel.identity))
                self._warn(error)
            self.counters.retries += 1
            backoff = self._pause(backoff)

    def _write_now(self, parcel: _Parcel) -> None:
        error: ShardError | None = None
        for _ in self._shards:
            index = self._pick()
            try:
                self._commit(index, parcel)
                return
            except (ShardUnavailable, ShardFull) as refusal:
                error = refusal
                self._leave(index, parcel, refusal)
                self.counters.retries += 1
        assert error is not None
        raise error

    def _reserve_and_commit(self, index: int, parcel: _Parcel, attempt: int) -> None:
        shard, backoff, ticket = self._shards[index], FIRST_WAIT_S, None
        self._check_signature(index)
        while True:
            if ticket is None:
                ticket = shard.reserve(parcel.identity, parcel.num_items, attempt=attempt)
            allowed, held = shard.ticket_state(parcel.identity)
            if not held:  # a server that lost its last second, or an owner that thought us dead
                ticket = None
            elif allowed > ticket - parcel.num_items:
                break
            backoff = self._pause(backoff)
        self._commit(index, parcel)

    def _commit(self, index: int, parcel: _Parcel) -> None:
        self._check_signature(index)
        self._shards[index].commit(parcel.identity, parcel.data, parcel.num_items, parcel.num_steps)
        self._down_until[index] = 0.0
        self._shards[index].retry_seconds = self._budgets[index]
        self._left_tickets.discard((index, parcel.identity))

    def _check_signature(self, index: int) -> None:
        if index not in self._checked:
            self._shards[index].check_meta(self._signature, writes=True)
            self._checked.add(index)

    def _pick(self) -> int:
        """The shard whose turn it is, passing over those that are down as long as one is not."""
        order = [(self._turn + step) % len(self._shards) for step in range(len(self._shards))]
        now = time.monotonic()
        return min(order, key=lambda index: max(self._down_until[index], now))

    def _leave(self, index: int, parcel: _Parcel, error: ShardError) -> None:
        """Use other shards for a while; the ticket here is given back when the shard can be reached."""
        self._down_until[index] = time.monotonic() + SHARD_DOWN_S
        self._shards[index].retry_seconds = min(PROBE_S, self._budgets[index])
        self._left_tickets.add((index, parcel.identity))
        self._warn(error)

    def _release_left_tickets(self) -> None:
        for index, identity in list(self._left_tickets):
            if self._down_until[index] > time.monotonic():
                continue
            try:
                self._shards[index].drop_outstanding([identity])
            except ShardError as error:
                self._down_until[index] = time.monotonic() + SHARD_DOWN_S
                self._warn(error)
            else:
                self._left_tickets.discard((index, identity))

    def _pause(self, backoff: float) -> float:
        """Sleep about `backoff` seconds and return the next, longer one; jitter keeps writers apart."""
        if self._should_stop():
            raise WriterStopped("told to stop while waiting to write a segment")
        began = time.monotonic()
        time.sleep(backoff * random.uniform(0.5, 1.0))
        self.counters.waited_s += time.monotonic() - began
        return min(2 * backoff, LONGEST_WAIT_S)

    def _warn(self, error: ShardError) -> None:
        if time.monotonic() - self._warned_at >= WARN_EVERY_S:
            self._warned_at = time.monotonic()
            log.warning("writing waits: %s", error)

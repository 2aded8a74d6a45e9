"""Commands of tests alone to shards: take a ticket in one call, delete segments alone, read logs at once."""

from collections.abc import Iterable

from replay.log.reader import LogReader, ReceivedSegment
from replay.shards.shard import Shard
from replay.types import SegmentIdentity


def reserve(shard: Shard, identity: SegmentIdentity, items: int, *, attempt: int = 0) -> tuple[int, bool]:
    """Take a ticket; its end, and whether any of it is allowed yet."""
    asked = shard.writing.ask_ticket(identity, items, attempt=attempt)
    return shard.writing.take_ticket(asked)


def unlink(shard: Shard, identities: Iterable[SegmentIdentity]) -> None:
    """Delete segments and leave their log entries."""
    shard.pipelined(list(identities), lambda pipe, identity: pipe.unlink(shard.segment_key(identity)))


def read_new(reader: LogReader, limit: int) -> list[ReceivedSegment]:
    """Poll all shards and take what is new; raises ShardUnavailable if a shard does not answer."""
    received = list(reader.take(reader.poll(limit)))
    for error in reader.failures.values():
        raise error
    return received

"""Read a shard without taking part in its run; put and remove whole runs."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from replay.shards.records import LogEntry, entry_fields
from replay.shards.shard import LOG_START, Shard
from replay.types import SegmentIdentity, Signature

SCAN_COUNT = 1000
UNLINK_KEYS = 256


class StoredKeys(NamedTuple):
    """The keys that a shard's server holds of one run."""

    segments: set[SegmentIdentity]
    others: list[str]
    """Names below the run's prefix, without it: log, meta, counters, and any unknown keys."""


class StoredShard(Shard):
    """A shard read from outside the run; only `put`, `put_signature` and `delete` write."""

    def signature(self) -> Signature | None:
        """Return the noted signature of the data here, None if no writer or owner has been here."""
        encoded = self.call(lambda: self.client.get(self.meta_key))
        return None if encoded is None else self._parse_signature(encoded)

    def entries(self, page: int = 1000) -> Iterator[list[LogEntry]]:
        """Yield the log in pages, oldest first, including entries appended meanwhile."""
        cursor = LOG_START
        while entries := self.read_log(cursor, page):
            yield entries
            cursor = entries[-1].log_id

    def keys(self) -> StoredKeys:
        """Return the run's keys, by SCAN over the server, where other runs' keys are skipped."""
        names = [name.decode(errors="replace") for name in self._names()]
        prefix = self._segment_prefix
        segments, others = set(), []
        for name in names:
            identity = _identity(name.removeprefix(prefix)) if name.startswith(prefix) else None
            if identity is None:
                others.append(name.removeprefix(self._prefix))
            else:
                segments.add(identity)
        return StoredKeys(segments, sorted(others))

    def exist(self, identities: Sequence[SegmentIdentity]) -> list[bool]:
        """Return whether each segment is stored, whatever the log says."""
        found = self.pipelined(identities, lambda pipe, identity: pipe.exists(self.segment_key(identity)))
        return [bool(count) for count in found]

    def has_owner_at_work(self) -> bool:
        """Whether an owner of the run gave a sign of life here within LIFE_SECONDS and still works."""
        return bool(self.call(lambda: self.client.exists(self.alive_key)))

    def put(self, entries: Sequence[LogEntry], segments: Sequence[bytes]) -> None:
        """Append segments under given log ids, which must be later than all ids here, in one transaction.

        For putting a whole run here: no ticket is asked for. Raises ShardFull.
        """

        def write() -> None:
            with self.client.pipeline(transaction=True) as pipe:
                for entry, data in zip(entries, segments, strict=True):
                    assert entry.identity is not None
                    # The id is kept, so that the cursors of a checkpoint fit the copy. The entry comes
                    # first, as in `ShardWriting.commit`.
                    pipe.xadd(self.log, entry_fields(entry._replace(num_bytes=len(data))), id=entry.log_id)
                    pipe.set(self.segment_key(entry.identity), data)
                pipe.execute()

        self.call(write)

    def put_signature(self, signature: Signature) -> None:
        """Note the signature of the data that is put here; raises SignatureMismatch if other data is here."""
        self.check_meta(signature, writes=True)

    def delete(self) -> int:
        """Remove every key of the run from this server and return how many there were.

        Without a MULTI, which a full server refuses.
        """
        names = self._names()
        chunks = [names[start : start + UNLINK_KEYS] for start in range(0, len(names), UNLINK_KEYS)]
        return sum(self.pipelined(chunks, lambda pipe, chunk: pipe.unlink(*chunk)))

    def _names(self) -> list[bytes]:
        """Return the run's keys as the server has them: a key of somebody else may be no text."""

        def scan() -> list[bytes]:
            # A run's name has no pattern characters (Shard), so only keys of this run match.
            found = self.client.scan_iter(match=f"{self._prefix}*", count=SCAN_COUNT)
            # SCAN may return a key more than once.
            return sorted(set(found))

        return self.call(scan)


def _identity(text: str) -> SegmentIdentity | None:
    """Return the identity in a segment's key, None if it is not ours."""
    try:
        return SegmentIdentity.parse(text)
    except ValueError:
        return None

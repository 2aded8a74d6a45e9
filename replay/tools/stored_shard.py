"""A shard seen from outside: what is stored, without taking part in the run; whole runs put and removed."""

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
    """Names below the run's prefix, without it: log, meta, counters, and whatever nobody knows."""


class StoredShard(Shard):
    """A shard read from outside; nothing but `put`, `put_signature` and `delete` writes."""

    def signature(self) -> Signature | None:
        """The signature that the data here was noted with, None where no writer or owner has been."""
        encoded = self.call(lambda: self.client.get(self.meta_key))
        return None if encoded is None else self._parse_signature(encoded)

    def entries(self, page: int = 1000) -> Iterator[list[LogEntry]]:
        """The log, oldest first, in pages; what is appended meanwhile comes too."""
        cursor = LOG_START
        while entries := self.read_log(cursor, page):
            yield entries
            cursor = entries[-1].log_id

    def keys(self) -> StoredKeys:
        """The run's keys, by SCAN over the server; other runs' keys are passed over there."""
        names = self._names()
        prefix = f"{self._prefix}seg:"
        segments, others = set(), []
        for name in names:
            identity = _identity(name.removeprefix(prefix)) if name.startswith(prefix) else None
            if identity is None:
                others.append(name.removeprefix(self._prefix))
            else:
                segments.add(identity)
        return StoredKeys(segments, sorted(others))

    def exist(self, identities: Sequence[SegmentIdentity]) -> list[bool]:
        """Whether segments are stored, whatever the log says."""
        found = self.pipelined(identities, lambda pipe, identity: pipe.exists(self.segment_key(identity)))
        return [bool(count) for count in found]

    def has_owner_at_work(self) -> bool:
        """Whether a sampler that owns the run gave a sign of life here within LIFE_SECONDS, and goes on."""
        return bool(self.call(lambda: self.client.exists(self.alive_key)))

    def put(self, entries: Sequence[LogEntry], segments: Sequence[bytes]) -> None:
        """Append segments under given log ids, which must be later than all that are here; one transaction.

        For a run that is being put here as a whole: no ticket is asked for. Raises ShardFull.
        """

        def write() -> None:
            with self.client.pipeline(transaction=True) as pipe:
                for entry, data in zip(entries, segments, strict=True):
                    pipe.set(f"{self._prefix}seg:{entry.identity}", data)
                    pipe.xadd(self.log, entry_fields(entry._replace(num_bytes=len(data))), id=entry.log_id)
                pipe.execute()

        self.call(write)

    def put_signature(self, signature: Signature) -> None:
        """Note the signature of data that is put here; SignatureMismatch when other data is here."""
        self.check_meta(signature, writes=True)

    def delete(self) -> int:
        """Remove every key of the run from this server; returns how many there were. No MULTI."""
        names = self._names()
        chunks = [names[start : start + UNLINK_KEYS] for start in range(0, len(names), UNLINK_KEYS)]
        return sum(self.pipelined(chunks, lambda pipe, chunk: pipe.unlink(*chunk)))

    def _names(self) -> list[str]:
        def scan() -> list[str]:
            found = self.client.scan_iter(match=f"{self._prefix}*", count=SCAN_COUNT)
            return sorted({name.decode(errors="replace") for name in found})

        return self.call(scan)


def _identity(text: str) -> SegmentIdentity | None:
    """The identity in a segment's key, None where it is not one of ours (only the canonical spelling is)."""
    try:
        identity = SegmentIdentity.parse(text)
    except ValueError:
        return None
    return identity if str(identity) == text and min(identity) >= 0 else None

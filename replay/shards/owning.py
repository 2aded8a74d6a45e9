"""Commands of a shard's single owner; its frequent requests go through a ShardPipeline."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import redis

from replay.errors import StaleOwner
from replay.shards.pipeline import Request, pack
from replay.shards.records import Owner, parse_owner
from replay.types import SegmentIdentity

if TYPE_CHECKING:
    from replay.shards.shard import Shard

LIFE_SECONDS = 300
"""A run counts as live for this long after its owner's last sign of life, the `alive` key."""
NAMES_PER_COMMAND = 256
"""Keys or entries deleted by one command, so that no command blocks the server for long."""


class ShardOwning:
    """A shard as seen by its owner."""

    def __init__(self, shard: "Shard") -> None:
        self._shard = shard

    def set_allowed(self, end: int) -> None:
        """Allow the commit of tickets that begin before `end`."""
        self._shard.call(lambda: self._shard.client.set(self._shard.allowed_key, end))

    def deletion(self, entries: Sequence[tuple[str, SegmentIdentity | None]]) -> Request:
        """Return a request that deletes log entries and the segments they name.

        Segments are deleted before their entries: an interrupted deletion leaves entries without a
        segment (counted as missing), never segments that nothing names. There are only UNLINK and
        XDEL, and no MULTI, which a full Redis refuses.
        """
        keys = [self._shard.segment_key(identity) for _, identity in entries if identity is not None]
        # Without an id there is a key alone to delete (`PendingDeletions.note`).
        log_ids = [log_id for log_id, _ in entries if log_id]
        unlinks = [("UNLINK", *part) for part in _parts(keys)]
        return pack(*unlinks, *[("XDEL", self._shard.log, *part) for part in _parts(log_ids)])

    def owner(self) -> Owner:
        """Return who owns this shard."""
        return self._shard.call(lambda: parse_owner(self._shard.client.get(self._shard.owner_key)))

    def take(self, owner: Owner) -> None:
        """Note `owner` as the owner of this shard, and as alive; raises StaleOwner if a later one has it."""

        def note() -> bool:
            with self._shard.client.pipeline(transaction=True) as pipe:
                # Of two samplers that take the shard at once, WATCH lets only one write its note.
                pipe.watch(self._shard.owner_key)
                held = parse_owner(pipe.get(self._shard.owner_key))
                if held != owner and held.epoch >= owner.epoch:
                    raise StaleOwner(f"{self._shard} belongs to a later sampler: this one ends")
                pipe.multi()
                pipe.set(self._shard.owner_key, str(owner))
                pipe.set(self._shard.alive_key, str(owner), ex=LIFE_SECONDS)
                try:
                    pipe.execute()
                except redis.WatchError:
                    # Somebody else wrote the owner key since it was read: read it again.
                    return False
                return True

        # Ends: a repeat finds a later owner, or nobody writes in between.
        while not self._shard.call(note):
            pass


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + NAMES_PER_COMMAND] for start in range(0, len(names), NAMES_PER_COMMAND)]

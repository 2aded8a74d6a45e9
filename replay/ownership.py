"""One owner: only the sampler that took the shards last may evict and allow."""

import secrets
from collections.abc import Mapping, Sequence

from replay.errors import ShardFull, ShardUnavailable, StaleOwner
from replay.records import Owner, parse_owner
from replay.shard import Shard


class Ownership:
    """An epoch in every shard, written by who takes them; the highest one is the owner's.

    An owner looks before it evicts or allows (its look brings the note along), so that one which was paused
    while another took over finds out first and ends. A Redis out of memory takes no note; then the new owner
    evicts without one, and notes it as soon as there is room.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._mine = Owner()

    @property
    def is_taken(self) -> bool:
        """Whether the shards were ever taken."""
        return self._mine.epoch > 0

    def take(self) -> dict[int, ShardUnavailable]:
        """Take all shards, from whoever had them; returns those that do not answer."""
        failures: dict[int, ShardUnavailable] = {}
        epochs = [0]
        for shard in self._shards:
            try:
                epochs.append(shard.owner().epoch)
            except ShardUnavailable as error:
                failures[shard.index] = error
        self._mine = Owner(max(epochs) + 1, secrets.token_hex(8))
        for shard in self._shards:
            if shard.index not in failures:
                self._take(shard)
        return failures

    def check(self, notes: Mapping[int, bytes | None]) -> None:
        """Raise StaleOwner when any of these notes, by shard, is of somebody later.

        A note that is missing or older (a server lost its file's end, or was out of reach when the others
        were taken) is written again.
        """
        mine = str(self._mine).encode()
        for shard, note in notes.items():
            if note == mine:
                continue
            held = parse_owner(note)
            if held.epoch >= self._mine.epoch:
                raise StaleOwner(f"{self._shards[shard]} belongs to a later sampler: this one ends")
            self._take(self._shards[shard])

    def _take(self, shard: Shard) -> None:
        try:
            shard.take(self._mine)
        except (ShardFull, ShardUnavailable):
            return  # the next look shows that it is not noted, or that the shard does not answer

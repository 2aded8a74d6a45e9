"""One owner: only the sampler that took the shards last may evict and allow."""

import secrets
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from replay.errors import ShardFull, ShardUnavailable, StaleOwner
from replay.shards.owning import LIFE_SECONDS
from replay.shards.pipeline import ShardPipeline, pack
from replay.shards.records import Owner, parse_owner
from replay.shards.shard import Shard

SIGN_EVERY_S = LIFE_SECONDS / 15


class Ownership:
    """An epoch in every shard, written by who takes them; the highest one is the owner's.

    An owner polls before it evicts or allows (its poll brings the note along), so that one which was paused
    while another took over finds out first and ends. A Redis out of memory takes no note; then the new owner
    evicts without one, and notes it as soon as there is room. While it works it leaves a sign of life in all
    shards, so that nobody deletes a run that is only slow or waits.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._mine = Owner()
        self._is_stale = False
        self._signed_at: defaultdict[int, float] = defaultdict(lambda: float("-inf"))

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
                epochs.append(shard.owning.owner().epoch)
            except ShardUnavailable as error:
                failures[shard.index] = error
        # Not before the clock: a shard that is away now may have a later epoch than those that are here.
        self._mine = Owner(max(max(epochs) + 1, int(1000 * time.time())), secrets.token_hex(8))
        self._is_stale = False
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
                self._is_stale = True
                raise StaleOwner(f"{self._shards[shard]} belongs to a later sampler: this one ends")
            self._take(self._shards[shard])

    def show_life(self, links: Mapping[int, ShardPipeline]) -> None:
        """Leave a sign of life in these shards, now and then; their answers come with later ones."""
        now = time.monotonic()
        for shard, pipeline in links.items():
            if now - self._signed_at[shard] >= SIGN_EVERY_S:
                self._signed_at[shard] = now
                sign = ("SET", self._shards[shard].alive_key, str(self._mine), "EX", LIFE_SECONDS)
                pipeline.tell(pack(sign), _ignore)

    def leave(self, links: Mapping[int, ShardPipeline]) -> None:
        """Take the signs of life back: this owner works no more."""
        if self.is_taken and not self._is_stale:
            for shard, pipeline in links.items():
                pipeline.tell(pack(("UNLINK", self._shards[shard].alive_key)), _ignore)

    def _take(self, shard: Shard) -> None:
        try:
            shard.owning.take(self._mine)
        except (ShardFull, ShardUnavailable):
            return  # the next poll shows that it is not noted, or that the shard does not answer


def _ignore(answers: object) -> None:
    """A sign that a server did not take is left out: the next one, or another shard's, is enough."""

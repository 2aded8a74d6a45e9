"""Single ownership: only the sampler that took the shards last may evict and allow."""

import secrets
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

from replay.errors import ShardFull, ShardUnavailable, StaleOwner
from replay.shards.owning import LIFE_SECONDS
from replay.shards.pipeline import ShardPipeline, pack
from replay.shards.records import Owner, parse_owner
from replay.shards.shard import Shard

# 20 s: several signs may fail before a run counts as dead (docs/decisions/0018).
SIGN_EVERY_S = LIFE_SECONDS / 15


class Ownership:
    """An epoch in every shard, written by the sampler that takes it; the highest epoch is the owner's.

    An owner polls before it evicts or allows, and the poll returns the note: an owner that was
    paused while another took over therefore finds out first, and ends. A Redis that is out of
    memory takes no note; the new owner then evicts without it, and notes it as soon as there is
    room. While the owner works it leaves a sign of life in all shards, so that nobody deletes a run
    that is only slow or waiting.
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
        """Take all shards from any previous owner; return those that do not answer."""
        failures: dict[int, ShardUnavailable] = {}
        # Nobody's epoch, so that there is a largest when no shard answers.
        epochs = [0]
        for shard in self._shards:
            try:
                epochs.append(shard.owning.owner().epoch)
            except ShardUnavailable as error:
                failures[shard.index] = error
        # At least the clock: a shard that does not answer now may have a later epoch than those that do.
        self._mine = Owner(max(max(epochs) + 1, int(1000 * time.time())), secrets.token_hex(8))
        self._is_stale = False
        for shard in self._shards:
            if shard.index not in failures:
                self._take(shard)
        return failures

    def check(self, notes: Mapping[int, bytes | None]) -> None:
        """Raise StaleOwner if any of these notes, by shard, is that of a later owner.

        A note that is missing or older (a server lost the end of its file, or did not answer when
        the others were taken) is written again.
        """
        mine = str(self._mine).encode()
        for shard_index, note in notes.items():
            if note == mine:
                continue
            held = parse_owner(note)
            # Another owner with the same epoch counts as later: `take` keeps the first note.
            if held.epoch >= self._mine.epoch:
                self._is_stale = True
                raise StaleOwner(f"{self._shards[shard_index]} belongs to a later sampler: this one ends")
            self._take(self._shards[shard_index])

    def show_life(self, links: Mapping[int, ShardPipeline]) -> None:
        """Leave a sign of life in these shards, now and then; their answers are read with later ones."""
        now = time.monotonic()
        for shard_index, pipeline in links.items():
            if now - self._signed_at[shard_index] >= SIGN_EVERY_S:
                self._signed_at[shard_index] = now
                sign = ("SET", self._shards[shard_index].alive_key, str(self._mine), "EX", LIFE_SECONDS)
                pipeline.tell(pack(sign), _ignore)

    def leave(self, links: Mapping[int, ShardPipeline]) -> None:
        """Delete the signs of life: this owner no longer works."""
        # A stale owner would delete the sign of life of its successor.
        if self.is_taken and not self._is_stale:
            for shard_index, pipeline in links.items():
                pipeline.tell(pack(("UNLINK", self._shards[shard_index].alive_key)), _ignore)

    def _take(self, shard: Shard) -> None:
        try:
            shard.owning.take(self._mine)
        except (ShardFull, ShardUnavailable):
            return  # the next poll shows that it is not noted, or that the shard does not answer


def _ignore(answers: object) -> None:
    """Ignore a sign of life that a server refused: the next, or another shard's, is enough."""

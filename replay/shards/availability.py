"""Shards that are out of reach: noticed once, left alone, and asked in the background until they answer."""

import logging
import threading

from replay.errors import ShardError
from replay.shards.connection import JITTER
from replay.shards.shard import Shard

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0


class Probe:
    """Asks a shard in a thread of its own until it answers, so that nobody waits for it meanwhile.

    A frozen server takes the connection and says nothing: only somebody who waits can tell when it is back.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._answered, self._closed = threading.Event(), threading.Event()
        threading.Thread(target=self._ask, name=f"probe of shard {shard.index}", daemon=True).start()

    @property
    def answered(self) -> bool:
        """Whether the shard is back."""
        return self._answered.is_set()

    def close(self) -> None:
        """Ask no more; a question that is on its way ends by itself."""
        self._closed.set()

    def _ask(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._closed.is_set():
            try:
                self._shard.ping()
            except ShardError:
                self._closed.wait(pause * JITTER.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                self._answered.set()
                return


class ShardAvailability:
    """Which of a sampler's shards are out of reach."""

    def __init__(self) -> None:
        self._probes: dict[int, Probe] = {}

    def __len__(self) -> int:
        return len(self._probes)

    def __contains__(self, shard: int) -> bool:
        return shard in self._probes

    def park(self, shard: Shard, error: ShardError) -> None:
        """Leave a shard alone until it answers."""
        if shard.index not in self._probes:
            logger.warning("%s; the others go on", error)
            self._probes[shard.index] = Probe(shard)

    def returned(self) -> list[int]:
        """Shards that answer again; they are not parked any more."""
        back = [shard for shard, probe in self._probes.items() if probe.answered]
        for shard in back:
            del self._probes[shard]
        return back

    def close(self) -> None:
        """Ask no more."""
        for probe in self._probes.values():
            probe.close()

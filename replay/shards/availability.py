"""Track shards that are out of reach: log the failure once, park the shard, and probe it until it answers."""

import logging
import threading

from apexpert.backoff import Backoff
from replay.errors import ShardError
from replay.shards.shard import Shard

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0


class Probe:
    """Pings a shard in a separate thread until it answers, so that nothing else waits for it meanwhile.

    A frozen server accepts the connection and never replies: only a client that waits can tell when
    it is back.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._answered, self._closed = threading.Event(), threading.Event()
        # A daemon: a ping to a frozen server must not delay the end of the process.
        threading.Thread(target=self._ask, name=f"probe of shard {shard.index}", daemon=True).start()

    @property
    def answered(self) -> bool:
        """Whether the shard is back."""
        return self._answered.is_set()

    def close(self) -> None:
        """Stop probing; a ping that is already sent ends by itself."""
        self._closed.set()

    def _ask(self) -> None:
        # Jitter, so that the probes of many processes do not reach a restarting server together.
        pauses = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, jitter=True)
        while not self._closed.is_set():
            try:
                self._shard.ping()
            except ShardError:
                self._closed.wait(pauses.next())
            else:
                self._answered.set()
                return


class ShardAvailability:
    """The set of a sampler's shards that are out of reach, by index."""

    def __init__(self) -> None:
        self._probes: dict[int, Probe] = {}

    def __len__(self) -> int:
        return len(self._probes)

    def __contains__(self, shard_index: int) -> bool:
        return shard_index in self._probes

    def park(self, shard: Shard, error: ShardError) -> None:
        """Leave a shard alone until it answers, and probe it meanwhile."""
        # Several calls notice the same failure: one probe, and one line in the log.
        if shard.index not in self._probes:
            logger.warning("%s; the others continue", error)
            self._probes[shard.index] = Probe(shard)

    def returned(self) -> list[int]:
        """Return the indices of shards that answer again; they are no longer parked."""
        back = [index for index, probe in self._probes.items() if probe.answered]
        for index in back:
            del self._probes[index]
        return back

    def close(self) -> None:
        """Stop all probes."""
        for probe in self._probes.values():
            probe.close()

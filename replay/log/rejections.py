"""Count by kind what a reader of the shards refuses, and log it now and then."""

import logging
from collections.abc import MutableMapping

from replay.errors import SegmentError

log = logging.getLogger(__name__)

REJECTED = {
    "corrupt": "damaged; if there are many, check the server's disk and memory, and who else writes there",
    "stray": "somebody else writes into this run's log; give every run a --name of its own",
    "version": "",
    "run": "",
    "signature": "",
}
"""The kinds, and what to do about each where the error's own message does not say."""


class Rejections:
    """Counts into `counters`, under each error's kind.

    Logs the 1st of a kind, the 10th, the 100th and so on: a shard full of segments of another shape
    takes a few lines, not one per segment.
    """

    def __init__(self, counters: MutableMapping[str, int]) -> None:
        self._counters = counters

    def note(self, error: SegmentError, where: str) -> None:
        """Count one segment or log entry that was skipped; `where` names its shard and log entry."""
        count = self._counters[error.kind] = self._counters.get(error.kind, 0) + 1
        if count == 10 ** (len(str(count)) - 1):
            advice = REJECTED[error.kind]
            text = f"{error} ({advice})" if advice else str(error)
            log.warning("skipped, %d of kind %r so far: %s: %s", count, error.kind, where, text)

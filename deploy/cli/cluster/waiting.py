"""A start that waits for a node of the cluster: says why, and ends on Ctrl-C."""

import time

from deploy.cli.errors import CommandFailed
from deploy.cli.run.follow import StopRequests

AGAIN_SECONDS = 20.0


class Waiting:
    """Called several times a second while the run waits; prints the reason when it has another one."""

    def __init__(self, interrupts: StopRequests) -> None:
        self._interrupts, self._said, self._at = interrupts, "", -AGAIN_SECONDS

    def __call__(self, why: str) -> None:
        """Print `why`, seldom; raise CommandFailed once the command is interrupted."""
        if self._interrupts.count:
            raise CommandFailed("ended while the run waited for a node of the cluster: nothing was started")
        # What is free changes all the time where others start and end.
        if why and why != self._said and time.monotonic() - self._at >= AGAIN_SECONDS:
            print(why, flush=True)
            self._said, self._at = why, time.monotonic()

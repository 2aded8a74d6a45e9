"""Wait for room on a full disk."""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from replay.errors import ServersStopped

logger = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_S = 0.5


def with_room(write: Callable[[], T], seconds: float, should_stop: Callable[[], bool]) -> T:
    """Return what `write` returns; repeat it for up to `seconds` while it finds the disk full.

    After that, or for any other reason, its error is raised; ServersStopped if `should_stop`
    returns True.
    """
    began, told = time.monotonic(), False
    while True:
        try:
            return write()
        except OSError as error:
            # A user's quota that is used up is a full disk to that user alone.
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if not is_full or time.monotonic() - began >= seconds:
                raise
            if not told:
                logger.warning("the embedded servers wait for room on the disk: %s", error)
            told = True
        if should_stop():
            raise ServersStopped("told to stop before the embedded servers had room on the disk")
        time.sleep(RETRY_S)

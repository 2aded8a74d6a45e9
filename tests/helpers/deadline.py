"""Waiting for something with a deadline, in place of sleeping and hoping.

APEXPERT_TEST_PATIENCE multiplies every deadline: 3 is for a machine whose cores others use as well.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = float(os.environ.get("APEXPERT_TEST_PATIENCE", "1"))


def patient(seconds: float) -> float:
    """A deadline of `seconds` on an idle machine, as long as it is to be on this one."""
    return PATIENCE * seconds


def until(look: Callable[[], T], what: str, seconds: float = 30.0, pause: float = 0.02) -> T:
    """The first answer of `look` that is not None or False; AssertionError after `patient(seconds)`."""
    deadline = time.monotonic() + patient(seconds)
    while True:
        answer = look()
        if answer is not None and answer is not False:
            return answer
        assert time.monotonic() < deadline, f"not within {patient(seconds):.0f} s: {what}"
        time.sleep(pause)

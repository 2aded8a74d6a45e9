"""Asks a user's Ray whether it lets us in, in a process that can be ended: Ray itself tries for minutes."""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.fleet.errors import WrongFlag

ANSWER_SECONDS, LOOK_SECONDS = 90.0, 0.1
"""Time for a Ray of the user's to answer."""
PROBE = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
REFUSED = ("InvalidAuthToken", "AuthenticationError")
"""What Ray says of a token: over and over, for most of a minute."""
TOKEN = (
    "refuses us without its token; is it another run's own? Otherwise set RAY_AUTH_MODE=token, with the"
    " cluster's token in ~/.ray/auth_token or in the file that RAY_AUTH_TOKEN_PATH names"
)
VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def check_answers(address: str) -> None:
    """Raise WrongFlag, with the true reason in one line, unless a Ray at `address` lets us in within 90 s."""
    with tempfile.NamedTemporaryFile() as said:
        command = [sys.executable, "-P", "-c", PROBE, address]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=said) as probe:
            try:
                code = _end_of(probe, Path(said.name))
            finally:
                probe.kill()
        why = _reason(_read(Path(said.name)), code)
    if why:
        raise WrongFlag(f"--ray-address {address}: {why}")


def _end_of(probe: subprocess.Popen[bytes], said: Path) -> int | None:
    """Return the probe's exit code; None if it has none in time, or has been refused."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while probe.poll() is None and time.monotonic() < deadline:
        if any(word in _read(said) for word in REFUSED):
            return None
        time.sleep(LOOK_SECONDS)
    return probe.poll()


def _read(said: Path) -> str:
    return said.read_text(errors="replace")


def _reason(said: str, code: int | None) -> str:
    """Return why Ray did not let the probe in; empty if it did."""
    if code == 0:
        return ""
    if any(word in said for word in REFUSED):
        return f"this Ray {TOKEN}"
    versions = VERSIONS.findall(said) if "Version mismatch" in said else []
    if len(versions) == 2:
        theirs, ours = (f"Ray {ray} with Python {python}" for ray, python in versions)
        return f"there is {theirs}, and here {ours}; they must be the same"
    if code is None:
        return f"no Ray there lets us in within {ANSWER_SECONDS:g} s; is it another run's own, or none?"
    return "no Ray answers there"

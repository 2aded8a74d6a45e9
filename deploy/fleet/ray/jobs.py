"""Ray's Jobs API: runs a command on a cluster for somebody who need not be on any of its machines."""

import asyncio
import contextlib
import importlib.util
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from apexpert.errors import one_line
from deploy.fleet.errors import FleetError, WrongFlag

ANSWER_SECONDS = 10.0
NOT_READY, READY_SECONDS, LOOK_SECONDS = "No available agent", 60.0, 1.0
"""What a dashboard answers whose cluster has only just started, and how long it is asked again."""
NEEDED = ("aiohttp", "requests", "pydantic")
"""What Ray's client of the Jobs API imports and Ray itself does not need."""
OVERRIDING = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's client prefers to the address that it is given."""
LEFT_OUT = ["runs", ".venv", ".git"]
"""Folders of a working directory that are not sent."""


class Jobs:
    """The Jobs API of one cluster."""

    def __init__(self, address: str) -> None:
        """`address`: of the dashboard, as http://HEAD:8265. Raises WrongFlag, FleetError."""
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            why = f"{', '.join(missing)} is not installed"
            raise FleetError(f"jobs need ray[default], and {why}: pip install 'apexpert[cluster]'")
        _check_answers(address)
        from ray.job_submission import JobSubmissionClient

        with _explained(address), _without_overriding():
            self._client = JobSubmissionClient(address)
        self._address = address

    def submit(
        self,
        command: str,
        job_id: str,
        *,
        metadata: dict[str, str],
        working_dir: str,
        variables: dict[str, str],
    ) -> None:
        """Have the shell command run on the cluster. Its `working_dir`, if any, is copied to every node."""
        runtime_env: dict[str, Any] = {"env_vars": variables}
        if working_dir:
            runtime_env |= {"working_dir": str(Path(working_dir).absolute()), "excludes": LEFT_OUT}
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with _explained(self._address):
                    self._client.submit_job(
                        entrypoint=command, submission_id=job_id, metadata=metadata, runtime_env=runtime_env
                    )
                return
            except FleetError as error:
                if NOT_READY not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(LOOK_SECONDS)

    def follow(self, job_id: str, show: Callable[[str], object]) -> tuple[str, str]:
        """Give the job's output to `show` until it ends; return its status and why it failed, if it did."""
        with _explained(self._address):
            asyncio.run(self._tail(job_id, show))
            info = self._client.get_job_info(job_id)
            return str(info.status.value), str(info.message or "")

    async def _tail(self, job_id: str, show: Callable[[str], object]) -> None:
        async for text in self._client.tail_job_logs(job_id):
            show(text)


def address_of_environment() -> str:
    """Return the dashboard's address in the variables that Ray's own commands read; empty without one."""
    given = [os.environ.get(name, "") for name in OVERRIDING]
    return next((address for address in given if address.startswith(("http://", "https://"))), "")


def _check_answers(address: str) -> None:
    """Raise WrongFlag unless a Ray's dashboard answers; Ray's client itself would wait for ever."""
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:
        # Refused without a token, which the client has.
        if error.code not in (401, 403):
            raise WrongFlag(f"--address {address}: no Ray's dashboard, it answers {error.code}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise WrongFlag(f"--address {address}: no Ray's dashboard answers there ({why})") from None


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """Make what Ray's client raises one line that names the address."""
    try:
        yield
    except (KeyboardInterrupt, FleetError):
        raise
    except Exception as error:  # RuntimeError, ConnectionError, ValueError and those of three libraries.
        raise FleetError(f"--address {address}: {one_line(error)[:300]}") from error


@contextlib.contextmanager
def _without_overriding() -> Iterator[None]:
    before = {name: os.environ.pop(name) for name in OVERRIDING if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)

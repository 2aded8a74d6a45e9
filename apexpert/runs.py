"""Runs from Python: start one, find one, look at it, change it, end it."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Self

from apexpert.configuration import with_changes
from deploy.fleet.errors import FleetError
from deploy.run import import_path, presets
from deploy.run.config import Config, ConfigError, to_json
from deploy.run.errors import RunBusy, RunError, RunExists, RunNotFound
from deploy.run.folder import RunFolder
from deploy.run.states import FINAL_STATES, LOST, NOT_STARTED
from deploy.run.status import read_status

__all__ = ["Run", "open_run", "train"]

LOOK_SECONDS = 0.25
ERRORS = {kind.__name__: kind for kind in (ConfigError, RunError, RunNotFound, RunExists, RunBusy)}
"""Errors that an owner that starts no run gives as the reason; everything else is a FleetError."""
PYTHON = (sys.executable, "-P")
"""-P: a `deploy` in the current folder is not ours."""


def train(config: Config | str = presets.DEFAULT, /, **changes: Any) -> "Run":
    """Start a new run by a configuration, or a preset's name, with `changes` as in `preset`.

    The run is this process's and ends with it, cleanly, unless `detach=True`. With neither a
    `ray_address` nor $RAY_ADDRESS, or with `local`, it has a Ray of its own. A process of its own holds the
    connection to Ray, so that any number of runs may be started, and this process may use Ray for something
    else.

    Raises ConfigError, RunError, FleetError.
    """
    wanted = presets.get_preset(config) if isinstance(config, str) else config
    owner = _Owner({"config": to_json(with_changes(wanted, **changes))})
    return Run(owner.folder, owner)


def open_run(name: str, *, runs_dir: str = "runs") -> "Run":
    """A run that is there, at work or not: its name under `runs_dir`, or its folder. Raises RunNotFound."""
    return Run(RunFolder.open(name, runs_dir))


class Run:
    """A run, seen from outside. `with` ends one that this process started, and leaves others as they are."""

    def __init__(self, folder: RunFolder, owner: "_Owner | None" = None) -> None:
        self._folder = folder
        self._owner = owner if owner is not None and not owner.detached else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._owner is not None:
            self.stop()

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.status()['state']}>"

    @property
    def name(self) -> str:
        """The name of its folder, by which all commands know it."""
        return self._folder.name

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._folder.path

    @property
    def config(self) -> Config:
        """Its whole configuration."""
        return self._folder.load_config()

    def status(self) -> dict[str, Any]:
        """As `apexpert status --json`: `state`, `message`, `metrics`, `notes`, `total_env_steps`, and more.

        States: starting, running, evaluating, stopping; finished, stopped, failed; lost, not started.
        """
        return read_status(self._folder)

    def metrics(self) -> dict[str, float]:
        """The newest value of each metric, by its name in metrics.jsonl."""
        return dict(self.status()["metrics"])

    def history(self) -> list[dict[str, float]]:
        """All rows of metrics.jsonl, oldest first. Empty before the first."""
        if not self._folder.metrics_path.exists():
            return []
        lines = self._folder.metrics_path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]  # The last may be half written.

    def scale(
        self, actors: int | str | None = None, *, shards: int | None = None, add_urls: tuple[str, ...] = ()
    ) -> None:
        """Ask for another number of actors (or `auto:MIN-MAX`), or for more shards, as `apexpert scale` does.

        Raises ConfigError for what cannot be, RunError when the run is not at work, FleetError when it does
        not answer.
        """
        changes = {"num_actors": actors, "num_shards": shards, "add_urls": add_urls}
        # On standard input: URLs may hold passwords, and others can see a process's arguments.
        _Owner({"ask": "scale", "folder": str(self.path), **changes}).wait()

    def stop(self) -> dict[str, Any]:
        """End the run cleanly, with a checkpoint, and wait for that; returns its last status.

        A run that has ended is left alone. Raises RunError or FleetError.
        """
        if self._owner is not None:
            self._owner.tell_to_stop()
            return self.wait()
        if self.status()["state"] not in FINAL_STATES:
            _Owner({"ask": "stop", "folder": str(self.path)}).wait()
        return self.status()

    def wait(
        self, timeout: float | None = None, *, show: Callable[[dict[str, Any]], object] = lambda status: None
    ) -> dict[str, Any]:
        """Wait until the run has ended; returns its last status. `show` is given each status on the way.

        Raises TimeoutError after `timeout` seconds, FleetError when the run failed, RunError when it is lost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # Asked before the status is read, which is the last one once the owner has ended.
            owned = self._owner is not None and self._owner.alive
            status = self.status()
            show(status)
            if not owned and status["state"] in FINAL_STATES:
                break
            if self._owner is not None and not owned:
                why = self._owner.last_words() or f"its owner has ended, and it is {status['state']}"
                raise FleetError(f"run {self.name}: {why}", path=self._folder.log_path)
            if self._owner is None and status["state"] in (LOST, NOT_STARTED):
                raise RunError(f"run {self.name} is {status['state']}: {status['message']}", path=self.path)
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {self.name} is {status['state']} still, after {timeout:g} s")
            time.sleep(LOOK_SECONDS)
        self._owner = None
        if status["state"] == "failed":
            message = f"run {self.name} failed: {status['message']}; see {self._folder.log_path}"
            raise FleetError(message, path=self._folder.log_path)
        return status

    def resume(
        self,
        total_env_steps: int = 0,
        *,
        max_hours: float | None = None,
        until_return: float | None = None,
        actors: int | str = 0,
        detach: bool = False,
    ) -> None:
        """Resume a run that has ended, from its newest checkpoint; 0 and None keep its own values.

        It is this process's then, as after `train`. Raises ConfigError, RunBusy, FleetError.
        """
        owner = _Owner(
            {
                "folder": str(self.path),
                "total_env_steps": total_env_steps,
                "max_hours": max_hours,
                "until_return": until_return,
                "num_actors": actors,
                "detach": detach,
            }
        )
        self._owner = None if owner.detached else owner


class _Owner:
    """A process of apexpert.owner, which starts a run and owns it, or asks a run for something and ends."""

    def __init__(self, request: dict[str, Any]) -> None:
        """Raises what the owner raised instead of doing what was requested, with the file that it named."""
        # A file: nobody reads while the run is at work, and a full pipe would block the owner.
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process is)
        self._process = subprocess.Popen(
            [*PYTHON, "-m", "apexpert.owner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the user's process, which decides what to do.
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BaseException:
            # Ctrl-C while the run starts must not leave a run behind.
            self.tell_to_stop()
            raise
        if not line:
            self._process.wait()
            raise FleetError(f"the run's owner did not start: {self.last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            self.tell_to_stop()
            self._process.wait()
            raise ERRORS.get(answer["error"], FleetError)(answer["message"], path=answer["path"])
        self.folder, self.detached = RunFolder(Path(answer["folder"])), bool(answer["detached"])

    @property
    def alive(self) -> bool:
        """Whether the process is at work."""
        return self._process.poll() is None

    def wait(self) -> None:
        """Wait until the process has ended."""
        self._process.wait()

    def tell_to_stop(self) -> None:
        """Have the run stopped, without waiting."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # The process has ended.
            self._process.stdin.close()

    def last_words(self) -> str:
        """The last line that the process wrote to its standard error."""
        # The process writes at the same offset, which reading to the end puts back.
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]


def _environment() -> dict[str, str]:
    """This process's environment, with the folders where its own modules are."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([import_path.ROOT, *import_path.users_folders()])}

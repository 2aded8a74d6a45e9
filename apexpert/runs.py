"""Runs from Python: start one, find one, look at it, change it, end it."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from apexpert.configuration import with_changes
from deploy.fleet import operations
from deploy.fleet.client import RunClient
from deploy.fleet.errors import FleetError
from deploy.run import presets
from deploy.run.config import Config
from deploy.run.errors import RunError
from deploy.run.folder import RunFolder
from deploy.run.preflight import preflight, with_urls_of_environment
from deploy.run.states import FINAL_STATES
from deploy.run.status import read_status

__all__ = ["Run", "open_run", "train"]

HEARTBEAT_SECONDS, LOOK_SECONDS = 1.0, 0.25
LAST_WORDS_SECONDS = 150.0
"""What is left of a run whose Ray has ended may still save a checkpoint."""


def train(config: Config | str = presets.DEFAULT, **changes: Any) -> "Run":
    """Start a new run by a configuration, or a preset's name, with `changes` as in `preset`.

    The run is this process's and ends with it, cleanly, unless `detach=True`. Without a `ray_address` it has
    a Ray of its own; a process can be connected to one Ray at a time.

    Raises ConfigError, RunError, FleetError.
    """
    wanted = presets.get_preset(config) if isinstance(config, str) else config
    checked = preflight(with_urls_of_environment(with_changes(wanted, **changes)))
    folder = operations.create(checked)
    return Run(folder, operations.start_new(folder))


def open_run(name: str, *, runs_dir: str = "runs") -> "Run":
    """A run that is there, at work or not: its name under `runs_dir`, or its folder. Raises RunNotFound."""
    return Run(RunFolder.open(name, runs_dir))


class Run:
    """A run, seen from outside. `with` ends one that this process started, and leaves others as they are."""

    def __init__(self, folder: RunFolder, client: RunClient | None = None) -> None:
        self._folder = folder
        self._client = client
        self._closed = threading.Event()
        self._owns = client is not None and not self.config.run.detach
        if self._owns:
            threading.Thread(target=self._show_life, name="apexpert-run", daemon=True).start()
        elif client is not None:
            client.close()
            self._client = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._owns:
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
        if self._client is not None:
            return self._client.status()
        return read_status(self._folder)

    def metrics(self) -> dict[str, float]:
        """The newest value of each metric, by its name in metrics.jsonl (docs/results.md)."""
        return dict(self.status()["metrics"])

    def history(self) -> list[dict[str, float]]:
        """All rows of metrics.jsonl, oldest first; each has `progress/env_steps`. Empty before the first."""
        if not self._folder.metrics_path.exists():
            return []
        lines = self._folder.metrics_path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]  # the last may be half written

    def scale(
        self, actors: int | None = None, *, shards: int | None = None, add_urls: tuple[str, ...] = ()
    ) -> None:
        """Ask for another number of actors, or for more shards. Raises ConfigError, RunError, FleetError."""
        operations.scale(self._folder, num_actors=actors, num_shards=shards, add_urls=add_urls)

    def stop(self) -> dict[str, Any]:
        """End the run cleanly, with a checkpoint, and wait for that; returns its last status.

        One that has ended is left alone. Raises RunError or FleetError.
        """
        if self._client is None:
            return operations.stop(self._folder)
        if self.status()["state"] not in FINAL_STATES:
            self._client.stop()
        return self.wait()

    def wait(
        self, timeout: float | None = None, *, show: Callable[[dict[str, Any]], object] = lambda status: None
    ) -> dict[str, Any]:
        """Wait until the run has ended; returns its last status. `show` is given each status on the way.

        Raises TimeoutError after `timeout` seconds, FleetError when the run failed, RunError when it is lost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self._next_status())["state"] not in FINAL_STATES:
            show(status)
            if status["state"] in ("lost", "not started"):
                raise RunError(f"run {self.name} is {status['state']}: {status['message']}", path=self.path)
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {self.name} is {status['state']} still, after {timeout:g} s")
            time.sleep(LOOK_SECONDS)
        show(status)
        self.close()
        if status["state"] == "failed":
            message = f"run {self.name} failed: {status['message']}; see {self._folder.log_path}"
            raise FleetError(message, path=self._folder.log_path)
        return status

    def resume(self, total_env_steps: int = 0, *, actors: int = 0, detach: bool = False) -> None:
        """Resume a run that has ended, from its newest checkpoint; 0 keeps its own values.

        Raises ConfigError, RunBusy, FleetError.
        """
        client = operations.resume(
            self._folder, total_env_steps=total_env_steps, num_actors=actors, detach=detach
        )
        self.__init__(self._folder, client)  # type: ignore[misc]

    def close(self) -> None:
        """Let go of the run; one that this process started, and that has not ended, ends in 10 seconds."""
        self._closed.set()
        if self._client is None:
            return
        client, self._client = self._client, None
        if read_status(self._folder)["state"] in FINAL_STATES:
            client.shutdown()
        else:
            client.close()

    def _next_status(self) -> dict[str, Any]:
        status = self.status()
        if self._client is not None and status["state"] not in FINAL_STATES and self._client.is_gone:
            status = self._client.last_words(LAST_WORDS_SECONDS, told_to_stop=False)
        return status

    def _show_life(self) -> None:
        """Tell the supervisor that this process, which the run ends with, is alive."""
        client = self._client
        while client is not None and not self._closed.wait(HEARTBEAT_SECONDS):
            client.heartbeat()

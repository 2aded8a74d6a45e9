"""Behaviour that actor and learner share, in whichever process they run: assignment, being stopped, reports.

A role that has not been asked for a heartbeat for 20 s has lost its supervisor and ends as if told to.
Nothing here imports Ray or torch.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from deploy.fleet.reporting.log import log_to
from deploy.run import import_path
from deploy.run.checks import without_passwords
from deploy.run.config import Config, ConfigError, hide_password, with_values
from deploy.run.folder import RunFolder
from deploy.run.preflight import named_urls
from replay.shards.shard import Shard
from replay.types import Signature

if TYPE_CHECKING:
    from actors.actor import Actor
    from actors.episodes import Episode
    from learner.learner import Learner

logger = logging.getLogger(__name__)

LOST_SECONDS = 20.0
LEARNER_PATIENCE_SECONDS, ACTOR_PATIENCE_SECONDS = 2.0, 5.0


@dataclass(frozen=True)
class Assignment:
    """Facts about a run that each of its roles needs."""

    config: Config
    folder: str
    urls: tuple[str, ...] = field(repr=False)
    """URLs, one per shard, in order, with passwords: `without_secrets` is what Ray's storage may keep."""
    store: Any
    """Handle of the weight store; None for the learner's own process, which does not use it."""
    users_folders: tuple[str, ...] = ()
    """Folders with the user's own modules (`import_path.users_folders`)."""

    def with_shard(self, url: str) -> "Assignment":
        """Return the assignment with one more shard."""
        config = with_values(self.config, replay__urls_file="")
        return replace(self, config=config, urls=(*self.urls, url))

    def without_secrets(self) -> "Assignment":
        """Return a copy for arguments that Ray keeps, such as those that make an actor (decision 0037)."""
        hidden = tuple(map(hide_password, self.urls))
        return replace(self, config=without_passwords(self.config), urls=hidden)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The URLs as one call to a role brings them; empty where each machine reads a file of its own."""
        return () if self.config.replay.urls_file else self.urls

    def with_secrets(self, urls: tuple[str, ...]) -> "Assignment":
        """Return what `without_secrets` was made of, by its `secrets`; raise ConfigError without the file."""
        file = self.config.replay.urls_file
        try:
            return replace(self, urls=urls or named_urls([f"@{file}"]))
        except ConfigError as error:
            raise ConfigError(f"{error} (on {socket.gethostname()}: each machine reads its own)") from None


class Report(TypedDict):
    """A role's answer to a heartbeat."""

    pid: int
    ready: bool
    """Built and restored; the numbers below are meaningful."""
    metrics: dict[str, float]
    episodes: "list[Episode]"
    """Episodes that ended since the last answer (actors only)."""
    notes: list[str]
    """Events since the last answer to be reported to users (the learner only)."""
    node: str
    """Id of the Ray node that it is on (actors only)."""


class Role:
    """Common to all roles: being stopped, and noticing that the supervisor is gone."""

    def __init__(self, assignment: Assignment, name: str, patience: float) -> None:
        """A shard that does not answer for `patience` seconds is skipped until it does."""
        self._assignment, self._patience = assignment, patience
        self._config = assignment.config
        self.folder = RunFolder(Path(assignment.folder))
        self._told_to_stop = threading.Event()
        self._heard = time.monotonic()
        self._notes: list[str] = []
        self._lock = threading.Lock()
        self._told: dict[int, str] = {}
        self._added: list[Shard] = []
        self._opened: list[Shard] = []
        self._use_shard: Callable[[Shard], None] | None = None
        import_path.search_also(assignment.users_folders)
        log_to(self.folder.log_path, name)

    def stop(self) -> None:
        """End cleanly as soon as possible; `run` then returns."""
        self._told_to_stop.set()

    def add_shard(self, index: int, url: str) -> None:
        """Use one more shard from now on; an index that is already known changes nothing."""
        with self._lock:
            self._told[index] = url  # Calls may overtake each other.
            while (index := len(self._assignment.urls) + len(self._added)) in self._told:
                self._added.append(self._shard(index, self._told[index]))
                if self._use_shard is not None:
                    self._use_shard(self._added[-1])

    def _start_using(self, use_shard: Callable[[Shard], None]) -> None:
        """Pass added shards to `use_shard` from now on, and those added before at once."""
        # Under the lock, or a shard that `add_shard` brings now would be used twice.
        with self._lock:
            self._use_shard = use_shard
            for shard in self._added:
                use_shard(shard)

    def stop_at_sigterm(self) -> None:
        """Treat SIGTERM like `stop` from now on; only the main thread of a process may call this."""
        signal.signal(signal.SIGTERM, lambda number, frame: self.stop())

    def should_stop(self) -> bool:
        """Whether the role was told to stop, or has lost its supervisor."""
        return self._told_to_stop.is_set() or time.monotonic() - self._heard > LOST_SECONDS

    def _report(self, source: "Actor | Learner | None") -> Report:
        self._heard = time.monotonic()
        metrics = source.metrics() if source is not None else {}
        # Delete what was copied, not everything: another thread may add notes meanwhile.
        notes = self._notes[:]
        del self._notes[: len(notes)]
        return Report(
            pid=os.getpid(), ready=source is not None, metrics=metrics, episodes=[], notes=notes, node=""
        )

    def _note(self, text: str) -> None:
        """Report an event, by the log and by the next heartbeat."""
        logger.warning(text)
        self._notes.append(text)

    def _shards(self) -> list[Shard]:
        return [self._shard(index, url) for index, url in enumerate(self._assignment.urls)]

    def _shard(self, index: int, url: str) -> Shard:
        # A lockstep run must draw the same again, so it waits longer for a shard.
        seconds = 30.0 if self._config.run.lockstep else self._patience
        shard = Shard(url, run=self._config.run.name, index=index, retry_seconds=seconds)
        self._opened.append(shard)
        return shard

    def _signature(self) -> Signature:
        from actors.environments import describe_environment

        spec = describe_environment(self._config.environment)
        stack, n_step = self._config.environment.stack, self._config.replay.n_step
        return Signature(spec.frame_shape, stack, n_step, spec.num_actions)

"""The parts of a run at work, set up by the supervisor, and shards added to all of them."""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from deploy.fleet.actor_fleet import ActorFleet
from deploy.fleet.elastic.steering import Steering
from deploy.fleet.evaluator import Evaluator
from deploy.fleet.learner_slot import LearnerSlot
from deploy.fleet.ray.nodes import own_address
from deploy.replays.place import replay_folder
from deploy.run.config import Config, with_shard, with_values
from deploy.run.folder import RunFolder
from replay.errors import ServerError
from replay.servers.embedded import EmbeddedServers


@dataclass(frozen=True)
class Parts:
    """Everything that a run consists of besides its supervisor."""

    actors: ActorFleet
    learner: LearnerSlot
    evaluator: Evaluator
    steering: Steering
    servers: EmbeddedServers | None
    """None: the run uses servers of the user's own."""
    store: Any
    """A Ray reference that is ready once the weight store has ended."""


def embedded_servers(
    config: Config, folder: RunFolder, ray_is_own: bool, should_stop: Callable[[], bool]
) -> EmbeddedServers:
    """Return the run's servers, not started yet; a full disk is waited for until `should_stop`."""
    replay = config.replay
    return EmbeddedServers(
        replay_folder(folder, config),
        shards=replay.shards,
        append_fsync=replay.append_fsync,
        maxmemory=replay.shard_memory_bytes,
        # On a cluster, nodes may join that reach no socket of this one.
        listen=None if ray_is_own else own_address(),
        should_stop=should_stop,
        room_seconds=math.inf,
    )


class ShardAdditions:
    """Adds shards to a run at work, as they are asked for."""

    def __init__(self, config: Config, folder: RunFolder, note: Callable[[str], None]) -> None:
        self._config, self._folder, self._note = config, folder, note
        self._asked: deque[tuple[int, tuple[str, ...]]] = deque()

    def ask(self, num_shards: int, urls: tuple[str, ...]) -> None:
        """Note how many embedded servers the run shall have, or which servers of the user's own."""
        self._asked.append((num_shards, urls))

    def step(self, parts: Parts) -> None:
        """Add what was asked for; of embedded servers one a call, as each takes a moment."""
        if not self._asked:
            return
        num_shards, urls = self._asked.popleft()
        shards = self._config.replay.shards
        try:
            if parts.servers is None:
                for url in urls:
                    # A request may come twice, and each server is added once.
                    if url not in self._config.replay.urls:
                        with self._noted(with_shard(self._config, url)):
                            self._use(parts, url)
            elif num_shards > shards:
                with self._noted(with_values(self._config, replay__shards=shards + 1)):
                    self._use(parts, parts.servers.add())
                self._asked.append((num_shards, urls))
        except (ServerError, OSError) as error:
            self._note(f"no shard added: {' '.join(str(error).split())}")

    @contextlib.contextmanager
    def _noted(self, config: Config) -> Iterator[None]:
        """Note one more shard; if it cannot be added, the configuration is again as before it."""
        before = self._config
        try:
            self._save(config)
            yield
        except (ServerError, OSError):
            # The same full disk, perhaps; the error that is on its way says more.
            with contextlib.suppress(OSError):
                self._save(before)
            raise

    def _save(self, config: Config) -> None:
        """Note a shard in the folder before anybody writes to it, so that a resumed run has it too."""
        self._config = config
        self._folder.save_config(config)

    def _use(self, parts: Parts, url: str) -> None:
        # The learner first: it allows commits on the shard, for which actors would wait.
        parts.learner.add_shard(url)
        parts.actors.add_shard(url)
        replay = self._config.replay
        self._note(f"shard added: {len(replay.urls) or replay.shards} shards")

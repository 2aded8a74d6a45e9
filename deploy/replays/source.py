"""Finds a run's replay: on a live run's servers, in a finished run's folder, or on the user's servers."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.replays.place import replay_folder
from deploy.run.config import RUN_NAMES, Config, ConfigError, is_run_name, with_values
from deploy.run.errors import RunBusy, RunNotFound
from deploy.run.folder import RunFolder
from deploy.run.preflight import URLS_VARIABLE, urls_of_environment, with_urls_of_today
from replay.servers.embedded import EmbeddedServers
from replay.servers.guardian_process import holds_data, running_urls
from replay.tools.stored_shard import StoredShard

if TYPE_CHECKING:
    from learner.checkpoint import Checkpoint

RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class Source:
    """A run's shards, connected, and what else is known of the run."""

    run: str
    shards: Sequence[StoredShard]
    folder: RunFolder | None
    """None if only its keys are known, by `--replay.urls`."""
    locked: bool
    """Whether a process on this machine is at work on the run's folder."""
    alive: bool
    """On the user's own servers: whether the run's owner, wherever it is, gave a recent sign of life."""

    @property
    def live(self) -> bool:
        """Whether a process is at work on the run."""
        return self.locked or self.alive

    @property
    def is_foreign(self) -> bool:
        """Whether the keys belong to another folder's run, which this folder was copied from."""
        if self.folder is None:
            return False
        identity = self.folder.identity
        # An empty id is nobody's: embedded servers are never claimed.
        own = {"", "" if identity is None else identity.id}
        return any(shard.administration.folder_id() not in own for shard in self.shards)

    def checkpoint(self) -> "Checkpoint | None":
        """Return the newest whole checkpoint, if any; broken ones are reported on stderr."""
        if self.folder is None or not self.folder.checkpoints.is_dir():
            return None
        import sys

        from learner.checkpoint import CheckpointStore

        def note(text: str) -> None:
            # On stderr, because standard output may be JSON.
            print(f"note: {text}", file=sys.stderr)

        return CheckpointStore(self.folder.checkpoints, note=note).load_newest()

    def config(self) -> Config | None:
        """Return the run's configuration, None without a folder."""
        return None if self.folder is None else self.folder.load_config()


@contextlib.contextmanager
def opened(name: str, runs_dir: str, urls: tuple[str, ...]) -> Iterator[Source]:
    """Open the replay of the run `name`: a run's name or folder, or with `urls` also just a name in Redis.

    The servers of a run that no process works on are started for the duration of the context; its lock is
    held meanwhile, so that it is not resumed. Raises ConfigError, RunNotFound, ReplayError.
    """
    folder = find(name, runs_dir, urls)
    if folder is None:
        urls = urls or urls_of_environment()
        with connected(name, urls, folder=None) as source:
            yield source
        return
    with contextlib.ExitStack() as stack:
        locked = False
        try:
            stack.enter_context(folder.lock())
        except RunBusy:
            locked = True
        config = folder.load_config()
        # Where a run is at work now its configuration says; the servers of another may have moved.
        urls = urls or (config if locked else with_urls_of_today(config)).replay.urls
        embedded = not urls
        if embedded:
            urls = stack.enter_context(served(folder, config, live=locked))
        yield stack.enter_context(
            connected(config.run.name, urls, folder=folder, locked=locked, embedded=embedded)
        )


def find(name: str, runs_dir: str, urls: tuple[str, ...]) -> RunFolder | None:
    """Return the run's folder; None if there is none but servers are given. Raises RunNotFound."""
    try:
        return RunFolder.open(name, runs_dir)
    except RunNotFound as error:
        if urls or urls_of_environment():
            return None
        hint = f"; for a run elsewhere, give its servers by --replay.urls or ${URLS_VARIABLE}"
        raise RunNotFound(f"{error}{hint}") from None


@contextlib.contextmanager
def served(
    folder: RunFolder, config: Config, *, live: bool, create: bool = False
) -> Iterator[tuple[str, ...]]:
    """Yield URLs of the folder's embedded servers: the live run's, or servers started for the context."""
    path = replay_folder(folder, config)
    if live:
        yield running_urls(path)
        return
    # Servers would make empty files in the folder of a run that has never had any.
    if not create and not holds_data(path):
        raise ConfigError(f"{folder.name} has no replay: nothing was ever stored in {path}")
    with EmbeddedServers(
        path,
        shards=config.replay.shards,
        append_fsync=config.replay.append_fsync,
        maxmemory=config.replay.shard_memory_bytes,
    ) as servers:
        yield tuple(servers.urls)


@contextlib.contextmanager
def connected(
    run: str,
    urls: tuple[str, ...],
    *,
    folder: RunFolder | None,
    locked: bool = False,
    embedded: bool = False,
    empty: bool = False,
) -> Iterator[Source]:
    """Yield the run's shards at `urls`; ConfigError when none of them holds any of its data, unless `empty`.

    For `embedded` servers the folder's lock tells whether the run is live, even just after it was killed.
    """
    with contextlib.ExitStack() as stack:
        shards = [
            stack.enter_context(
                contextlib.closing(StoredShard(url, run=run, index=index, retry_seconds=RETRY_SECONDS))
            )
            for index, url in enumerate(urls)
        ]
        if not empty and all(shard.signature() is None and not any(shard.keys()) for shard in shards):
            where = ", ".join(shard.address for shard in shards)
            raise ConfigError(f"no run {run!r} in the shards at {where}: nothing is stored under that name")
        alive = not embedded and any(shard.has_owner_at_work() for shard in shards)
        yield Source(run, shards, folder, locked, alive)


def new_run(name: str, runs_dir: str, config: Config, urls: tuple[str, ...]) -> RunFolder:
    """Create the folder of a new run with this configuration, on these servers or embedded ones."""
    if not name or not is_run_name(name):
        raise ConfigError(f"RUN {name!r}: no such run; the name of a new one must be {RUN_NAMES}")
    changed = with_values(
        config, run__name=name, run__runs_dir=runs_dir, replay__urls=urls, replay__urls_file=""
    )
    return RunFolder.create(changed)

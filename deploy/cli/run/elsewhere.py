"""`apexpert resume URL`: flags of a run that is resumed from its uploaded checkpoints."""

from dataclasses import dataclass, field, fields

from deploy.run.config import ConfigError
from deploy.run.folder import RunFolder


@dataclass(frozen=True)
class Servers:
    """The replay of a run that is resumed from a URL; omitted, its own settings stay."""

    shards: int = 0
    """With a URL: number of embedded servers; 0 keeps the run's own."""
    urls: tuple[str, ...] = ()
    """With a URL: Redis servers of your own, which hold its replay, or new ones; `@FILE` as in train."""
    folder: str = ""
    """With a URL: folder for the embedded servers' files, as in train."""


@dataclass(frozen=True)
class OfUploads:
    """What is different on the machine on which a run is resumed from a URL."""

    device: str = ""
    """With a URL: where the networks live (auto, cpu, cuda); empty keeps the run's own."""
    replay: Servers = field(default_factory=Servers)


def opened_or_fetched(name: str, runs_dir: str, changes: OfUploads) -> RunFolder:
    """Return the folder of the run `name`, made of its newest whole upload if that is a URL.

    Raises RunNotFound, RunExists, ConfigError, StorageError.
    """
    from deploy.storage.place import is_url

    replay = changes.replay
    if not is_url(name):
        given = {"--device": changes.device}
        given |= {f"--replay.{part.name}": getattr(replay, part.name) for part in fields(Servers)}
        for flag, value in given.items():
            if value:
                raise ConfigError(f"{flag}: is for a run that is resumed from a URL; {name} keeps its own")
        return RunFolder.open(name, runs_dir)
    from deploy.storage.arrival import Changes, fetch_run

    if changes.device not in ("", "auto", "cpu", "cuda"):
        raise ConfigError(f"--device {changes.device}: must be auto, cpu or cuda")
    if not 0 <= replay.shards <= 64:
        raise ConfigError(f"--replay.shards {replay.shards}: must be 1 to 64")
    if replay.shards and replay.urls:
        raise ConfigError("--replay.shards: counts embedded servers; leave it or --replay.urls away")
    wanted = Changes(replay.shards, replay.urls, replay.folder, changes.device)
    return fetch_run(name, runs_dir, wanted)

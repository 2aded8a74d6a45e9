"""Claims keys on the user's own servers for one run's folder, so that no other folder takes them."""

import contextlib
from collections.abc import Iterator

from deploy.run.config import Config, ConfigError
from deploy.run.folder import RunFolder
from deploy.run.identity import FILE, Identity, device_to_note
from replay.errors import ForeignRun
from replay.shards.claims import claim, release
from replay.shards.shard import Shard

ANSWER_SECONDS = 3.0


def claim_new(config: Config, folder: RunFolder) -> None:
    """Claim the shards for a new run; raise ConfigError if one already holds a run of its name."""
    name = config.run.name
    with _shards(config) as shards:
        try:
            claim(shards, folder.drawn_identity().id, new=True)
        except ForeignRun as error:
            delete = f"remove it by: apexpert replay {name} --delete --replay.urls ..."
            raise ConfigError(
                f"--name {name}: {error}; resume it by: apexpert resume {name}; {delete};"
                " or choose another --name"
            ) from None


def claim_resumed(config: Config, folder: RunFolder, identity: Identity) -> None:
    """Claim the shards for a folder that resumes; raise ConfigError when they hold another folder's run."""
    with _shards(config) as shards:
        _claim(shards, folder, identity)


def claim_added(config: Config, folder: RunFolder, urls: tuple[str, ...]) -> None:
    """Claim shards that a running run gets in addition; raise ConfigError as `claim_resumed` does."""
    identity = folder.drawn_identity()
    # Noted first: a crash in between must not leave a claim by an id that no folder has.
    folder.settle(identity)
    # A shard's number is its place among all shards of the run.
    with _shards(config, urls, len(config.replay.urls)) as shards:
        _claim(shards, folder, identity, new=True)


def release_new(config: Config) -> None:
    """Release what `claim_new` has claimed, if anything, for a run that does not start after all."""
    with _shards(config) as shards:
        release(shards)


def _claim(shards: list[Shard], folder: RunFolder, identity: Identity, *, new: bool = False) -> None:
    try:
        claim(shards, identity.id, new=new)
    except ForeignRun as error:
        export = f"apexpert replay {folder.reference} --export DIR and apexpert replay NEW --import DIR"
        raise ConfigError(
            f"--replay.urls: {error} (was {folder.path} copied?); {export} make a run of its own of it,"
            f" and train with another --name a new one{_if_mounted_anew(folder)}"
        ) from None


def _if_mounted_anew(folder: RunFolder) -> str:
    """Return how a folder whose device number has changed keeps its keys; empty for other reasons."""
    device = device_to_note(folder.path)
    if device is None:
        return ""
    return (
        f'; if it is the original, on a file system that was mounted anew: write "device": {device}'
        f" into {folder.path / FILE}"
    )


@contextlib.contextmanager
def _shards(config: Config, urls: tuple[str, ...] = (), first: int = 0) -> Iterator[list[Shard]]:
    shards = [
        Shard(url, run=config.run.name, index=first + place, retry_seconds=ANSWER_SECONDS)
        for place, url in enumerate(urls or config.replay.urls)
    ]
    try:
        yield shards
    finally:
        for shard in shards:
            shard.close()

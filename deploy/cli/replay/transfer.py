"""`apexpert replay --export` and `--import`: a run's replay as a folder, with checkpoint and history."""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from deploy.cli.errors import CommandFailed
from deploy.replays.source import Source, connected, new_run, served
from deploy.run.checks import without_passwords
from deploy.run.config import ConfigError, to_json, without_places
from deploy.run.errors import RunBusy, RunNotFound
from deploy.run.folder import CONFIG, FLEET, RunFolder
from deploy.run.preflight import urls_of_environment, with_urls_of_today
from deploy.storage.history import export_history, import_history
from learner.checkpoint import Checkpoint, CheckpointStore
from learner.checkpoint_files import MANIFEST
from learner.errors import CheckpointError
from replay.tools.archive import Archive, ArchiveError, export_run, import_run

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], object]]]


def export_replay(source: Source, folder: Path, bar: Bar) -> int:
    """Write the archive, with configuration, history and the newest checkpoint, without any URLs."""
    try:
        with bar("exporting") as told:
            archived = export_run(source.shards, folder, run=source.run, progress=told)
    except (ArchiveError, OSError) as error:
        raise ConfigError(f"--export {folder}: {error}") from None
    kept = "no checkpoint"
    config = source.config()
    if config is not None:
        archive = RunFolder(folder)
        archive.write_json(CONFIG, to_json(without_places(config)), mode=0o600)
        if source.folder is not None and (fleet := source.folder.read_json(FLEET, None)):
            archive.write_json(FLEET, fleet)
        if source.folder is not None:
            export_history(source.folder, archive)
        if (checkpoint := source.checkpoint()) is not None:
            kept = _save(checkpoint, archive).name
    counts = f"{archived.segments:,} segments, {archived.items:,} items, {archived.num_bytes:,} bytes"
    print(f"{source.run}: {counts} and {kept} in {folder}")
    if archived.gone or archived.refused:
        print(f"  left out: {archived.gone:,} already evicted, {archived.refused:,} copies or damaged")
    return 0


def import_replay(name: str, runs_dir: str, urls: tuple[str, ...], folder: str, bar: Bar) -> int:
    """Load an archive into the empty shards of a run, which is created if none has that name.

    `import_run` hashes all bytes of the archive once, when there is a place to put them.
    """
    with ExitStack() as stack:
        new = stack.enter_context(NewFolder())
        try:
            archive = Archive(Path(folder))
            target = _target(stack, new, name, runs_dir, urls, archive)
            assert target.folder is not None
            with bar("importing") as told:
                new.has_keys = bool(target.folder.load_config().replay.urls)
                imported = import_run(archive, target.shards, run=target.run, progress=told)
        except ArchiveError as error:
            new.has_keys = False  # Raised before anything is put in.
            raise ConfigError(f"--import {folder}: {error}") from None
        new.folder = None
        # Still locked: a run that is resumed has to find all of it. The checkpoint last: it may be broken.
        _keep_incarnations(target.folder, _used_incarnations(archive))
        status = import_history(archive.folder, target.folder)
        kept = _restore_checkpoint(archive, target.folder)
        if kept is not None:
            # It also knows writers of which no segment is left.
            _keep_incarnations(target.folder, _incarnations_after(kept))
    counts = f"{imported.segments:,} segments, {imported.items:,} items, {imported.num_bytes:,} bytes"
    print(f"{target.run}: {counts} and {kept.path.name if kept else 'no checkpoint'} from {folder}")
    print(_what_next(target.folder, status))
    return 0


def _what_next(folder: RunFolder, status: Mapping[str, Any]) -> str:
    """Return how to resume an imported run, and of one that has finished that it has."""
    again = f"apexpert resume {folder.reference}"
    if status.get("state") != "finished":
        return f"resume it: {again}"
    done, total = int(status["metrics"].get("progress/env_steps", 0)), status["total_env_steps"]
    flag, why, reached = "--total-env-steps", "", f"{done:,} env steps"
    if done < total and status.get("message"):
        # Ended early: the message begins with the flag of the end that was reached (reporting/ends.py).
        flag, why = status["message"].split()[0], f": {status['message']}"
        reached = f"{done:,} of {total:,} env steps"
    return f"it has finished ({reached}{why}); train it further: {again} {flag} N"


@dataclass
class NewFolder:
    """Removes the folder that was made for a new run, if the import is refused, fails or is interrupted."""

    folder: RunFolder | None = None
    """None before it is made, and once everything is in."""
    has_keys: bool = False
    """Whether servers of the user's own may hold something, which `--delete` finds by the folder."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.folder is not None and not self.has_keys:
            self.folder.unmake()


def _target(
    stack: ExitStack, new: NewFolder, name: str, runs_dir: str, urls: tuple[str, ...], archive: Archive
) -> Source:
    """Return the shards to import into; creates the run's folder, as `new`, if it does not exist."""
    folder = None
    with suppress(RunNotFound):
        folder = RunFolder.open(name, runs_dir)
    if folder is None:
        folder = new.folder = _new_run(name, runs_dir, urls or urls_of_environment(), archive)
    try:
        stack.enter_context(folder.lock())
    except RunBusy:
        raise RunBusy(f"--import: {folder.name} is live; import into another run") from None
    config = folder.load_config()
    urls = urls or with_urls_of_today(config).replay.urls
    # Before servers are started, which make files.
    _check_shards(len(urls) or config.replay.shards, archive)
    urls = urls or stack.enter_context(served(folder, config, live=False, create=True))
    return stack.enter_context(connected(config.run.name, urls, folder=folder, empty=True))


def _new_run(name: str, runs_dir: str, urls: tuple[str, ...], archive: Archive) -> RunFolder:
    exported = RunFolder(archive.folder)
    if not exported.config_path.is_file():
        raise ArchiveError(f"it has no {CONFIG} to make the run {name!r} from; name a run that is there")
    config = exported.load_config()
    _check_shards(len(urls) or config.replay.shards, archive)
    return new_run(name, runs_dir, config, urls)


def _check_shards(shards: int, archive: Archive) -> None:
    if shards != archive.num_shards:
        raise ArchiveError(f"it is of {archive.num_shards} shards, here would be {shards}")


def _restore_checkpoint(archive: Archive, folder: RunFolder) -> Checkpoint | None:
    """Return the run's newest checkpoint; if it has none, restore the archive's first."""
    own = CheckpointStore(folder.checkpoints).load_newest()
    exported = RunFolder(archive.folder)
    if own is not None or not exported.checkpoints.is_dir():
        return own
    stored = CheckpointStore(exported.checkpoints)
    paths = stored.paths()
    try:
        checkpoint = stored.load(paths[0]) if paths else None
    except CheckpointError as error:
        raise CommandFailed(f"{paths[0]}: {error}; the segments are imported, their priorities not") from None
    if checkpoint is None:
        return None
    return replace(checkpoint, path=_save(checkpoint, folder))


def _save(checkpoint: Checkpoint, folder: RunFolder) -> Path:
    """Save a checkpoint in another folder, with that folder's configuration and its original age."""
    document = checkpoint.document | {"config": to_json(without_passwords(folder.load_config()))}
    path = CheckpointStore(folder.checkpoints).save(checkpoint.update, checkpoint.tensors, document)
    # A store takes the manifest's time for the time when a checkpoint was written.
    os.utime(path / MANIFEST, (checkpoint.written, checkpoint.written))
    return path


def _used_incarnations(archive: Archive) -> dict[int, int]:
    """Return the next incarnation of each actor slot by the archive's segments and its run's fleet."""
    return _later(archive.incarnations(), _next_incarnations(RunFolder(archive.folder)))


def _incarnations_after(checkpoint: Checkpoint) -> dict[int, int]:
    """Return the next incarnation of each actor slot by the writers that a checkpoint knows."""
    following: dict[int, int] = {}
    for name in checkpoint.document["sampler"]["reader"]["accounts"]["writers"]:
        actor_slot, incarnation = map(int, name.split("."))
        following[actor_slot] = max(following.get(actor_slot, 0), incarnation + 1)
    return following


def _keep_incarnations(folder: RunFolder, following: Mapping[int, int]) -> None:
    """Record used incarnations: a new actor with the name of any segment's writer would count as its copy."""
    following = _later(following, _next_incarnations(folder))
    folder.write_json(
        FLEET, {"target_actors": 0} | folder.read_json(FLEET, {}) | {"next_incarnation": following}
    )


def _next_incarnations(folder: RunFolder) -> dict[int, int]:
    stored = folder.read_json(FLEET, {}).get("next_incarnation", {})
    return {int(actor_slot): int(number) for actor_slot, number in stored.items()}


def _later(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return {key: max(one.get(key, 0), other.get(key, 0)) for key in (*one, *other)}

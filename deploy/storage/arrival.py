"""Brings an uploaded run here: the newest checkpoint that is whole becomes a run's folder, to be resumed."""

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from apexpert import durable
from apexpert.errors import one_line
from deploy.run.config import Config, ConfigError, from_json, hide_password, with_values
from deploy.run.errors import RunExists, RunNotFound
from deploy.run.folder import CONFIG, FLEET, METADATA, RunFolder
from deploy.run.identity import adopted_by
from deploy.run.preflight import URLS_VARIABLE, with_named_urls, with_urls_of_environment
from deploy.storage.history import import_history
from deploy.storage.layout import CHECKPOINT, BrokenUpload, Upload, read_upload, updates
from deploy.storage.place import Place
from learner.checkpoint_names import DOCUMENT, number_of
from replay.errors import ShardError
from replay.tools.stored_shard import StoredShard

SPARE_INCARNATIONS = 100
"""Numbers left out for each actor where a server does not say which the dead run has used."""
ANSWER_SECONDS = 5.0
BEST = "best.json"


@dataclass(frozen=True)
class Changes:
    """What is different where the run is resumed; empty values keep its own."""

    shards: int = 0
    """Embedded servers."""
    urls: tuple[str, ...] = ()
    """Servers of the user's own, or `@FILE`."""
    replay_folder: str = ""
    device: str = ""
    """`learner.device`."""


def fetch_run(url: str, runs_dir: str, changes: Changes, tell: Callable[[str], object] = print) -> RunFolder:
    """Return the run's folder under `runs_dir`, made of its newest whole upload; `tell` gets lines for users.

    A folder of this run that is here already is returned as it is, if its newest checkpoint is no older than
    the upload. Raises RunNotFound, RunExists, ConfigError, StorageError, OSError.
    """
    place = Place(url)
    found = updates(place.names())
    if not found:
        raise RunNotFound(f"{place.url}: no run has been uploaded there (it ends in the run's name)")
    Path(runs_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=durable.TEMPORARY, dir=runs_dir) as temporary:
        for update in found:
            folder = Path(temporary) / str(update)
            try:
                upload = read_upload(place, update)
                if (here := _already_here(place, upload, Path(runs_dir))) is not None:
                    tell(
                        f"{here.path} is here already, and no older than {place.url}: it is resumed as it is"
                    )
                    return here
                _download(place, upload, folder)
            except BrokenUpload as error:
                tell(f"passing over {place.url}/update-{update:09d}: {error}")
                continue
            _download_best(place, upload, folder)
            run = _settle(folder, upload, place, runs_dir, changes)
            tell(f"{run.name}: {upload.name} of {place.url} is in {run.path}")
            return run
    raise RunNotFound(f"{place.url}: none of its {len(found)} checkpoints is whole")


def _already_here(place: Place, upload: Upload, runs_dir: Path) -> RunFolder | None:
    """Return the run's folder that is here already, None without one; raise RunExists unless it will do."""
    path = runs_dir / upload.run
    if not (path / CONFIG).is_file():
        return None
    run = RunFolder(path)
    metadata = run.path / METADATA
    if not metadata.is_file() or durable.fingerprint(metadata) != upload.files.get(METADATA):
        raise RunExists(f"{path} is another run of that name than {place.url}; choose another --runs-dir")
    newest = run.newest_checkpoint()
    ours = -1 if newest is None else number_of(newest)
    if ours >= upload.update:
        return run
    raise RunExists(
        f"{path} is here already, at update {max(ours, 0):,}, and {place.url} is at {upload.update:,}, from"
        f" another machine: rename or remove the folder, or resume it as it is: {run.command('resume')}"
    )


def _download(place: Place, upload: Upload, folder: Path) -> None:
    """Write an upload's files into `folder`; raise BrokenUpload when one is missing or not as it was."""
    from learner.checkpoint_files import verify
    from learner.errors import CheckpointError

    for name, expected in upload.files.items():
        target = folder / (name.replace(CHECKPOINT, f"checkpoints/{upload.name}/", 1))
        target.parent.mkdir(parents=True, exist_ok=True)
        got = place.fetch(f"{upload.folder}/{name}", target)
        if got is None:
            raise BrokenUpload(f"{name} is missing")
        if got != expected:
            raise BrokenUpload(f"{name} is not as it was written (size or SHA-256 differs)")
    try:
        verify(folder / "checkpoints" / upload.name)
    except (CheckpointError, OSError, ValueError, KeyError) as error:
        raise BrokenUpload(one_line(error)) from None


def _download_best(place: Place, upload: Upload, folder: Path) -> None:
    """Add the checkpoint that was marked as the best, where it is another one and whole."""
    try:
        name = str(json.loads((folder / BEST).read_bytes())["name"])
        if name != upload.name:
            best = read_upload(place, number_of(Path(name)))
            own = {file: x for file, x in best.files.items() if file.startswith(CHECKPOINT)}
            _download(place, Upload(best.run, best.identity, best.update, best.folder, own), folder)
    except (BrokenUpload, OSError, ValueError, KeyError, TypeError):
        return


def _settle(files: Path, upload: Upload, place: Place, runs_dir: str, changes: Changes) -> RunFolder:
    """Make the run's folder out of the downloaded files."""
    config = _config_here(files, upload, place, runs_dir, changes)
    own_servers = bool(config.replay.urls)
    # Before anything is made: a server that cannot be asked is said here.
    following = _next_incarnations(files, upload, config)
    run = RunFolder.create(config)
    try:
        config = run.load_config()
        # Put back last: without it this is no run, and one without its checkpoint would begin anew.
        run.config_path.unlink()
        shutil.copyfile(files / METADATA, run.path / METADATA)  # By it the run is known again.
        import_history(files, run)
        for checkpoint in (files / "checkpoints").iterdir():
            checkpoint.rename(run.checkpoints / checkpoint.name)
        if (files / BEST).is_file():
            shutil.copyfile(files / BEST, run.checkpoints / BEST)
        target = run.read_json(FLEET, {}).get("target_actors", 0)
        run.write_json(FLEET, {"target_actors": target, "next_incarnation": following})
        if own_servers and upload.identity:
            # The keys on them belong to the folder of this id (decision 0019).
            run.settle(adopted_by(run.path, upload.identity))
        run.save_config(config)
    except BaseException:
        run.unmake()
        raise
    return run


def _config_here(files: Path, upload: Upload, place: Place, runs_dir: str, changes: Changes) -> Config:
    """Return the run's configuration with what is different here; raise ConfigError."""
    config = from_json(json.loads((files / CONFIG).read_bytes()))
    parent, _, name = place.url.rpartition("/")
    if name != upload.run:
        raise ConfigError(f"{place.url}: holds the run {upload.run}, and must end in its name to be resumed")
    config = with_values(
        config,
        run__runs_dir=runs_dir,
        run__checkpoints_to=parent,
        run__ray_address="",
        replay__folder=changes.replay_folder,
        learner__device=changes.device or config.learner.device,
    )
    if changes.shards:
        return with_values(config, replay__shards=changes.shards, replay__urls=(), replay__urls_file="")
    if changes.urls:
        config = with_values(config, replay__urls=changes.urls, replay__urls_file="")
        return with_named_urls(config)
    if not config.replay.urls:
        return config
    if config.replay.urls_file:
        return with_named_urls(config, [f"@{config.replay.urls_file}"])
    today = with_urls_of_environment(with_values(config, replay__urls=(), replay__urls_file=""))
    config = today if today.replay.urls else config
    if any("***" in url for url in config.replay.urls):
        shown = ", ".join(map(hide_password, config.replay.urls))
        raise ConfigError(
            f"--replay.urls: an upload holds no passwords, and {shown} needs one: give --replay.urls @FILE"
            f" or ${URLS_VARIABLE}, or --shards N for embedded servers"
        )
    return config


def _next_incarnations(files: Path, upload: Upload, config: Config) -> dict[int, int]:
    """Return each actor slot's first number that no segment has, not even one written after the upload.

    A new actor with the name of any segment's writer would count as its copy.
    """
    fleet = json.loads((files / FLEET).read_bytes()) if (files / FLEET).is_file() else {}
    following = {int(slot): int(number) for slot, number in fleet.get("next_incarnation", {}).items()}
    document = json.loads((files / "checkpoints" / upload.name / DOCUMENT).read_bytes())
    for name in document["sampler"]["reader"]["accounts"]["writers"]:
        _use(following, *map(int, name.split(".")))
    spare = 0
    for index, url in enumerate(config.replay.urls):
        try:
            _add_stored(following, url, index, config.run.name)
        except ShardError:
            spare = SPARE_INCARNATIONS
    return {slot: number + spare for slot, number in following.items()}


def _add_stored(following: dict[int, int], url: str, index: int, run: str) -> None:
    with ExitStack() as stack:
        shard = stack.enter_context(
            closing(StoredShard(url, run=run, index=index, retry_seconds=ANSWER_SECONDS))
        )
        for page in shard.entries():
            for entry in page:
                if entry.identity is not None:
                    _use(following, entry.identity.actor, entry.identity.incarnation)


def _use(following: dict[int, int], slot: int, incarnation: int) -> None:
    following[slot] = max(following.get(slot, 0), incarnation + 1)

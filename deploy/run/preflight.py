"""Checks that need a trial, before anything is started: environment, Redis and Ray."""

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from deploy.run import import_path
from deploy.run.checks import check_frame_shape
from deploy.run.config import Config, ConfigError, with_values
from models.config import is_imported

GAMES_HINT = "; allowed are the games of ale-py, such as pong, breakout, ms_pacman or MsPacman"
ANSWER_SECONDS = 3.0
OLDEST_REDIS = (6, 2)
URLS_VARIABLE = "APEXPERT_REDIS_URLS"
RAY_VARIABLE = "RAY_ADDRESS"
"""Ray's own variable for the cluster to use; Ray sets it for the command of a job."""
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""A variable that Ray sets for the command of a job and for nothing else."""
COPIED_FOLDERS = "/runtime_resources/working_dir_files/"
"""Where each node has its copy of a job's working directory, until the job has ended."""
LOCAL = "local"
"""In place of a Ray's address: a private Ray, whatever $RAY_ADDRESS says."""


def preflight(config: Config, *, resumes: bool = False) -> Config:
    """Return `config` with the game's canonical name; ConfigError when something it names is not usable.

    A run that `resumes` does without Redis shards that do not answer, as a running one does.
    """
    check_job(config)
    config = with_checked_environment(config)
    config = with_checked_replay_folder(config)
    check_ray_address(config.run.ray_address)
    check_device(config)
    if config.replay.urls:
        check_urls(config.replay.urls, all_needed=not resumes)
    return config


def with_checked_environment(config: Config) -> Config:
    """Return `config` with the game's canonical name.

    Raises ConfigError when the environment cannot be made, or its frames are too small for the encoder.
    """
    from actors.environments import EnvironmentSetupError, describe_environment, normalise_game

    # A console script's import path lacks the current folder, where a user's own environment is.
    import_path.search_also(import_path.users_folders())
    try:
        if not config.environment.env:
            game = normalise_game(config.environment.game)
            config = with_values(config, environment__game=game)
        spec = describe_environment(config.environment)
    except EnvironmentSetupError as error:
        hint = "" if "did you mean" in str(error) or config.environment.env else GAMES_HINT
        raise ConfigError(f"{error}{hint}") from None
    check_frame_shape(config, spec.frame_shape)
    check_own_network(config, spec.observation_shape(config.environment.stack))
    return config


def check_own_network(config: Config, observation_shape: tuple[int, int, int]) -> None:
    """Raise ConfigError if the user's own encoder or head cannot be made or does not fit the frames."""
    if not (is_imported(config.network.encoder) or is_imported(config.network.head)):
        return
    from models.q_network import build_network

    # One action will do: neither encoder nor head depends on their number.
    try:
        build_network(config.network, num_actions=1, observation_shape=observation_shape)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def with_urls_of_environment(config: Config) -> Config:
    """Return `config` with the shards of $APEXPERT_REDIS_URLS (separated by spaces) unless it names its own.

    Unlike a process's arguments, its environment and files are hidden from the machine's other users.
    """
    words = _words_of_environment()
    return with_named_urls(config, words, f"${URLS_VARIABLE}") if words and not config.replay.urls else config


def with_urls_of_today(config: Config, urls: tuple[str, ...] = ()) -> Config:
    """Return a saved configuration with today's shards, which may have moved or have new passwords.

    They are `urls`, or else those of $APEXPERT_REDIS_URLS. Raises ConfigError.
    """
    saved, words, name = config.replay.urls, urls or tuple(_words_of_environment()), f"${URLS_VARIABLE}"
    if urls or (not words and config.replay.urls_file):
        words, name = urls or (f"@{config.replay.urls_file}",), "--replay.urls"
    # A run with embedded servers keeps them, whatever servers the variable names.
    if not saved or not words:
        return config
    today = with_named_urls(config, words, name)
    if len(today.replay.urls) != len(saved):
        raise ConfigError(f"{name} names {len(today.replay.urls)} shards, and the run has {len(saved)}")
    return today


def urls_of_environment() -> tuple[str, ...]:
    """Return the shards of $APEXPERT_REDIS_URLS; empty if it is not set."""
    return named_urls(_words_of_environment(), f"${URLS_VARIABLE}")


def _words_of_environment() -> list[str]:
    return os.environ.get(URLS_VARIABLE, "").split()


def with_named_urls(config: Config, words: Iterable[str] = (), name: str = "--replay.urls") -> Config:
    """Return `config` with the shards that `words` name, its own by default, files of URLs read.

    A file that names them all is noted (`replay.urls_file`): each machine of a cluster reads its own, so that
    no password travels. Raises ConfigError.
    """
    words = list(words or config.replay.urls)
    if not words and config.replay.urls_file:
        words, name = [f"@{config.replay.urls_file}"], "--replay.urls-file"
    file = words[0][1:] if len(words) == 1 and words[0].startswith("@") else ""
    file = str(Path(file).expanduser().absolute()) if file else ""
    return with_values(config, replay__urls=named_urls(words, name), replay__urls_file=file)


def named_urls(words: Iterable[str], name: str = "--replay.urls") -> tuple[str, ...]:
    """Return URLs as they are, and for each `@FILE` its URLs, one per line.

    Raises ConfigError, which begins with the `name` of what gave the words, for a file that has none.
    """
    urls: list[str] = []
    for word in words:
        if not word.startswith("@"):
            urls.append(word)
            continue
        try:
            lines = Path(word[1:]).expanduser().read_text(encoding="utf-8").split()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise ConfigError(f"{name} {word}: {reason}") from None
        if not lines:
            raise ConfigError(f"{name} {word}: no URLs in it; there must be one a line")
        urls += lines
    return tuple(urls)


def named_ray(given: str) -> str:
    """Return the address of a Ray: the one given, else that of $RAY_ADDRESS; empty for none and for `local`.

    Raises ConfigError for the address of a Ray's dashboard, which the variable may have for Ray's commands.
    """
    address = given or os.environ.get(RAY_VARIABLE, "")
    if "://" in address and not given:
        raise ConfigError(
            f"${RAY_VARIABLE} {address}: names no Ray to train on, which is host:port; --ray-address replaces"
            f" it, --ray-address {LOCAL} by a Ray of the run's own"
        )
    return "" if address == LOCAL else address


def with_ray_of_environment(config: Config) -> Config:
    """Return `config` with the Ray of $RAY_ADDRESS unless it names its own; raise ConfigError."""
    return with_values(config, run__ray_address=named_ray(config.run.ray_address))


def ray_of_today(asked: str, saved: Config) -> str:
    """Return the Ray for a run that is resumed: the one asked for, that of $RAY_ADDRESS, or the run's own."""
    return saved.run.ray_address if not (found := named_ray(asked)) and asked != LOCAL else found


def origin_of_ray(address: str) -> str:
    """Return ` (from $RAY_ADDRESS)` for the address that the variable has, else nothing."""
    return f" (from ${RAY_VARIABLE})" if address and address == os.environ.get(RAY_VARIABLE) else ""


def in_job() -> bool:
    """Whether this process is the command of a Ray job, or was started by it."""
    return JOB_VARIABLE in os.environ


def check_job(config: Config) -> None:
    """Raise ConfigError for what a Ray job makes impossible."""
    if not in_job():
        return
    if config.run.detach:
        raise ConfigError(
            "--detach: not in a Ray job, which would end at once while its run goes on; leave it out"
        )
    if COPIED_FOLDERS in str(Path(config.run.runs_dir).absolute()):
        raise ConfigError(
            f"--runs-dir {config.run.runs_dir}: is in this job's own copy of its working directory, which Ray"
            " removes after it; give the full path of a folder that stays"
        )


def with_checked_replay_folder(config: Config) -> Config:
    """Return `config` with an absolute `replay.folder`; raise ConfigError when it cannot be used here."""
    if not config.replay.folder:
        return config
    path = Path(config.replay.folder).expanduser().absolute()
    if config.replay.urls:
        raise ConfigError(f"--replay.folder {path}: is for embedded servers; --replay.urls names your own")
    existing = next(above for above in (path, *path.parents) if above.exists())
    # On a cluster the servers may be on another machine, which says so when they start there.
    if not config.run.ray_address and not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise ConfigError(f"--replay.folder {path}: {existing} is no folder that can be written")
    return with_values(config, replay__folder=str(path))


def check_device(config: Config) -> None:
    """Raise ConfigError if a local Ray should use a GPU and torch finds none on this machine."""
    # On a cluster the learner's node counts, and one with a GPU is waited for.
    if config.learner.device != "cuda" or config.run.ray_address:
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("--learner.device cuda: torch finds no GPU here; use auto or cpu (apexpert doctor)")


def check_ray_address(address: str) -> None:
    """Raise ConfigError unless something listens at a `host:port`; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    named = f"--ray-address {address}{origin_of_ray(address)}"
    if not (colon and port.isdigit()):
        if address not in ("", "auto"):
            raise ConfigError(f"{named}: must be host:port or auto, or local for a Ray of the run's own")
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{named}: nothing answers there ({error})") from None


def check_urls(urls: tuple[str, ...], *, all_needed: bool = True) -> None:
    """Raise ConfigError unless each URL reaches its own Redis or Valkey, recent enough and accessible.

    Unless `all_needed`, a server that does not answer only causes a warning, as long as another does.
    """
    from replay.errors import ShardError
    from replay.shards.connect import connect_shards

    missing = None if all_needed else _warn_of_missing
    try:
        for shard in connect_shards(urls, run="preflight", retry_seconds=ANSWER_SECONDS, missing=missing):
            version = str(shard.administration.info()["version"])
            shard.close()
            if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_REDIS:
                raise ConfigError(f"--replay.urls {shard.address}: Redis {version}; 6.2 or later is needed")
    except ShardError as error:
        raise ConfigError(f"--replay.urls: {str(error).removeprefix('--replay.urls: ')}") from None


def _warn_of_missing(error: Exception) -> None:
    print(f"WARNING: {error}; the others continue, and its items come back with it", flush=True)

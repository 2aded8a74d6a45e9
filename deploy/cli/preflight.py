"""What can only be found out by trying, before anything is started: environment, Redis and Ray."""

import socket
import sys
from pathlib import Path

from deploy.config import Config, ConfigError, with_values

GAMES_HINT = "; allowed are the games of ale-py, such as pong, breakout, ms_pacman or MsPacman"
ANSWER_SECONDS = 3.0
OLDEST_REDIS = (6, 2)


def preflight(config: Config) -> Config:
    """`config` with the game's canonical name; ConfigError when what it names is not there or not fit."""
    config = with_checked_environment(config)
    check_ray_address(config.run.ray_address)
    check_device(config)
    if config.replay.urls:
        check_urls(config.replay.urls)
    return config


def with_checked_environment(config: Config) -> Config:
    """`config` with the game's canonical name; ConfigError when the environment cannot be made."""
    from actors.environments import EnvironmentError, describe_environment, normalise_game

    if config.environment.env and str(Path.cwd()) not in sys.path:
        # A console script's import path lacks the folder it is called in, where a user's own environment is.
        sys.path.append(str(Path.cwd()))
    try:
        if not config.environment.env:
            game = normalise_game(config.environment.game)
            config = with_values(config, environment__game=game)
        describe_environment(config.environment)
    except EnvironmentError as error:
        hint = "" if "did you mean" in str(error) or config.environment.env else GAMES_HINT
        raise ConfigError(f"{error}{hint}") from None
    return config


def check_device(config: Config) -> None:
    """ConfigError when a GPU is asked for on a local Ray and this machine has none that torch can use."""
    if config.learner.device != "cuda" or config.run.ray_address:
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("--learner.device cuda: torch finds no GPU here; use auto or cpu (apexpert doctor)")


def check_ray_address(address: str) -> None:
    """ConfigError unless something listens at a `host:port`; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon:
        if address not in ("", "auto"):
            raise ConfigError(f"--ray-address {address}: must be host:port or auto, or empty for a local Ray")
        return
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"--ray-address {address}: nothing answers there ({error})") from None


def check_urls(urls: tuple[str, ...]) -> None:
    """ConfigError unless each URL reaches a Redis or Valkey of its own that is new enough and lets us in."""
    from replay.errors import ShardError
    from replay.shard import connect_shards

    try:
        for shard in connect_shards(urls, run="preflight", retry_seconds=ANSWER_SECONDS):
            version = str(shard.info()["version"])
            shard.close()
            if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_REDIS:
                raise ConfigError(f"--replay.urls {shard.address}: Redis {version}; 6.2 or later is needed")
    except ShardError as error:
        raise ConfigError(f"--replay.urls: {str(error).removeprefix('--replay.urls: ')}") from None

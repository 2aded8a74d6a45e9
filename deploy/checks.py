"""What a configuration must fulfil before anything starts.

Every complaint is one line that names the flag and what is allowed.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from deploy.config import Config, ConfigError, flag_of, leaves

Rule = tuple[str, Callable[[Any], bool]]

POSITIVE: Rule = ("greater than 0", lambda x: x > 0)
NOT_NEGATIVE: Rule = ("0 or more", lambda x: x >= 0)
SHARE: Rule = ("from 0 to 1", lambda x: 0 <= x <= 1)
TWO_OR_MORE: Rule = ("2 or more", lambda x: x >= 2)
NAME: Rule = (
    "letters, digits, dots, dashes and underscores, a letter or digit first, at most 80",
    lambda x: not x or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", x) is not None,
)

RULES: dict[str, Rule] = {
    "run.name": NAME,
    "run.seed": ("0 to 2**63 - 1", lambda x: 0 <= x < 2**63),
    "run.total_env_steps": POSITIVE,
    "run.runs_dir": ("a folder's name", lambda x: bool(x.strip())),
    "environment.repeat_action_probability": ("0 or more and less than 1", lambda x: 0 <= x < 1),
    "environment.frame_skip": POSITIVE,
    "environment.max_frames_per_episode": POSITIVE,
    "environment.noop_max": NOT_NEGATIVE,
    "environment.frame_height": ("16 or more", lambda x: x >= 16),
    "environment.frame_width": ("16 or more", lambda x: x >= 16),
    "environment.stack": ("1 to 32", lambda x: 1 <= x <= 32),
    "network.num_experts": POSITIVE,
    "network.expert_hidden_units": POSITIVE,
    "network.dense_hidden_units": POSITIVE,
    "network.num_atoms": TWO_OR_MORE,
    "network.noisy_sigma": POSITIVE,
    "replay.shards": ("1 to 64", lambda x: 1 <= x <= 64),
    "replay.shard_memory_bytes": ("16 MiB (16777216) or more", lambda x: x >= 16 * 1024**2),
    "replay.capacity": POSITIVE,
    "replay.min_size": POSITIVE,
    "replay.frame_store_bytes": NOT_NEGATIVE,
    "replay.segment_steps": ("1 to 4096", lambda x: 1 <= x <= 4096),
    "replay.n_step": ("1 to 255", lambda x: 1 <= x <= 255),
    "replay.gamma": SHARE,
    "replay.reward_clip": NOT_NEGATIVE,
    "replay.priority_exponent": SHARE,
    "replay.importance_exponent": SHARE,
    "replay.error_buffer": NOT_NEGATIVE,
    "exploration.epsilon_start": SHARE,
    "exploration.epsilon_end": SHARE,
    "exploration.epsilon_decay_steps": POSITIVE,
    "exploration.ladder_base": SHARE,
    "exploration.ladder_exponent": NOT_NEGATIVE,
    "actors.num_actors": POSITIVE,
    "actors.envs_per_actor": POSITIVE,
    "actors.weights_poll_steps": POSITIVE,
    "learner.batch_size": POSITIVE,
    "learner.update_period": POSITIVE,
    "learner.target_update_period": POSITIVE,
    "learner.learning_rate": POSITIVE,
    "learner.adam_eps": POSITIVE,
    "learner.publish_period": POSITIVE,
    "learner.checkpoint_period": POSITIVE,
    "learner.keep_checkpoints": POSITIVE,
    "learner.num_threads": NOT_NEGATIVE,
    "evaluation.every_env_steps": NOT_NEGATIVE,
    "evaluation.episodes": POSITIVE,
    "evaluation.epsilon": SHARE,
}
"""What each field alone must be; fields not named here take any value of their type."""

URL_SCHEMES = ("redis://", "rediss://", "unix://")


def check(config: Config) -> None:
    """Raise ConfigError, one line naming the flag, unless `config` can run. Touches nothing else."""
    for path, value in leaves(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{flag_of(path)} {value}: must be a finite number")
        if path in RULES:
            allowed, holds = RULES[path]
            _require(holds(value), path, value, f"must be {allowed}")
    for complaint in (_network, _replay, _limiter, _shards, _fleet):
        complaint(config)


def near_matches(word: str, known: Iterable[str], most: int = 3) -> str:
    """`; did you mean a or b?` for at most `most` known words nearest to `word`, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=most, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def smallest_error_buffer(config: Config) -> float:
    """Samples of `error_buffer` below which limiter and actors can wait for each other.

    The span of 2 * error_buffer must hold one batch and the samples that one segment is worth, because actors
    insert whole segments; the one step more is what rounding to whole env steps can take away.
    """
    return (config.learner.batch_size + config.samples_per_insert * (config.replay.segment_steps + 1)) / 2


def _require(holds: bool, path: str, value: Any, sentence: str) -> None:
    if not holds:
        shown = repr(value) if isinstance(value, str) else value
        raise ConfigError(f"{flag_of(path)} {shown}: {sentence}")


def _network(config: Config) -> None:
    network, environment = config.network, config.environment
    if network.distributional:
        sentence = f"must be smaller than --network.v-max ({network.v_max:g})"
        _require(network.v_min < network.v_max, "network.v_min", network.v_min, sentence)
    if network.encoder == "nature" and network.padding == "valid":
        # 8 by 8 with stride 4, 4 by 4 with stride 2, 3 by 3: 36 pixels leave one position.
        sentence = "must be 36 or more with --network.encoder nature --network.padding valid"
        for path in ("environment.frame_height", "environment.frame_width"):
            size = leaves(config)[path]
            _require(size >= 36, path, size, sentence)
    if environment.frame_skip > environment.max_frames_per_episode:
        sentence = f"must be at least --environment.frame-skip ({environment.frame_skip})"
        path = "environment.max_frames_per_episode"
        _require(False, path, environment.max_frames_per_episode, sentence)


def _replay(config: Config) -> None:
    replay, batch_size = config.replay, config.learner.batch_size
    sentence = (
        f"must be at most --replay.min-size ({replay.min_size}), the transitions before the first update"
    )
    _require(batch_size <= replay.min_size, "learner.batch_size", batch_size, sentence)
    sentence = f"must be at least --replay.min-size ({replay.min_size}), or no update could ever be made"
    _require(replay.capacity >= replay.min_size, "replay.capacity", replay.capacity, sentence)
    few = 4 * replay.segment_steps
    sentence = f"must be at least {few}, four segments of --replay.segment-steps ({replay.segment_steps})"
    _require(replay.capacity >= few, "replay.capacity", replay.capacity, sentence)
    total = config.run.total_env_steps
    sentence = f"must be greater than --replay.min-size ({replay.min_size}), or no update would ever be made"
    _require(total > replay.min_size, "run.total_env_steps", total, sentence)
    if config.actors.actor_priorities and not replay.prioritized:
        raise ConfigError(
            "--actors.actor-priorities: needs --replay.prioritized (uniform replay has no priorities)"
        )


def _limiter(config: Config) -> None:
    error_buffer, least = config.replay.error_buffer, smallest_error_buffer(config)
    sentence = (
        f"actors and learner could wait for each other for ever; must be at least {least:g}"
        " (half of one batch plus the samples of one segment), or 0 for a fitting value"
    )
    _require(error_buffer == 0 or error_buffer >= least, "replay.error_buffer", error_buffer, sentence)


def _shards(config: Config) -> None:
    urls, shards = config.replay.urls, config.replay.shards
    for url in urls:
        sentence = f"must start with {', '.join(URL_SCHEMES)}"
        _require(url.startswith(URL_SCHEMES), "replay.urls", hide_password(url), sentence)
    if len(set(urls)) < len(urls):
        raise ConfigError("--replay.urls: names one shard twice; every shard must be a Redis of its own")
    # The number of shards is the number of URLs; another number that was asked for contradicts it.
    if urls and shards not in (len(urls), type(config.replay)().shards):
        raise ConfigError(
            f"--replay.shards {shards}: counts embedded servers, but --replay.urls names {len(urls)};"
            " leave one of the two away"
        )
    if config.run.ray_address.startswith("ray://"):
        raise ConfigError(
            f"--ray-address {config.run.ray_address}: Ray's client protocol is not supported;"
            " run apexpert on a machine of the cluster with --ray-address auto"
        )
    if config.run.ray_address and any(url.startswith("unix://") for url in urls):
        raise ConfigError(
            "--replay.urls: unix:// sockets reach one machine only;"
            " with --ray-address give redis:// or rediss:// URLs"
        )


def _fleet(config: Config) -> None:
    if not config.run.lockstep:
        return
    for path, value in (
        ("actors.num_actors", config.actors.num_actors),
        ("actors.envs_per_actor", config.actors.envs_per_actor),
    ):
        _require(value == 1, path, value, "must be 1 with --lockstep")


def hide_password(url: str) -> str:
    """`url` with the password, if any, replaced by `***`: safe to print and log."""
    return re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:***@", url)

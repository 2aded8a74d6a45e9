"""Conditions that a configuration must fulfil before anything starts.

Every complaint is one line that names the flag and what is allowed.
"""

import difflib
import math
from collections.abc import Iterable
from typing import Any

from apexpert.limits import allowed, fits
from deploy.run.config import Config, ConfigError, flag_of, hide_password, leaf_limits, leaves, with_values
from models.config import ENCODERS, HEADS, MOE_HEADS, NetworkConfig, is_imported
from models.geometry import LAYERS, smallest_image
from replay.types import FrameShape

URL_SCHEMES = ("redis://", "rediss://", "unix://")


def check(config: Config) -> None:
    """Raise ConfigError, one line naming the flag, unless `config` can run. Touches nothing else."""
    for path, value in leaves(config).items():
        # Infinity is within every lower limit, so the limits alone would let it pass.
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{flag_of(path)} {value}: must be a finite number")
        check_limits(path, value)
    for complaint in (_network, _arm, _replay, _limiter, _shards, _fleet):
        complaint(config)


def check_limits(path: str, value: Any) -> None:
    """Raise ConfigError, naming the field's flag, unless `value` is within the limits of the field `path`."""
    limits = leaf_limits()[path]
    _require(fits(value, limits), path, value, f"must be {allowed(limits)}")


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


def check_frame_shape(config: Config, frame_shape: FrameShape) -> None:
    """Raise ConfigError when the two sides of a frame leave the encoder nothing to look at."""
    network, environment = config.network, config.environment
    if network.encoder not in LAYERS:
        # A user's own encoder shows its needs only when it is built (`check_own_network`).
        return
    height, width = frame_shape[-2:]
    patch = network.patch_size if network.tokens == "per_patch" else 1
    smallest = smallest_image(network.encoder, network.padding, patch)
    if min(height, width) >= smallest:
        return
    side = "environment.frame_height" if height < smallest else "environment.frame_width"
    flag = f"--environment.env {environment.env!r}" if environment.env else flag_of(side)
    # Without patches these frames would do: then the patch size is what to change.
    if min(height, width) >= smallest_image(network.encoder, network.padding):
        flag = f"{flag_of('network.patch_size')} {patch}"
    raise ConfigError(
        f"{flag}: frames are {height}x{width}, and both sides must be {smallest} or more with"
        f" --network.encoder {network.encoder} --network.padding {network.padding}"
        + (f" --network.tokens per_patch --network.patch-size {patch}" if patch > 1 else "")
    )


def check_game(config: Config, preset: Config) -> None:
    """Raise ConfigError for an Atari game beside the environment that the preset plays instead of one."""
    own, usual = config.environment, preset.environment
    # `make train` names a game with any preset: the default one stands for none that was asked for.
    if usual.env and own.env == usual.env and own.game.lower() != usual.game:
        raise ConfigError(
            f"{flag_of('environment.game')} {own.game}: is for Atari, and --preset {preset.run.preset} plays"
            f" {usual.env}; another game is --env, such as minatar:asterix"
        )


def _require(holds: bool, path: str, value: Any, sentence: str) -> None:
    if not holds:
        shown = repr(value) if isinstance(value, str) else value
        raise ConfigError(f"{flag_of(path)} {shown}: {sentence}")


def _network(config: Config) -> None:
    network, environment = config.network, config.environment
    if network.values == "c51":
        sentence = f"must be smaller than --network.v-max ({network.v_max:g})"
        _require(network.v_min < network.v_max, "network.v_min", network.v_min, sentence)
    loss = config.learner.loss
    sentence = f"is for --network.values scalar alone; {network.values} has a loss of its own"
    # huber is the default, and so stands for no loss that was asked for.
    _require(loss == "huber" or network.values == "scalar", "learner.loss", loss, sentence)
    priority = config.learner.priority
    sentence = f"is for --network.values c51 alone, not for {network.values}"
    _require(priority != "kl" or network.values == "c51", "learner.priority", priority, sentence)
    learner = config.learner
    sentence = f"must be at most --learner.learning-rate ({learner.learning_rate:g}), from which it falls"
    final = learner.final_learning_rate
    _require(final <= learner.learning_rate, "learner.final_learning_rate", final, sentence)
    sentence = f"must be a multiple of --learner.checkpoint-period ({learner.checkpoint_period})"
    fits = learner.keep_every % learner.checkpoint_period == 0
    _require(fits, "learner.keep_every", learner.keep_every, sentence)
    if not environment.env:
        check_frame_shape(config, (environment.frame_height, environment.frame_width))
    most = environment.max_frames_per_episode
    sentence = f"must be at least --environment.frame-skip ({environment.frame_skip})"
    _require(environment.frame_skip <= most, "environment.max_frames_per_episode", most, sentence)


ONLY_WITH_HEADS: dict[str, tuple[str, ...]] = {
    "slim_experts": MOE_HEADS,
    "expert_width_scale": MOE_HEADS,
    "capacity_factor": MOE_HEADS,
    "normalize": ("soft_moe",),
    "normalize_scale": ("soft_moe",),
    "phi": ("soft_moe",),
    "shuffle": MOE_HEADS,
    "token_norm": MOE_HEADS,
    "residual": MOE_HEADS,
    "selected_experts": ("top_k_moe",),
    "router_noise": ("top_k_moe",),
    "importance_loss_weight": ("top_k_moe",),
    "load_loss_weight": ("top_k_moe",),
    "entropy_loss_weight": ("top_k_moe",),
    "scale_dense": ("dense",),
}
"""Options of single heads: with another built-in head they would silently do nothing."""


def _arm(config: Config) -> None:
    """The encoder and the head are there, and each option fits the arm it is given with."""
    network, default = config.network, NetworkConfig()
    for name, known in (("encoder", ENCODERS), ("head", HEADS)):
        value = getattr(network, name)
        module, _, attribute = value.partition(":")
        own = attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))
        sentence = f"must be one of {', '.join(known)} or module:callable{near_matches(value, known)}"
        _require(own or value in known, f"network.{name}", value, sentence)
    for name, heads in ONLY_WITH_HEADS.items():
        # A default that was typed looks like one that was not, so it passes with any head.
        value = getattr(network, name)
        fits = network.head in heads or is_imported(network.head) or value == getattr(default, name)
        sentence = f"does nothing with --network.head {network.head}; it is for {' and '.join(heads)}"
        _require(fits, f"network.{name}", value, sentence)
    scale = network.normalize_scale
    needed = network.normalize or scale == default.normalize_scale
    _require(needed, "network.normalize_scale", scale, "does nothing without --network.normalize")
    if network.head in MOE_HEADS:
        _experts(network)
    _shuffle(network)
    _sparsity(config)


def _shuffle(network: NetworkConfig) -> None:
    """Shuffling changes something."""
    shuffle, shuffled = network.shuffle, network.shuffle != "none"
    one_token = network.tokens == "per_sample"
    _require(not (shuffled and one_token), "network.shuffle", shuffle, "does nothing to one token a state")
    blind = network.head in MOE_HEADS and network.combine != "flatten"
    sentence = f"does nothing with --network.combine {network.combine}, which has no order"
    _require(not (shuffle == "tokens" and blind), "network.shuffle", shuffle, sentence)


def _sparsity(config: Config) -> None:
    """Options of sparsity and pruning are given with what they are for, and pruning comes to its end."""
    network, learner = config.network, config.learner
    needs = {
        ("network", "sparsify"): (network.sparsity > 0, "--network.sparsity"),
        ("network", "sparsity_distribution"): (network.sparsity > 0, "--network.sparsity"),
    }
    pruning = network.sparsity > 0 and network.sparsify == "pruning"
    for name in ("pruning_start", "pruning_end", "pruning_period"):
        needs["learner", name] = (pruning, "--network.sparsify pruning")
    for (part, name), (given, flag) in needs.items():
        own = getattr(config, part)
        fits = given or getattr(own, name) == getattr(type(own), name)
        _require(fits, f"{part}.{name}", getattr(own, name), f"does nothing without {flag}")
    start, end, period = learner.pruning_start, learner.pruning_end, learner.pruning_period
    sentence = f"must be smaller than --learner.pruning-end ({end:g})"
    _require(start < end, "learner.pruning_start", start, sentence)
    total = config.run.total_env_steps
    left = int((total - end * total) / learner.update_period)
    sentence = f"must be at most {left}, the updates after --learner.pruning-end, or pruning may not reach it"
    _require(not pruning or period <= left, "learner.pruning_period", period, sentence)


def _experts(network: NetworkConfig) -> None:
    experts = f"--network.num-experts ({network.num_experts})"
    units = int(network.expert_hidden_units * network.expert_width_scale)
    sentence = f"leaves an expert of {network.expert_hidden_units} hidden units none"
    _require(units > 0, "network.expert_width_scale", network.expert_width_scale, sentence)
    divides = not network.slim_experts or units % network.num_experts == 0
    sentence = f"{units} hidden units of an expert cannot be divided by {experts}"
    _require(divides, "network.slim_experts", network.slim_experts, sentence)
    sentence = f"must be at most {experts}"
    chosen = network.selected_experts
    _require(chosen <= network.num_experts, "network.selected_experts", chosen, sentence)


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
    priority = config.learner.priority
    # On another scale new items would hardly be drawn, or nothing else (decision 0025).
    one_scale = not config.actors.actor_priorities or priority == "absolute_td"
    sentence = "must be absolute_td with --actors.actor-priorities, which are absolute errors too"
    _require(one_scale, "learner.priority", priority, sentence)


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
        if any(character.isspace() for character in url):
            raise ConfigError("--replay.urls: a URL holds a space; in a password it is written %20")
        database = "" if url.startswith("unix://") else _after_host(url)
        sentence = "must end in a database's number, such as /0, or in none"
        _require(database.isdigit() or not database, "replay.urls", hide_password(url), sentence)
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


def _after_host(url: str) -> str:
    """Return what follows user, host and port in a URL, without its options; passwords may hold a slash."""
    return url.partition("://")[2].partition("?")[0].rpartition("@")[2].partition("/")[2].strip("/")


def _fleet(config: Config) -> None:
    if not config.run.lockstep:
        return
    for path, value in (
        ("actors.num_actors", config.actors.num_actors),
        ("actors.envs_per_actor", config.actors.envs_per_actor),
    ):
        _require(value == 1, path, value, "must be 1 with --lockstep")


def without_passwords(config: Config) -> Config:
    """A copy to print and to store where others may look; it cannot be run."""
    return with_values(config, replay__urls=tuple(map(hide_password, config.replay.urls)))

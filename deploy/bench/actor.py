"""`apexpert bench actor`: one production actor on one core; embedded shards accept all it writes.

Environments and forward passes are all that an actor must do, one after the other on its core: the limit is
1 / (1 / env + 1 / forward). What the actor falls short of it goes into stacks, segments and the replay.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from actors.environments import describe_environment
from actors.policy import Policy
from deploy.bench import limits
from deploy.bench.replay.local_replay import make_actor, open_shards
from deploy.run.config import Config, to_json
from models.arrays import Weights, flatten

ROUNDS = 5
"""Actor, environments and policy take turns, so that a machine that slows down slows all of them."""
LOADS = 25


class Speed(NamedTuple):
    """Env steps per second of wall time, and per second of this process's processor time."""

    wall: float
    processor: float


def run(config: Config, *, seconds: float = 10.0, report: limits.Report = limits.silent) -> dict[str, Any]:
    """Measure the whole actor, its environments alone and its policy alone, for `seconds` each, in turns.

    All rates are per second, and medians over ROUNDS. `agent_steps_per_s` counts vector steps times
    environments; `ratio_of_limit` is its share of `limit`, `ratio_of_limit_processor` the same by processor
    time: waits for the shards are no part of it, and other programs on the machine change it less.
    `bytes_per_step` is the mean size of one encoded step, without what Redis adds. `weights_pause_ms`: how
    long new weights keep the actor from acting, median and largest of LOADS, and the median of its processor
    time.
    """
    report(f"measuring an actor, its environments and its policy: {3 * seconds:g} s")
    spec = describe_environment(config.environment)
    policy = limits.make_policy(config, spec)
    with open_shards(config) as shards, limits.env_step(config) as env_step:
        actor, writer = make_actor(config, shards, spec)
        forward = limits.forward_pass(config, spec, policy)
        # One thread, because each actor of a fleet has one core.
        with contextlib.closing(actor), limits.threads(1):
            for _ in range(config.replay.segment_steps):
                # Untimed: the first segments pay for connections and for compiled code that is loaded.
                actor.step()
            rounds = [
                tuple(_speed(config, turn, seconds / ROUNDS) for turn in (actor.step, env_step, forward))
                for _ in range(ROUNDS)
            ]
            actor.drain()
            pauses, busy = weights_pauses_ms(policy)
        written = writer.counters
    return {
        "benchmark": "actor",
        **figures(rounds),
        "bytes_per_step": written.bytes / max(written.items, 1),
        "weights_pause_ms": statistics.median(pauses),
        "weights_pause_ms_largest": max(pauses),
        "weights_pause_ms_processor": statistics.median(busy),
        "config": to_json(config),
    }


def figures(rounds: list[tuple[Speed, ...]]) -> dict[str, float]:
    """Return the medians of rounds of (actor, environments, policy)."""
    walls = [tuple(speed.wall for speed in round_) for round_ in rounds]
    processors = [tuple(speed.processor for speed in round_) for round_ in rounds]
    actor, env, forward = (statistics.median(column) for column in zip(*walls, strict=True))
    return {
        "agent_steps_per_s": actor,
        "env_steps_per_s": env,
        "forward_states_per_s": forward,
        "limit": statistics.median(_limit(*parts) for _, *parts in walls),
        # Of each round: its three parts met the same machine.
        "ratio_of_limit": statistics.median(actor / _limit(*parts) for actor, *parts in walls),
        "ratio_of_limit_processor": statistics.median(actor / _limit(*parts) for actor, *parts in processors),
    }


def _limit(env: float, forward: float) -> float:
    return 1 / (1 / env + 1 / forward)


def _speed(config: Config, turn: Callable[[], object], seconds: float) -> Speed:
    """Return the speed of a turn that steps all environments, or evaluates all of their observations."""
    before = time.process_time()
    started = time.perf_counter()
    wall = limits.calls_per_s(turn, seconds)
    # The calls before the clock starts count in both, in the same proportion.
    share = (time.process_time() - before) / max(time.perf_counter() - started, 1e-9)
    num_envs = config.actors.envs_per_actor
    return Speed(num_envs * wall, num_envs * wall / max(share, 1e-9))


def weights_pauses_ms(policy: Policy) -> tuple[list[float], list[float]]:
    """Return how long each of LOADS new versions, read-only as Ray's are, keeps this policy from acting.

    In milliseconds of wall time, and of this thread's processor time, which is the same on a core of its own.
    """
    parameters, pauses, busy = flatten(policy.network), [], []
    parameters.flags.writeable = False
    for version in range(LOADS):
        weights = Weights(version, parameters, 0)
        started, worked = time.perf_counter(), time.thread_time()
        policy.load(weights)
        pauses.append(1e3 * (time.perf_counter() - started))
        busy.append(1e3 * (time.thread_time() - worked))
    return pauses, busy

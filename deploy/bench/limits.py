"""The speed of a run's parts by themselves, and the end-to-end speed that follows from them.

With samples_per_insert s, an agent step costs s samples on all cores, and one env step and one forward pass
on one core each: limit = 1 / (s / update + (1 / env + 1 / forward) / cores) agent steps per second.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from actors.environments import EnvironmentSpec, describe_environment, environment_seeds, make_environment
from actors.policy import Policy
from deploy.run.config import Config
from learner.update.train_step import TrainStep
from replay.types import Batch

# Untimed: the first calls get fresh memory, and pay page faults that later calls do not.
WARM_CALLS = 5


Report = Callable[[str], object]
"""Receives a line about what is measured next, or has been."""


def silent(_: str) -> None:
    """Report nothing."""


def measure(config: Config, *, seconds: float = 4.0, report: Report = silent) -> dict[str, float]:
    """Measure the three parts for `seconds` each; return them with the `limit` and `cores`."""
    report(f"measuring updates, environments and forward passes by themselves: {3 * seconds:g} s")
    # The cores that this process may use: taskset or a cpuset leaves fewer than the machine has.
    cores = len(os.sched_getaffinity(0))
    update = update_samples_per_s(config, seconds=seconds)
    env = env_steps_per_s(config, seconds=seconds)
    forward = forward_states_per_s(config, seconds=seconds)
    limit = 1 / (config.samples_per_insert / update + (1 / env + 1 / forward) / cores)
    return {
        "limit": limit,
        "update_samples_per_s": update,
        "env_steps_per_s": env,
        "forward_states_per_s": forward,
        "cores": float(cores),
        "samples_per_insert": config.samples_per_insert,
    }


def update_samples_per_s(config: Config, *, seconds: float) -> float:
    """Return samples per second of the production TrainStep on all cores (or the GPU), on random frames.

    Each update receives the next batch ahead of time, as in a run.
    """
    spec = describe_environment(config.environment)
    rng = np.random.default_rng(config.run.seed)
    # Two batches in turn: the train step works ahead only on the very object that comes next.
    waiting = [random_batch(config, spec, rng) for _ in range(2)]
    with threads(config.learner.cpu_threads):
        train_step = make_train_step(config, spec)

        def update() -> None:
            batch = waiting.pop(0)
            waiting.append(batch)
            train_step.step(batch, lambda: waiting[0])

        return calls_per_s(update, seconds) * config.learner.batch_size


def env_steps_per_s(config: Config, *, seconds: float) -> float:
    """Return env steps per second of one actor's environments on one thread, under random actions."""
    with env_step(config) as step:
        return config.actors.envs_per_actor * calls_per_s(step, seconds)


@contextlib.contextmanager
def env_step(config: Config) -> Iterator[Callable[[], object]]:
    """Make an actor's environments; gives a step of all of them under random actions."""
    num_envs = config.actors.envs_per_actor
    environment = make_environment(
        config.environment, num_envs, environment_seeds(config.run.seed, 0, 0, num_envs)
    )
    rng = np.random.default_rng(config.run.seed)
    with contextlib.closing(environment):
        environment.reset()
        yield lambda: environment.step(rng.integers(0, environment.num_actions, num_envs))


def forward_states_per_s(config: Config, *, seconds: float) -> float:
    """Return states per second of the production Policy on one thread, at the actor's batch size."""
    spec = describe_environment(config.environment)
    with threads(1):
        forward = forward_pass(config, spec, make_policy(config, spec))
        return config.actors.envs_per_actor * calls_per_s(forward, seconds)


def forward_pass(config: Config, spec: EnvironmentSpec, policy: Policy) -> Callable[[], object]:
    """Return a pass of the policy over an actor's batch of random observations."""
    shape = (config.actors.envs_per_actor, *spec.observation_shape(config.environment.stack))
    observations = np.random.default_rng(config.run.seed).integers(0, 256, shape, dtype=np.uint8)
    return lambda: policy.act(observations, 0.0)


def make_train_step(config: Config, spec: EnvironmentSpec) -> TrainStep:
    """Return the train step that a learner with this configuration would have."""
    return TrainStep(
        config.network,
        config.learner,
        num_actions=spec.num_actions,
        observation_shape=spec.observation_shape(config.environment.stack),
        seed=config.run.seed,
    )


def make_policy(config: Config, spec: EnvironmentSpec) -> Policy:
    """Return the policy that an actor with this configuration would have."""
    return Policy(
        config.network,
        observation_shape=spec.observation_shape(config.environment.stack),
        num_actions=spec.num_actions,
        precision=config.actors.precision,
        seed=config.run.seed,
    )


def random_batch(config: Config, spec: EnvironmentSpec, rng: np.random.Generator) -> Batch:
    """Return a batch of random frames, actions, rewards in {-1, 0, 1} and equal importance weights."""
    size = config.learner.batch_size
    shape = (size, *spec.observation_shape(config.environment.stack))
    return Batch(
        observation=rng.integers(0, 256, shape, dtype=np.uint8),
        action=rng.integers(0, spec.num_actions, size),
        reward=rng.integers(-1, 2, size).astype(np.float32),
        discount=np.full(size, config.replay.gamma**config.replay.n_step, np.float32),
        next_observation=rng.integers(0, 256, shape, dtype=np.uint8),
        probability=np.full(size, 1 / size),
        importance_weight=np.ones(size, np.float32),
        leaf=np.arange(size),
        generation=np.zeros(size, np.int64),
        weights_version=np.zeros(size, np.int64),
    )


def calls_per_s(function: Callable[[], Any], seconds: float) -> float:
    """Return calls per second of wall time over about `seconds`, after some warm-up calls."""
    for _ in range(WARM_CALLS):
        function()
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or calls == 0:
        function()
        calls += 1
    return calls / elapsed


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Give PyTorch that many threads for a while; a train step built meanwhile has a team of as many."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)

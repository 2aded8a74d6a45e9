"""`apexpert bench learner`: the production train step alone, and with the production sampler."""

import contextlib
from typing import Any

from actors.environments import EnvironmentSpec, describe_environment
from deploy.bench import limits
from deploy.bench.replay.local_replay import NEVER_LIMITED, RUN, make_actor, open_shards, signature_of
from deploy.run.config import Config, to_json, with_values
from learner.update.train_step import TrainStep
from replay.sampler import Sampler
from replay.shards.shard import Shard
from replay.types import Batch

FILL = 2_000
"""Items that a real actor writes before the measurement."""


def run(config: Config, *, seconds: float = 10.0, report: limits.Report = limits.silent) -> dict[str, Any]:
    """Measure samples per second of the train step, the sampler and both together, for `seconds` each."""
    config = with_values(config, replay__min_size=FILL, replay__error_buffer=NEVER_LIMITED)
    spec = describe_environment(config.environment)
    report(f"filling a replay with {FILL:,} transitions, then measuring a learner: {3 * seconds:g} s")
    with open_shards(config) as shards:
        sampler = _filled_sampler(config, shards, spec)
        with limits.threads(config.learner.cpu_threads):
            updates = _updates_per_s(limits.make_train_step(config, spec), sampler, seconds)
        draws = limits.calls_per_s(sampler.sample, seconds)
    return {
        "benchmark": "learner",
        "learner_samples_per_s": updates * config.learner.batch_size,
        "updates_per_s": updates,
        "update_samples_per_s": limits.update_samples_per_s(config, seconds=seconds),
        "draw_samples_per_s": draws * config.learner.batch_size,
        "config": to_json(config),
    }


def _updates_per_s(train_step: TrainStep, sampler: Sampler, seconds: float) -> float:
    waiting = [sampler.sample()]

    def draw_ahead() -> Batch:
        # A look per update, where a learner pauses between looks (learner/batches.py).
        sampler.ingest()
        waiting.append(sampler.sample())
        return waiting[-1]

    def update() -> None:
        batch = waiting.pop()
        result = train_step.step(batch, draw_ahead)
        # Too late for the batch drawn ahead: one update is in flight (docs/decisions/0009).
        sampler.update_priorities(batch.leaf, batch.generation, result.priorities)

    return limits.calls_per_s(update, seconds)


def _filled_sampler(config: Config, shards: list[Shard], spec: EnvironmentSpec) -> Sampler:
    actor, writer = make_actor(config, shards, spec)
    with contextlib.closing(actor):
        while writer.counters.items < FILL:
            actor.step()
    sampler = Sampler(
        config.replay,
        shards,
        run=RUN,
        signature=signature_of(config, spec),
        batch_size=config.learner.batch_size,
        samples_per_insert=config.samples_per_insert,
        seed=config.run.seed,
    )
    while not sampler.can_sample():
        sampler.ingest()
    return sampler

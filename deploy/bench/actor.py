"""`apexpert bench actor`: one production actor on one core; embedded shards accept all it writes."""

import contextlib
from typing import Any

from actors.environments import describe_environment
from deploy.bench import limits
from deploy.bench.replay.local_replay import make_actor, open_shards
from deploy.run.config import Config, to_json


def run(config: Config, *, seconds: float = 10.0, report: limits.Report = limits.silent) -> dict[str, Any]:
    """Measure the whole actor, its environments alone and its policy alone, for `seconds` each.

    All results are per second. `agent_steps_per_s` counts vector steps times environments; `bytes_per_step`
    is the mean size of one encoded step, without what Redis adds.
    """
    report(f"measuring an actor, its environments and its policy: {3 * seconds:g} s")
    spec = describe_environment(config.environment)
    with open_shards(config) as shards:
        actor, writer = make_actor(config, shards, spec)
        # One thread, because each actor of a fleet has one core.
        with contextlib.closing(actor), limits.threads(1):
            vector_steps = limits.calls_per_s(actor.step, seconds)
            actor.drain()
        written = writer.counters
    return {
        "benchmark": "actor",
        "agent_steps_per_s": vector_steps * config.actors.envs_per_actor,
        "env_steps_per_s": limits.env_steps_per_s(config, seconds=seconds),
        "forward_states_per_s": limits.forward_states_per_s(config, seconds=seconds),
        "bytes_per_step": written.bytes / max(written.items, 1),
        "config": to_json(config),
    }

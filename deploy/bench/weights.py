"""`apexpert bench weights`: the cost for actors to act with the newest weights, in core-milliseconds.

Runs the production store in a Ray process of its own; this process asks it as an actor does and publishes as
a learner does, at a pace that leaves the cores idle in between.
"""

from collections.abc import Mapping
from typing import Any

from actors.environments import describe_environment
from deploy.bench import limits
from deploy.fleet.processes.weights_cost import measure_on_own_ray
from deploy.run.config import Config, to_json


def run(config: Config, *, seconds: float = 4.0, report: limits.Report = limits.silent) -> dict[str, Any]:
    """Measure a request that finds nothing newer, and a publication with the request that fetches it.

    Each takes `seconds`. The idle cost of the processes is subtracted.
    """
    parts = limits.measure(config, seconds=seconds, report=report)
    parameters = limits.make_train_step(config, describe_environment(config.environment)).parameters()
    report(f"starting a Ray, then measuring requests and publications: {2 * seconds:g} s")
    question, publication = measure_on_own_ray(parameters, seconds)
    found = {"benchmark": "weights", "parameters": len(parameters)}
    return found | relate(config, parts, question, publication) | {"config": to_json(config)}


def relate(
    config: Config, parts: Mapping[str, float], question: float, publication: float
) -> dict[str, float]:
    """Relate both costs, in core-milliseconds, to what they serve (`parts` as from `limits.measure`).

    `question_percent`: of an actor's vector steps, at its `weights_poll_steps`; `publication_percent`: of the
    learner's updates, at its `publish_period`.
    """
    num_envs, batch = config.actors.envs_per_actor, config.learner.batch_size
    # An actor has one core, on which forward pass and environments follow each other.
    step = 1e3 * num_envs * (1 / parts["env_steps_per_s"] + 1 / parts["forward_states_per_s"])
    # An update counts as using all cores: each second of it is `cores` core-seconds.
    update = 1e3 * parts["cores"] * batch / parts["update_samples_per_s"]
    return {
        "question_core_ms": question,
        "vector_step_core_ms": step,
        "question_percent": 100 * question / (config.actors.weights_poll_steps * step),
        "publication_core_ms": publication,
        "update_core_ms": update,
        "publication_percent": 100 * publication / (config.learner.publish_period * update),
    }

"""`apexpert bench weights`: what actors pay for acting with the newest weights, in core-milliseconds.

The production store in a Ray process of its own; this process asks it as an actor does and publishes as a
learner does, at a pace that leaves the cores idle in between.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from numpy.typing import NDArray

from actors.environments import describe_environment
from deploy.bench import limits
from deploy.config import Config, to_json
from deploy.fleet import cluster
from deploy.fleet.weight_store import FlatWeights, StoredWeights, WeightPublisher, create_weight_store

PAUSE_SECONDS = 0.005
"""Between two rounds: Ray's threads do their part of a call meanwhile."""


def run(config: Config, *, seconds: float = 4.0) -> dict[str, Any]:
    """Measure for `seconds` each: a question that finds nothing newer, and a publication with the question
    that takes it. What the processes take when nothing is asked is subtracted.
    """
    parts = limits.measure(config, seconds=seconds)
    parameters = limits.make_train_step(config, describe_environment(config.environment)).parameters()
    local = cluster.start_local()
    try:
        cluster.connect(local.address, local)
        question, publication = measure(parameters, seconds)
    finally:
        ray.shutdown()
        local.end()
    found = {"benchmark": "weights", "parameters": len(parameters)}
    return found | relate(config, parts, question, publication) | {"config": to_json(config)}


def relate(
    config: Config, parts: Mapping[str, float], question: float, publication: float
) -> dict[str, float]:
    """Both, in core-milliseconds, beside what they serve (`parts`: as `limits.measure` gives them).

    `question_percent`: of an actor's vector steps, at its `weights_poll_steps`; `publication_percent`: of the
    learner's updates, at its `publish_period`.
    """
    num_envs, batch = config.actors.envs_per_actor, config.learner.batch_size
    step = 1e3 * num_envs * (1 / parts["env_steps_per_s"] + 1 / parts["forward_states_per_s"])
    update = 1e3 * parts["cores"] * batch / parts["update_samples_per_s"]
    return {
        "question_core_ms": question,
        "vector_step_core_ms": step,
        "question_percent": 100 * question / (config.actors.weights_poll_steps * step),
        "publication_core_ms": publication,
        "update_core_ms": update,
        "publication_percent": 100 * publication / (config.learner.publish_period * update),
    }


def measure(parameters: NDArray[np.float32], seconds: float) -> tuple[float, float]:
    """Core-milliseconds of this process and the store's for a question, and for a publication of the
    parameters (P,); on the Ray that this process is connected to.
    """
    with tempfile.TemporaryDirectory(prefix="apexpert-bench-") as folder:
        store = create_weight_store(ray.get_runtime_context().get_node_id(), Path(folder) / "log.txt")
        processes = [psutil.Process(), psutil.Process(_process_id(store))]
        source, publisher = StoredWeights(store), WeightPublisher(store)

        def ask() -> None:
            source.take()
            source.ask()

        def publish() -> None:
            publisher.publish(FlatWeights(publisher.newest_version() + 1, parameters, 0, 0))
            while source.take(wait=True) is None:
                pass

        publish()
        idle, asked, published = (_core_ms(turn, processes, seconds) for turn in (lambda: None, ask, publish))
        ray.kill(store)
    return asked - idle, published - idle


def _process_id(store: Any) -> int:
    return int(ray.get(store.__ray_call__.remote(lambda _: psutil.Process().pid)))


def _core_ms(turn: Callable[[], None], processes: list[psutil.Process], seconds: float) -> float:
    """Of all these processes, a turn, with a pause behind each."""
    turn()
    turns, start, before = 0, time.perf_counter(), _core_seconds(processes)
    while time.perf_counter() - start < seconds or not turns:
        turn()
        time.sleep(PAUSE_SECONDS)
        turns += 1
    return 1e3 * (_core_seconds(processes) - before) / turns


def _core_seconds(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return float(np.sum([t.user + t.system for t in times]))

"""The cost of distributing weights: an actor's requests to the store, and the learner's publications."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from numpy.typing import NDArray

from deploy.fleet.processes.weight_store import (
    FlatWeights,
    StoredWeights,
    WeightPublisher,
    create_weight_store,
)
from deploy.fleet.ray import cluster
from deploy.run.folder import LOG

PAUSE_SECONDS = 0.005
"""Pause between two rounds, in which Ray's threads do their part of a call."""


def measure_on_own_ray(parameters: NDArray[np.float32], seconds: float) -> tuple[float, float]:
    """Run `measure` on a Ray started for it."""
    local = cluster.start_local()
    try:
        cluster.connect(local.address, local)
        return measure(parameters, seconds)
    finally:
        ray.shutdown()
        local.end()


def measure(parameters: NDArray[np.float32], seconds: float) -> tuple[float, float]:
    """Return core-milliseconds, of this process and the store's, for a request and for a publication of the
    parameters (P,), on the Ray that this process is connected to.
    """
    with tempfile.TemporaryDirectory(prefix="apexpert-bench-") as folder:
        store = create_weight_store("DEFAULT", Path(folder) / LOG)
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
    # An idle Ray process has threads that work too: the pauses alone are not free.
    return asked - idle, published - idle


def _process_id(store: Any) -> int:
    return int(ray.get(store.__ray_call__.remote(lambda _: psutil.Process().pid)))


def _core_ms(turn: Callable[[], None], processes: list[psutil.Process], seconds: float) -> float:
    """Return core-milliseconds of all these processes per turn, with a pause after each."""
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

"""Small whole runs on Catch, for the integration and fault tests."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.run.checks import check
from deploy.run.config import Config, from_json, with_values
from deploy.run.states import FINAL_STATES
from tests.helpers.deadline import patient

if TYPE_CHECKING:
    from deploy.fleet import RunClient

CATCH: dict[str, dict[str, Any]] = {
    "environment": {"env": "tests.helpers.catch:make", "frame_skip": 1, "stack": 1},
    "network": {
        "encoder": "nature", "padding": "valid", "encoder_width_scale": 0.25, "num_experts": 2,
        "expert_hidden_units": 64, "tokens": "per_conv", "values": "c51", "v_min": -1.0, "v_max": 1.0,
        "noisy": False,
    },
    "replay": {
        "capacity": 20_000, "min_size": 500, "frame_store_bytes": 2**28, "shard_memory_bytes": 2**27,
        "segment_steps": 16, "n_step": 3, "priority_exponent": 0.5, "importance_exponent": 0.4,
    },
    "exploration": {"epsilon_decay_steps": 2_500, "epsilon_end": 0.01},
    "actors": {"num_actors": 1, "envs_per_actor": 8, "weights_poll_steps": 2, "precision": "float32"},
    # One thread: with more, OpenMP's barriers wait for a core that the actor or another test is using.
    "learner": {
        "update_period": 4, "learning_rate": 5e-4, "target_update_period": 100, "publish_period": 10,
        "checkpoint_period": 100, "cpus": 1, "precision": "float32", "device": "cpu",
    },
    "run": {"total_env_steps": 100_000, "seed": 1},
}  # fmt: skip


def catch_config(runs_dir: Path, **changes: Any) -> Config:
    """A run on Catch; `changes` are given as `section__name=value`."""
    config = with_values(from_json(CATCH), run__runs_dir=str(runs_dir), **changes)
    check(config)
    return config


def flags(config_changes: dict[str, dict[str, Any]]) -> list[str]:
    """The same as flags of `apexpert train`."""
    words = []
    for section, values in config_changes.items():
        for name, value in values.items():
            dashed = name.replace("_", "-")
            flag = f"--{dashed}" if section == "run" else f"--{section}.{dashed}"
            if isinstance(value, bool):
                words.append(flag if value else flag.replace(dashed, f"no-{dashed}"))
            else:
                words += [flag, str(value)]
    return words


def follow(
    client: "RunClient", reached: Callable[[dict[str, Any]], bool], what: str, seconds: float
) -> dict[str, Any]:
    """The first status for which `reached` holds, with heartbeats; AssertionError after `patient(...)`."""
    deadline = time.monotonic() + patient(seconds)
    while True:
        status = client.status()
        if reached(status):
            return status
        assert status["state"] not in FINAL_STATES, f"{status['state']}: {status['message']}"
        assert time.monotonic() < deadline, f"not within {patient(seconds):.0f} s: {what}; last: {status}"
        client.heartbeat()
        time.sleep(0.1)


def metric(status: dict[str, Any], name: str) -> float:
    """A metric of the status, 0 when it is not there yet."""
    return float(status["metrics"].get(name, 0.0))

"""Runs that have a small network in a checkpoint, and have played nothing."""

import dataclasses
from pathlib import Path
from typing import Any

from deploy.run.config import Config, with_values
from deploy.run.folder import RunFolder
from learner.checkpoint import CheckpointStore, with_prefix
from models.config import NetworkConfig
from models.q_network import build_network

SMALL: dict[str, Any] = {"encoder": "nature", "expert_hidden_units": 8, "num_atoms": 11, "noisy": False}


def run_folder(runs_dir: Path, **network: Any) -> RunFolder:
    """The folder of the run `seen`, its network as `SMALL` with these changes."""
    config = with_values(
        Config(network=NetworkConfig(**(SMALL | network))),
        environment__env="tests.helpers.catch:make",
        run__runs_dir=str(runs_dir),
        run__name="seen",
    )
    folder = RunFolder.create(config)
    document = {
        "env_steps": 1234,
        "weights_version": 7,
        "update": 9,
        "network": dataclasses.asdict(config.network),
        "observation_shape": [4, 84, 84],
        "num_actions": 3,
    }
    arrays = with_prefix(build_network(config.network, 3, seed=1).state_dict(), "online")
    CheckpointStore(folder.checkpoints).save(56, arrays, document)
    return folder

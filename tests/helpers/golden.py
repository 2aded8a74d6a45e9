"""Loads a golden case (tests/golden) and builds the train step it is about; see the tests that use it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learner.config import LearnerConfig
from learner.train_step import TrainStep
from models.config import NetworkConfig
from models.dopamine import load_dopamine
from replay.types import Batch

FOLDER = Path(__file__).parent.parent / "golden"


@dataclass(frozen=True)
class GoldenCase:
    """One case: `arrays` as the reference printed them, parameters by its paths; `meta` its options."""

    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(repr=False)

    @classmethod
    def load(cls, name: str, folder: Path = FOLDER) -> "GoldenCase":
        with np.load(folder / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        return cls(json.loads(arrays.pop("meta").tobytes()), arrays)

    def section(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Arrays under `prefix/`, without it."""
        return {k.removeprefix(f"{prefix}/"): v for k, v in self.arrays.items() if k.startswith(f"{prefix}/")}

    @property
    def network_config(self) -> NetworkConfig:
        meta = self.meta
        rainbow = meta["kind"] == "rainbow"
        return NetworkConfig(
            encoder="nature" if meta.get("encoder") == "CNN" else "impala",
            padding="same",
            head="dense" if meta["moe_type"] == "BASELINE" else "soft_moe",
            num_experts=meta.get("num_experts", 1),
            expert_hidden_units=meta["expert_hidden_units"],
            dense_hidden_units=meta["expert_hidden_units"],
            distributional=rainbow,
            num_atoms=meta.get("num_atoms", 51),
            v_min=-meta.get("vmax", 10.0),
            v_max=meta.get("vmax", 10.0),
            dueling=rainbow and meta.get("dueling", True),
            noisy=meta.get("noisy", False),
        )

    def train_step(self) -> TrainStep:
        """A float32 train step on the CPU with the case's parameters in both networks."""
        learner_config = LearnerConfig(
            batch_size=len(self.arrays["action"]),
            double=self.meta["kind"] == "rainbow" and self.meta.get("double", True),
            learning_rate=self.meta.get("learning_rate", 6.25e-5),
            adam_eps=self.meta.get("adam_eps", 1.5e-4),
            precision="float32",
        )
        step = TrainStep(
            self.network_config, learner_config, num_actions=self.meta["num_actions"], seed=0, device="cpu"
        )
        load_dopamine(step.online_network, self.section("params"))
        load_dopamine(step.target_network, self.section("target_params"))
        return step

    def batch(self) -> Batch:
        """The case's batch: the discount is the reference's cumulative gamma, 0 after a true end."""
        arrays = self.arrays
        size = len(arrays["action"])
        return Batch(
            observation=self.observation(),
            action=arrays["action"].astype(np.int64),
            reward=arrays["reward"],
            discount=(self.meta.get("cumulative_gamma", 0.0) * (1.0 - arrays["terminal"])).astype(np.float32),
            next_observation=np.ascontiguousarray(arrays["next_state"].transpose(0, 3, 1, 2)),
            probability=np.full(size, 1.0 / size),
            importance_weight=arrays["loss_weight"],
            leaf=np.arange(size),
            generation=np.zeros(size, np.int64),
            weights_version=np.zeros(size, np.int64),
        )

    def observation(self) -> NDArray[np.uint8]:
        """(B, 4, 84, 84)"""
        return np.ascontiguousarray(self.arrays["state"].transpose(0, 3, 1, 2))

    def assert_close(
        self, name: str, actual: torch.Tensor | NDArray[Any] | float, atol: float = 1e-4
    ) -> None:
        """`actual` is the array called `name`, to `atol` plus a relative 1e-3."""
        actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
        np.testing.assert_allclose(actual, self.arrays[name], rtol=1e-3, atol=atol, err_msg=name)

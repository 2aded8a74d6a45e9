"""Acting with every arm: a draw of noise for each environment, none when it is off, and no noisy routing."""

import numpy as np
import pytest

from actors.policy import Policy
from models.config import NetworkConfig
from tests.helpers.models.arms import AGENTS, ARMS, DRAWN

SHAPE = (2, 44, 44)


def _policy(arm, agent, precision="auto"):
    network = {"dense_hidden_units": 16, **ARMS[arm], **AGENTS[agent], "expert_hidden_units": 16}
    config = NetworkConfig(encoder="nature", padding="valid", noisy_sigma=3.0, num_atoms=11, **network)
    return Policy(config, observation_shape=SHAPE, num_actions=3, precision=precision, seed=1)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_acts(arm, agent):
    observations = np.random.default_rng(0).integers(0, 256, (1, *SHAPE), dtype=np.uint8).repeat(5, axis=0)
    for precision in ("float32", "bfloat16"):
        policy = _policy(arm, agent, precision)
        quiet = policy.act(observations, 0.0, noise=False)
        if arm in DRAWN:  # In evaluation too.
            assert len(set(quiet.q_max.tolist())) > 1
            continue
        assert quiet.q_max.std() < 1e-3
        noisy = policy.act(observations, 0.0)
        assert len(set(noisy.q_max.tolist())) == (5 if agent == "rainbow" else len(set(quiet.q_max.tolist())))
        again = policy.act(observations, 0.0, noise=False)
        np.testing.assert_array_equal(again.q_max, quiet.q_max)

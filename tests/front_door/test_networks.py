"""`load_network` and `load_policy`, from a run's folder and from an exported file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import apexpert
from deploy.cli.main import main
from learner.errors import CheckpointError
from tests.helpers.runs.network_runs import run_folder


def test_a_network_is_the_checkpoints_and_gives_values(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, num_experts=2)
    network = apexpert.load_network("seen", runs_dir=str(tmp_path))
    assert not network.training
    observations = torch.zeros(3, *network.observation_shape, dtype=torch.uint8)
    with torch.no_grad():
        assert network(observations).q_values.shape == (3, network.num_actions)
    same = apexpert.build_network(
        folder.load_config().network, network.num_actions, observation_shape=network.observation_shape
    )
    same.load_state_dict(network.state_dict())


def test_a_policy_takes_the_networks_best_action(tmp_path: Path) -> None:
    """With epsilon 0, of one observation and of several, in an environment as its configuration has it."""
    from actors.config import EnvironmentConfig
    from actors.environments import environment_seeds, make_environment
    from actors.evaluation import EVALUATION_SLOT
    from actors.policy import FrameStacks

    folder = run_folder(tmp_path, num_experts=2)
    config = folder.load_config()
    policy = apexpert.load_policy("seen", runs_dir=str(tmp_path), epsilon=0.0)
    environment: EnvironmentConfig = policy.config.environment
    assert environment == config.environment
    env = make_environment(environment, 2, environment_seeds(1, EVALUATION_SLOT, 0, 2))
    stacks = FrameStacks(2, environment.stack, env.frame_shape)
    stacks.reset(env.reset())
    one = policy(stacks.observations[0])
    assert isinstance(one, int)
    actions = policy(stacks.observations)
    assert actions.shape == (2,)
    assert actions[0] == one
    assert (policy(stacks.observations) == actions).all(), "no epsilon, no noise"
    values = apexpert.load_network("seen", runs_dir=str(tmp_path))(torch.from_numpy(stacks.observations))
    assert (values.q_values.argmax(1).numpy() == actions).all()


def test_a_random_policy_is_what_epsilon_1_asks_for(tmp_path: Path) -> None:
    run_folder(tmp_path, num_experts=2)
    policy = apexpert.load_policy("seen", runs_dir=str(tmp_path), epsilon=1.0, seed=3)
    observations = np.zeros((200, *policy.observation_shape), np.uint8)
    assert len(np.unique(policy(observations))) == policy.num_actions


@pytest.mark.parametrize(
    "observation",
    [np.zeros((1, 84, 84), np.float32), np.zeros((84, 84), np.uint8), np.zeros((2, 84, 84, 1), np.uint8)],
)
def test_an_observation_of_another_kind_is_refused(tmp_path: Path, observation: np.ndarray) -> None:
    run_folder(tmp_path, num_experts=2)
    policy = apexpert.load_policy("seen", runs_dir=str(tmp_path))
    with pytest.raises(ValueError, match="not uint8"):
        policy(observation)


def test_an_exported_file_and_a_run_without_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path, num_experts=2)
    file = tmp_path / "small.safetensors"
    assert main(["export", "seen", "--runs-dir", str(tmp_path), "--output", str(file)]) == 0
    ours, theirs = apexpert.load_network(str(file)), apexpert.load_network(str(folder.path))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name])
    for path in folder.checkpoints.iterdir():
        (path / "document.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="has no checkpoint that is whole") as caught:
        apexpert.load_policy(str(folder.path))
    assert caught.value.path == folder.checkpoints

import numpy as np
import pytest
import torch

from actors.policy import FrameStacks, Policy
from models.arrays import Weights, flatten
from models.config import NetworkConfig
from models.q_network import build_network

PLAIN = NetworkConfig(encoder="nature", padding="valid", num_experts=2, expert_hidden_units=32, noisy=False)
NOISY = NetworkConfig(encoder="nature", padding="valid", num_experts=2, expert_hidden_units=32)
SHAPE = (4, 44, 44)


def policy(config=PLAIN, *, precision="float32", seed=0, num_actions=5) -> Policy:
    return Policy(config, observation_shape=SHAPE, num_actions=num_actions, precision=precision, seed=seed)


def observations(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def weights_of(network, version=3):
    return Weights(version=version, parameters=flatten(network), env_steps=0)


def test_without_epsilon_it_takes_the_best_action_of_the_loaded_network() -> None:
    network = build_network(PLAIN, 5, observation_shape=SHAPE, seed=7)
    acting = policy()
    acting.load(weights_of(network))
    with torch.no_grad():
        q_values = network(torch.from_numpy(observations(16))).q_values.numpy()
    actions = acting.act(observations(16), 0.0)
    assert np.array_equal(actions.action, q_values.argmax(axis=1))
    np.testing.assert_allclose(actions.q_max, q_values.max(axis=1), rtol=1e-4, atol=1e-6)
    assert np.array_equal(actions.q_max, actions.q_taken)
    assert acting.weights_version == 3
    assert actions.action.dtype == np.int64


def test_values_are_of_the_action_taken() -> None:
    acting = policy()
    batch = observations(32)
    greedy, random = acting.act(batch, 0.0), acting.act(batch, 1.0)
    np.testing.assert_allclose(random.q_max, greedy.q_max, rtol=1e-6)
    differs = random.action != greedy.action
    assert differs.sum() > 10
    assert (random.q_taken[differs] < random.q_max[differs]).all()
    assert np.array_equal(random.q_taken[~differs], random.q_max[~differs])


def test_epsilon_is_per_environment_and_random_actions_are_uniform() -> None:
    acting = policy()
    batch = observations(8)
    greedy = acting.act(batch, 0.0).action
    epsilon = np.array([0.0] * 4 + [1.0] * 4)
    taken = np.array([acting.act(batch, epsilon, values=False).action for _ in range(60)])
    assert (taken[:, :4] == greedy[:4]).all()
    counts = np.bincount(taken[:, 4:].ravel(), minlength=5)
    assert counts.min() > 28  # 48 expected each
    halves = np.array([acting.act(batch[:1], 0.5, values=False).action[0] for _ in range(200)])
    assert 0.48 < (halves == greedy[0]).mean() < 0.72  # 0.6 expected


def test_the_same_actions_with_and_without_values() -> None:
    batch = observations(16)
    with_values, without = policy(seed=4), policy(seed=4)
    for _ in range(10):
        one, other = with_values.act(batch, 0.4), without.act(batch, 0.4, values=False)
        assert np.array_equal(one.action, other.action)
        assert other.q_taken is None
        assert other.q_max is None


def test_every_environment_has_its_own_noise_and_a_new_one_each_step() -> None:
    acting = policy(NOISY)
    same = np.repeat(observations(1), 8, axis=0)
    first, second = acting.act(same, 0.0), acting.act(same, 0.0)
    assert len(set(first.q_max.tolist())) == 8
    assert not set(first.q_max.tolist()) & set(second.q_max.tolist())
    off = acting.act(same, 0.0, noise=False)
    assert np.ptp(off.q_max) < 1e-5
    again = acting.act(same, 0.0, noise=False)
    assert np.array_equal(off.q_max, again.q_max)


def test_the_seed_decides_noise_and_exploration() -> None:
    batch = observations(16)

    def stream(seed):
        acting = policy(NOISY, seed=seed)
        acting.load(weights_of(build_network(NOISY, 5, observation_shape=SHAPE, seed=1)))
        return np.concatenate([acting.act(batch, 0.5).q_taken for _ in range(3)])

    assert np.array_equal(stream(1), stream(1))
    assert not np.array_equal(stream(1), stream(2))


@pytest.mark.parametrize("config", [PLAIN, NOISY])
def test_bfloat16_gives_the_same_values_but_for_rounding(config) -> None:
    network = build_network(config, 5, observation_shape=SHAPE, seed=2)
    exact, rounded = policy(config), policy(config, precision="bfloat16")
    for acting in (exact, rounded):
        acting.load(weights_of(network))
    one = exact.act(observations(32), 0.0, noise=False)
    other = rounded.act(observations(32), 0.0, noise=False)
    np.testing.assert_allclose(other.q_max, one.q_max, atol=0.01)
    assert not np.array_equal(other.q_max, one.q_max)
    assert (one.action == other.action).mean() > 0.8


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="parameters"):
        policy().load(weights_of(build_network(PLAIN, 6, observation_shape=SHAPE, seed=0)))


def test_read_only_weights_are_taken() -> None:
    weights = weights_of(build_network(PLAIN, 5, observation_shape=SHAPE, seed=0))
    weights.parameters.flags.writeable = False
    reader, writer = policy(), policy()
    reader.load(weights)
    writer.load(weights_of(build_network(PLAIN, 5, observation_shape=SHAPE, seed=0)))
    observations = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
    assert reader.weights_version == weights.version
    np.testing.assert_array_equal(reader.act(observations, 0.0).q_max, writer.act(observations, 0.0).q_max)


def test_stacks_of_several_planes_have_the_oldest_frames_planes_first() -> None:
    stacks = FrameStacks(2, 2, (3, 4, 5))
    frames = np.arange(1, 1 + 3 * 2 * 3 * 4 * 5).reshape(3, 2, 3, 4, 5).astype(np.uint8)
    stacks.reset(frames[0])
    assert stacks.observations.shape == (2, 6, 4, 5)
    assert not stacks.observations[:, :3].any()
    stacks.push(frames[1], np.array([True, True]))
    stacks.push(frames[2], np.array([True, False]))
    assert np.array_equal(stacks.observations[0], np.concatenate([frames[1, 0], frames[2, 0]]))
    assert np.array_equal(stacks.observations[1, 3:], frames[2, 1])
    assert not stacks.observations[1, :3].any(), "another episode's"

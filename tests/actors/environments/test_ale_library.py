"""What ale-py itself does where we rely on it or step around it."""

import time

import numpy as np

from tests.helpers.actors.atari import library, random_actions


def test_unseeded_and_integer_seeded_library_envs_share_streams() -> None:
    """Why seeds are a hashed array: integer seeds overlap between actors, and unseeded is alike."""
    actions = random_actions(40, 1).repeat(4, axis=1)

    def streams(seed):
        env = library(num_envs=4, repeat_action_probability=0.25, noop_max=0)
        env.reset(seed=seed)
        frames = np.array([env.step(row)[0][:, -1] for row in actions])
        return [frames[:, i].tobytes() for i in range(4)]

    began = int(time.time())
    unseeded = streams(None)
    # Seeded by the second of the clock: on a busy machine each may be made in another one.
    assert len(set(unseeded)) <= 1 + int(time.time()) - began
    actor_0, actor_1 = streams(0), streams(1)
    assert actor_0[1:] == actor_1[:-1]
    assert len(set(actor_0)) == 4


def test_send_answers_the_last_recv() -> None:
    """Asynchronously, actions go to the environments of the last recv; so ours are one batch."""
    halves = library("pong", num_envs=4, batch_size=2, noop_max=0)
    whole = library("pong", num_envs=4, noop_max=0)
    up_for_the_last_two = np.array([0, 0, 2, 2])
    expected = [whole.reset(seed=np.arange(4))[0]]
    for _ in range(15):
        observations, _, _, _, info = whole.step(up_for_the_last_two)
        assert info["env_id"].tolist() == [0, 1, 2, 3]
        expected.append(observations)
    _, info = halves.reset(seed=np.arange(4))
    answers = dict.fromkeys(range(4), 0) | dict.fromkeys(info["env_id"].tolist(), 1)
    for _ in range(28):
        asked = info["env_id"]
        halves.send(up_for_the_last_two[asked])
        observations, _, _, _, info = halves.recv()
        assert not np.array_equal(asked, info["env_id"])  # the answer is about others
        for env, observation in zip(info["env_id"].tolist(), observations, strict=True):
            assert np.array_equal(observation, expected[answers[env]][env])
            answers[env] += 1
    assert not np.array_equal(expected[-1][0], expected[-1][2])


def test_a_partial_reset_leaves_a_finished_neighbour_to_its_own_reset() -> None:
    """What our time limit relies on in the library, at the one moment where both meet."""
    env = library(num_envs=2, noop_max=0)
    env.reset(seed=np.array([3, 4]))
    terminated = np.zeros(2, bool)
    for step in range(800):
        terminated = env.step(np.array([0, step % 4 == 0], np.int64))[2]
        if terminated.any():
            break
    assert terminated.tolist() == [False, True]
    _, info = env.reset(options={"reset_mask": np.array([True, False])})
    assert info["episode_frame_number"][0] < 10
    assert info["lives"].tolist() == [5, 0]
    _, _, terminated, _, info = env.step(np.zeros(2, np.int64))
    assert info["lives"].tolist() == [5, 5]
    assert not terminated.any()
    assert env.step(np.zeros(2, np.int64))[4]["episode_frame_number"][1] < 10

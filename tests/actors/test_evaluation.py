import numpy as np
import pytest

from actors.config import EnvironmentConfig
from actors.environments import environment_seeds, make_environment
from actors.evaluation import EVALUATION_SLOT, episode_quotas, evaluate
from actors.policy import Policy
from actors.rendering import ColourView, EpisodeRecording, Scene
from models.config import NetworkConfig
from tests.helpers.catch import Catch

CATCH = EnvironmentConfig(env="tests.helpers.catch:make")
BREAKOUT = EnvironmentConfig(game="breakout", frame_height=44, frame_width=44)
TINY = NetworkConfig(encoder="nature", padding="valid", head="dense", dense_hidden_units=16)


def policy(num_actions=3, shape=(4, 84, 84), seed=0) -> Policy:
    return Policy(TINY, observation_shape=shape, num_actions=num_actions, precision="float32", seed=seed)


@pytest.mark.parametrize(("episodes", "num_envs"), [(30, 8), (8, 8), (3, 2), (1, 1)])
def test_every_environment_plays_a_number_of_episodes_fixed_beforehand(episodes, num_envs) -> None:
    played = evaluate(policy(), CATCH, episodes=episodes, num_envs=num_envs, seed=0)
    slots = np.bincount([episode.env_slot for episode in played], minlength=num_envs)
    assert len(played) == episodes
    assert np.array_equal(slots, episode_quotas(episodes, num_envs))
    assert np.ptp(slots) <= 1
    assert {episode.return_ for episode in played} <= {-1.0, 1.0}


class ProtocolCheck:
    """A policy that looks at how it is asked."""

    def __init__(self) -> None:
        self.steps = 0

    def act(self, observations, epsilon, **options):
        self.steps += 1
        assert options["noise"] is False
        assert epsilon == 0.001
        return policy().act(observations, 1.0, **options)


def test_noise_is_off_and_epsilon_is_the_protocols() -> None:
    check = ProtocolCheck()
    evaluate(check, CATCH, episodes=2, seed=0)
    assert check.steps == 6


def test_short_games_do_not_count_more_often() -> None:
    """Environments whose games are shorter play as many as the others, not as many as they could."""
    staggered = EnvironmentConfig(env="tests.helpers.catch:make_staggered")
    played = evaluate(policy(), staggered, episodes=12, num_envs=3, seed=0)
    assert sorted((e.env_slot, e.length) for e in played) == [(0, 3)] * 4 + [(1, 4)] * 4 + [(2, 5)] * 4


@pytest.mark.parametrize("life_loss_terminates", [False, True])
def test_the_stack_begins_anew_after_a_lost_life_where_it_did_in_training(life_loss_terminates) -> None:
    player, beginnings = policy(4, (4, 44, 44)), []

    class Watched:
        def act(self, observations, epsilon, **options):
            beginnings.append(not observations[0, :-1].any())
            return player.act(observations, epsilon, **options)

    options = {"epsilon": 1.0, "life_loss_terminates": life_loss_terminates}
    evaluate(Watched(), BREAKOUT, episodes=1, seed=1, **options)
    assert sum(beginnings) == (5 if life_loss_terminates else 1), (
        "one for each of the five lives, or the game"
    )


def test_games_are_whole_and_long_ones_are_not_left_out() -> None:
    """Breakout's games differ in length; whoever is slow still plays its two, to the last life."""
    played = evaluate(policy(4, (4, 44, 44)), BREAKOUT, episodes=4, num_envs=2, seed=1, epsilon=0.5)
    assert [e.env_slot for e in sorted(played, key=lambda e: e.env_slot)] == [0, 0, 1, 1]
    assert len({e.length for e in played}) > 1
    assert min(e.length for e in played) > 100


def test_the_same_seed_gives_the_same_games() -> None:
    results = [evaluate(policy(seed=3), CATCH, episodes=10, seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_episodes_are_reported_as_they_end_and_stopping_keeps_them() -> None:
    told = []
    played = evaluate(
        policy(),
        CATCH,
        episodes=50,
        num_envs=4,
        seed=0,
        progress=told.append,
        should_stop=lambda: len(told) >= 10,
    )
    assert played == told
    assert 10 <= len(played) < 14


def test_the_environments_are_closed_also_when_the_policy_fails(monkeypatch) -> None:
    class Failing:
        def act(self, *_, **__):
            raise ZeroDivisionError

    closed = []
    monkeypatch.setattr(Catch, "close", lambda env: closed.append(env.num_envs))
    with pytest.raises(ZeroDivisionError):
        evaluate(Failing(), CATCH, episodes=3, num_envs=2, seed=0)
    assert closed == [2]


def test_frames_of_the_first_episode_are_recorded() -> None:
    scenes: list[Scene] = []
    played = evaluate(policy(), CATCH, episodes=6, num_envs=2, seed=0, recorder=scenes.append)
    frames = [scene.picture for scene in scenes]
    assert [scene.env_step for scene in scenes] == list(range(7))
    first = next(episode for episode in played if episode.env_slot == 0)
    assert (scenes[0].return_, scenes[-1].return_) == (0.0, first.return_)
    assert {frame.shape for frame in frames} == {(84, 84)}
    assert not np.array_equal(frames[0], frames[-1])


def test_atari_is_recorded_in_colour_for_one_whole_game() -> None:
    scenes: list[Scene] = []
    played = evaluate(
        policy(4, (4, 44, 44)), BREAKOUT, episodes=2, num_envs=1, seed=2, epsilon=0.5, recorder=scenes.append
    )
    assert len(scenes) == played[0].length + 1
    assert (scenes[-1].env_step, scenes[-1].return_) == (played[0].length, played[0].return_)
    assert {scene.picture.shape for scene in scenes} == {(210, 160, 3)}
    assert scenes[-1].picture.dtype == np.uint8


@pytest.mark.parametrize("noop_max", [0, 29])
def test_the_coloured_game_is_the_game_that_is_played(noop_max: int) -> None:
    """Its grey picture equals the frames of the environment, sticky actions, no-ops at its start and all."""
    size = {"frame_height": 210, "frame_width": 160}
    config = EnvironmentConfig(game="ms_pacman", noop_max=noop_max, **size)
    seeds = environment_seeds(5, EVALUATION_SLOT, 0, 2)
    env = make_environment(config, 2, seeds)
    scenes: list[Scene] = []
    recording = EpisodeRecording(scenes.append, config, int(seeds[0]))
    view, frames = recording._view, env.reset()
    assert isinstance(view, ColourView)
    recording.begin(frames)
    assert bool(env._noops[0]) == bool(noop_max)
    assert np.array_equal(view._ale.getScreenGrayscale(), frames[0])
    rng = np.random.default_rng(0)
    score = 0.0
    for _ in range(200):
        actions = rng.integers(0, 9, 2)
        result = env.step(actions)
        recording.step(int(actions[0]), result)
        picture = scenes[-1].picture
        score += result.rewards[0]
        newest = view._ale.getScreenGrayscale()
        assert (result.frames[0] >= newest).all()  # the brighter of the last two screens
        assert (picture >= view._ale.getScreenRGB()).all()
        assert result.terminated[0] == view._ale.game_over()
        assert view._ale.lives() == env._lives[0]
    assert score > 0
    assert (result.frames[0] == newest).mean() > 0.95

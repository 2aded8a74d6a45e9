"""MinAtar's games: the package's own games step by step, and what stands around them."""

import importlib.util
import sys

import numpy as np
import pytest

from actors.config import EnvironmentConfig
from actors.environments import EnvironmentSetupError, describe_environment, make_environment
from actors.evaluation import evaluate
from actors.games import minatar
from actors.policy import Policy
from actors.rendering import picture_of
from models.config import NetworkConfig

CHANNELS = {"asterix": 4, "breakout": 4, "freeway": 7, "seaquest": 10, "space_invaders": 6}
MINIMAL = {"asterix": 5, "breakout": 3, "freeway": 3, "seaquest": 6, "space_invaders": 4}
needs_minatar = pytest.mark.skipif(
    importlib.util.find_spec("minatar") is None, reason="MinAtar is missing: pip install minatar"
)


def config(game: str = "breakout", **changes) -> EnvironmentConfig:
    values = {"repeat_action_probability": 0.1, "full_action_space": True, "stack": 1}
    return EnvironmentConfig(env=f"minatar:{game}", **(values | changes))


@needs_minatar
@pytest.mark.parametrize("game", minatar.GAMES)
def test_equal_seeds_and_actions_are_the_packages_own_game(game) -> None:
    import minatar as package

    theirs = [package.Environment(game, sticky_action_prob=0.1) for _ in range(2)]
    ours = make_environment(config(game), 2, np.array([5, 6]))
    for seed, environment in zip((5, 6), theirs, strict=True):
        environment.seed(seed)
        environment.reset()
    frames = ours.reset()
    random = np.random.default_rng(0)
    ended, ends = [False, False], 0
    for _ in range(400):
        actions = random.integers(6, size=2)
        result = ours.step(actions)
        for env, environment in enumerate(theirs):
            if ended[env]:
                environment.reset()
                reward, ended[env] = 0, False
                assert not result.valid[env]
            else:
                reward, ended[env] = environment.act(int(actions[env]))
                assert result.valid[env]
                ends += ended[env]
            assert (result.rewards[env], result.terminated[env]) == (reward, ended[env])
            np.testing.assert_array_equal(result.frames[env], 255 * environment.state().transpose(2, 0, 1))
    assert frames.shape == (2, CHANNELS[game], 10, 10)
    assert ends > 0 or game == "freeway", "Freeway goes on for 2,500 steps"
    assert not result.truncated.any()
    assert not result.life_lost.any()


@needs_minatar
@pytest.mark.parametrize("game", minatar.GAMES)
def test_the_minimal_actions_are_the_games_own(game) -> None:
    spec = describe_environment(config(game, full_action_space=False))
    assert spec == ((CHANNELS[game], 10, 10), MINIMAL[game])
    assert spec.observation_shape(2) == (2 * CHANNELS[game], 10, 10)
    assert describe_environment(config(game)).num_actions == 6


@needs_minatar
def test_minimal_actions_do_what_they_are_named_for() -> None:
    """Breakout: no-op, left and right; the paddle is plane 0 of the bottom row."""
    environment = make_environment(
        config(full_action_space=False, repeat_action_probability=0.0), 3, np.array([1, 1, 1])
    )
    before = environment.reset()[:, 0, 9].argmax(axis=1)
    after = environment.step(np.array([0, 1, 2])).frames[:, 0, 9].argmax(axis=1)
    assert (after - before).tolist() == [0, -1, 1]


@needs_minatar
def test_the_time_limit_truncates_and_bootstraps_from_the_last_frame() -> None:
    environment = make_environment(config("freeway", max_frames_per_episode=3), 1, np.array([1]))
    environment.reset()
    results = [environment.step(np.array([0])) for _ in range(5)]
    assert [bool(result.truncated[0]) for result in results] == [False, False, True, False, False]
    assert [bool(result.valid[0]) for result in results] == [True, True, True, False, True]
    assert not any(result.terminated.any() for result in results)


@needs_minatar
def test_the_package_is_not_loaded_as_a_whole() -> None:
    """It loads matplotlib, seaborn and pandas: 136 MB in every actor (decision 0035)."""
    import subprocess

    code = (
        "import sys, numpy; from actors.environments import *; from actors.config import EnvironmentConfig;"
        "describe_environment(EnvironmentConfig(env='minatar:breakout'));"
        "print({'minatar', 'pandas', 'seaborn', 'matplotlib'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


def test_an_unknown_game_is_one_line_with_what_was_meant() -> None:
    with pytest.raises(EnvironmentSetupError, match=r"did you mean minatar:breakout\?"):
        describe_environment(config("Breakout"))
    with pytest.raises(EnvironmentSetupError, match="there are asterix, breakout"):
        describe_environment(config("pong"))


def test_without_the_package_one_line_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    minatar._rules_of.cache_clear()
    with pytest.raises(EnvironmentSetupError, match="pip install minatar") as caught:
        describe_environment(config())
    assert "--environment.env 'minatar:breakout'" in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_minatar
def test_evaluation_plays_full_games_and_records_them_in_colour() -> None:
    network = NetworkConfig(
        encoder="minatar", padding="valid", head="dense", dense_hidden_units=8, values="scalar", noisy=False
    )
    policy = Policy(network, observation_shape=(8, 10, 10), num_actions=6, precision="float32")
    pictures: list[np.ndarray] = []
    played = evaluate(
        *(policy, config(stack=2)),
        episodes=3,
        num_envs=2,
        seed=1,
        recorder=lambda scene: pictures.append(scene.picture),
    )
    assert len(played) == 3
    first = next(episode for episode in played if episode.env_slot == 0)
    assert len(pictures) == first.length + 1
    assert all(picture.shape == (10, 10, 3) and picture.dtype == np.uint8 for picture in pictures)


def test_a_picture_has_a_colour_for_each_plane_and_later_ones_on_top() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert picture_of(grey) is grey
    frame = np.zeros((3, 1, 4), np.uint8)
    frame[0, 0, 0] = frame[1, 0, 1] = frame[0, 0, 2] = frame[1, 0, 2] = 255
    picture = picture_of(frame)
    assert picture.shape == (1, 4, 3)
    assert not picture[0, 3].any(), "nothing is there"
    assert picture[0, 0].tolist() != picture[0, 1].tolist() == picture[0, 2].tolist()
    half = picture_of(frame // 2)
    np.testing.assert_allclose(half[0, 0], picture[0, 0] * (127 / 255), atol=1)

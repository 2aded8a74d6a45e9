import numpy as np
import pytest

from actors.config import EnvironmentConfig
from actors.environments import EnvironmentSetupError, list_games, make_environment, normalise_game


@pytest.mark.parametrize(
    "name", ["ms_pacman", "MsPacman", "ms-pacman", "Ms Pacman", "ALE/MsPacman-v5", "MsPacmanNoFrameskip-v4"]
)
def test_a_game_may_be_written_in_many_ways(name) -> None:
    assert normalise_game(name) == "ms_pacman"


def test_every_game_normalises_to_itself() -> None:
    games = list_games()
    assert len(games) > 100
    assert [normalise_game(game) for game in games] == list(games)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pongg", "did you mean pong"),
        ("xyzzy", "not an Atari game"),
        ("Combat", "is a game of several players alone"),  # The emulator would end the process.
    ],
)
def test_an_unknown_game_is_one_line_that_names_the_flag(name, hint) -> None:
    with pytest.raises(EnvironmentSetupError, match=hint) as caught:
        make_environment(EnvironmentConfig(game=name), 1, np.zeros(1, np.int64))
    assert "--environment.game" in str(caught.value)
    assert "\n" not in str(caught.value)

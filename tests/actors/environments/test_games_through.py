"""A sample of the games through the real path; `make soak` plays all of them."""

import pytest

from actors.environments import list_games
from tests.helpers.actors.games import SAMPLE, STEPS, play_through


@pytest.mark.parametrize("game", SAMPLE)
def test_a_game_starts_and_its_steps_arrive(game: str) -> None:
    assert STEPS < play_through(game) <= 2 * STEPS


def test_the_sample_is_of_the_games_that_soak_plays() -> None:
    assert set(SAMPLE) <= set(list_games())

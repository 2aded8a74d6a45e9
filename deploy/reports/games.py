"""Plays full games with a trained network under its run's own protocol."""

from typing import Any

from actors.episodes import Episode
from actors.evaluation import Player, evaluate
from deploy.run.config import Config


def play_games(config: Config, player: Player, *, episodes: int, seed: int, **options: Any) -> list[Episode]:
    """Call `actors.evaluation.evaluate` with the run's environment, epsilon and rule for lost lives."""
    return evaluate(
        player,
        config.environment,
        episodes=episodes,
        seed=seed,
        epsilon=config.evaluation.epsilon,
        life_loss_terminates=config.replay.life_loss_terminates,
        **options,
    )

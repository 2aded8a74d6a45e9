"""Evaluates a checkpoint: full games, scored raw and human-normalised, with an optional video."""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.episodes import Episode
from deploy.networks.policy import policy_of
from deploy.reports.ablation import ablate
from deploy.reports.games import play_games
from deploy.reports.statistics import ScoreSummary, summarise
from deploy.reports.video import VideoWriter
from deploy.run.config import Config
from learner.checkpoint import Checkpoint

ATARI_FRAMES_PER_SECOND = 60
OTHER_STEPS_PER_SECOND = 15.0
"""What people can follow, in an environment that has no speed of its own."""


@dataclass(frozen=True)
class EvaluationReport:
    """The results of an evaluation."""

    game: str
    checkpoint: str
    update: int
    env_steps: int
    epsilon: float
    seed: int
    episodes: list[Episode]
    scores: ScoreSummary
    without: str = ""
    """The part removed from the network, see deploy.reports.ablation; empty if it was whole."""
    video_failure: str = ""
    """Why the requested video does not exist; empty otherwise."""

    def to_json(self) -> dict[str, Any]:
        """Return a flat, JSON-able dict.

        Intervals are 95 % bootstrap intervals, None where too many games ended alike; returns are
        undiscounted sums of raw rewards.
        """
        mean, median = self.scores.mean, self.scores.median
        of_human = {
            "human_normalised": self.scores.human_normalised_mean,
            "human_normalised_median": self.scores.human_normalised_median,
        }
        normalised: dict[str, Any] = {}
        for name, interval in of_human.items():
            normalised[name] = None if interval is None else interval.value
            normalised[f"{name}_interval"] = None if interval is None else interval.bounds
        return {
            "game": self.game,
            "checkpoint": self.checkpoint,
            "update": self.update,
            "env_steps": self.env_steps,
            "episodes": self.scores.episodes,
            "epsilon": self.epsilon,
            "seed": self.seed,
            **({"without": self.without} if self.without else {}),
            "return_mean": mean.value,
            "return_mean_interval": mean.bounds,
            "return_median": median.value,
            "return_median_interval": median.bounds,
            **normalised,
            "returns": [episode.return_ for episode in self.episodes],
            "lengths": [episode.length for episode in self.episodes],
        }


def frames_per_second(config: Config) -> float:
    """Return a video's frames per second, one frame per env step: an Atari game has its own speed."""
    environment = config.environment
    return OTHER_STEPS_PER_SECOND if environment.env else ATARI_FRAMES_PER_SECOND / environment.frame_skip


def evaluate_checkpoint(
    config: Config,
    checkpoint: Checkpoint,
    *,
    episodes: int,
    seed: int,
    without: str = "",
    video: Path | None = None,
    progress: Callable[[Episode], object] = lambda episode: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> EvaluationReport:
    """Play `episodes` full games with the online network of `checkpoint`, noise off, sticky as trained.

    `without`: a part to remove from the network first, see `deploy.reports.ablation`; WithoutPart if the
    network lacks it. A video that cannot be written does not end the games: see
    `EvaluationReport.video_failure`. When told to stop, reports on the games that have ended; ValueError if
    none has. Raises EnvironmentSetupError like `make_environment`.
    """
    policy = policy_of(config, checkpoint)
    if without:
        # Use other games than those that are scored.
        ablate(policy, without, config, seed + 1, should_stop)
    played_by = f"{config.run.name}, update {checkpoint.update:,}" + (
        f", without {without}" if without else ""
    )
    # One picture is recorded per env step; the video shows the game at its own speed.
    fps = frames_per_second(config)
    with VideoWriter(video, fps=fps) if video else contextlib.nullcontext() as writer:
        played = play_games(
            config,
            policy,
            episodes=episodes,
            seed=seed,
            recorder=functools.partial(writer.add_scene, checkpoint=played_by) if writer else None,
            progress=progress,
            should_stop=should_stop,
        )
    # Outside the `with` block: closing the video may fail as well, and sets `failure`.
    return EvaluationReport(
        game=config.game_name,
        checkpoint=checkpoint.path.name,
        update=checkpoint.update,
        env_steps=int(checkpoint.document["env_steps"]),
        epsilon=config.evaluation.epsilon,
        seed=seed,
        without=without,
        episodes=played,
        scores=summarise([episode.return_ for episode in played], config.game_name),
        video_failure=writer.failure if writer else "",
    )

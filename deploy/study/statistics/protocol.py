"""How a score came about: scores of different protocols are never put into one table or picture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from actors.games.minatar import is_minatar
from deploy.monitor.bands import GREEDY
from deploy.run.config import Config
from deploy.study.errors import ProtocolError
from deploy.study.statistics.aggregates import Scores

Checkpoint = Literal["final", "best"]
Games = Literal["training", "evaluation"]


@dataclass(frozen=True)
class Protocol:
    """The key of a score: all that changes it besides arm, game, seed and length of the run.

    Machado et al. 2018 (arXiv 1709.06009) on what each of them does to scores on Atari. None where the
    environment decides.
    """

    sticky_actions: float | None
    """Probability that the last action is repeated."""
    frame_skip: int | None
    cap: int | None
    """Most emulator frames of an episode."""
    noop_max: int | None
    full_action_space: bool | None
    """All 18 actions instead of the game's own."""
    life_loss_terminates: bool
    """Whether a lost life counts as an end for the learner; a score is always that of the whole game."""
    epsilon: tuple[float, float]
    """Lowest and highest epsilon of the games that were scored."""
    checkpoint: Checkpoint
    """The network at the end of the run, or the one that scored best, which is biased upwards."""
    games: Games
    """Games played for the score alone, or those that the run learned from."""

    def __str__(self) -> str:
        """All fields in one line, for the head of a table."""
        return ", ".join(f"{name} {text}" for name, text in self._texts().items())

    def differences(self, other: "Protocol") -> dict[str, tuple[str, str]]:
        """Return each field that differs, in words, with the values of both."""
        own, others = self._texts(), other._texts()
        return {name: (own[name], others[name]) for name in own if own[name] != others[name]}

    def _texts(self) -> dict[str, str]:
        return {part.name.replace("_", " "): _text(getattr(self, part.name)) for part in fields(self)}


def _text(value: object) -> str:
    if value is None:
        return "the environment's own"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        low, high = value
        return _text(low) if low == high else f"{low} to {high}"
    return str(value)


def protocol_of(
    config: Config, *, games: Games, checkpoint: Checkpoint, epsilon: float | None = None
) -> Protocol:
    """Return the protocol of a score of a run with this configuration.

    `epsilon`: that of an evaluation, where it is not the configuration's. Scores of training are of nearly
    greedy episodes (decision 0023).
    """
    environment = config.environment
    atari = not environment.env
    ours = atari or is_minatar(environment.env)
    if games == "training":
        epsilons = _training_epsilons(config)
    else:
        played = config.evaluation.epsilon if epsilon is None else epsilon
        epsilons = (played, played)
    return Protocol(
        sticky_actions=environment.repeat_action_probability if ours else None,
        frame_skip=environment.frame_skip if atari else None,
        cap=environment.max_frames_per_episode if ours else None,
        noop_max=environment.noop_max if atari else None,
        full_action_space=environment.full_action_space if ours else None,
        life_loss_terminates=config.replay.life_loss_terminates,
        epsilon=epsilons,
        checkpoint=checkpoint,
        games=games,
    )


def _training_epsilons(config: Config) -> tuple[float, float]:
    """Lowest and highest epsilon of nearly greedy episodes; of all where a ladder has none of these."""
    exploration = config.exploration
    if exploration.kind == "linear":
        return exploration.epsilon_end, exploration.epsilon_end
    lowest = exploration.ladder_base ** (1 + exploration.ladder_exponent)
    greedy = lowest <= GREEDY.highest_epsilon
    return lowest, min(exploration.ladder_base, GREEDY.highest_epsilon) if greedy else exploration.ladder_base


@dataclass(frozen=True)
class Row:
    """One run's score."""

    arm: str
    game: str
    seed: int
    score: float
    """Human-normalised, see deploy.reports.statistics."""
    protocol: Protocol
    run: str
    """Name of the run, for messages."""


def by_protocol(rows: Iterable[Row]) -> dict[Protocol, list[Row]]:
    """Return the rows of each protocol, in the order in which protocols first occur."""
    groups: dict[Protocol, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.protocol, []).append(row)
    return groups


def one_protocol(rows: Iterable[Row]) -> Protocol:
    """Return the protocol of all rows; raise ProtocolError, naming what differs and two runs, if they mix."""
    groups = by_protocol(rows)
    if not groups:
        raise ProtocolError("there are no rows to compare")
    (protocol, (first, *_)), *others = groups.items()
    if others:
        other, (second, *_) = others[0]
        found = "; ".join(
            f"{name} is {here} in {first.run} and {there} in {second.run}"
            for name, (here, there) in protocol.differences(other).items()
        )
        raise ProtocolError(f"scores of {len(groups)} protocols are not compared: {found}")
    return protocol


def score_matrices(rows: Sequence[Row]) -> tuple[tuple[str, ...], dict[str, Scores]]:
    """Return the games, sorted, and each arm's (seeds, games) scores, NaN where a run is missing.

    Arms keep the order of the rows. Raises ProtocolError where protocols mix and where two rows are of the
    same arm, game and seed.
    """
    one_protocol(rows)
    games = tuple(sorted({row.game for row in rows}))
    arms: dict[str, dict[tuple[int, str], Row]] = {}
    for row in rows:
        found = arms.setdefault(row.arm, {})
        other = found.setdefault((row.seed, row.game), row)
        if other is not row:
            raise ProtocolError(
                f"{other.run} and {row.run} are both arm {row.arm}, game {row.game}, seed {row.seed}"
            )
    return games, {arm: _matrix(found, games) for arm, found in arms.items()}


def _matrix(found: dict[tuple[int, str], Row], games: Sequence[str]) -> Scores:
    seeds = sorted({seed for seed, _ in found})
    matrix = np.full((len(seeds), len(games)), np.nan)
    for (seed, game), row in found.items():
        matrix[seeds.index(seed), games.index(game)] = row.score
    return matrix

"""`apexpert games`: the Atari games that can be trained on, and what is known about each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.cli.parsing import parse


@dataclass(frozen=True)
class GamesArguments:
    """List the Atari games: actions, random and human score, and published agents of each.

    The scores are those that human-normalised scores are computed with; the agents are those whose
    published seeds `apexpert bands` and `apexpert plot` set a run beside.
    """

    json: bool = False
    """Print the list as JSON."""


def games(argv: Sequence[str]) -> int:
    """Print the games; return the exit code."""
    arguments = parse(GamesArguments, argv, command="games")
    rows = rows_of_games()
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        _print(rows)
    return 0


def rows_of_games() -> list[dict[str, object]]:
    """Return a row for each game: name, number of actions, scores (None if unknown), published agents."""
    from actors.config import EnvironmentConfig
    from actors.environments import describe_environment, list_games
    from deploy.reports.seeds.published import published_agents
    from deploy.reports.statistics import human_scores, score_key

    scores = human_scores()
    rows = []
    for game in list_games():
        known = scores.get(score_key(game), {})
        rows.append(
            {
                "game": game,
                "actions": describe_environment(EnvironmentConfig(game=game)).num_actions,
                "random": known.get("random"),
                "human": known.get("human"),
                "published": published_agents(game),
            }
        )
    return rows


def _print(rows: Sequence[dict[str, object]]) -> None:
    from rich.table import Table

    from deploy.monitor.terminal import print_whole

    table = Table("game", box=None, pad_edge=False)
    for name in ("actions", "random", "human"):
        table.add_column(name, justify="right")
    table.add_column("published agents")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    print_whole(table)
    from actors.games.minatar import GAMES, PREFIX

    print(f"MinAtar's, each with --env: {', '.join(PREFIX + game for game in GAMES)}")


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return f"{value:,}" if isinstance(value, int | float) else str(value or "-")

"""How often 95 % intervals of a study miss the true value: `python benchmarks/interval_coverage.py`, JSON.

Simulated studies: in each game, runs are normal with the mean and the standard deviation of the five
published seeds of Dopamine's Rainbow (and, for the probability of improvement, its DQN) after 200M frames,
human-normalised. The true value is that of 100,000 such runs a game. Counted is how often the interval lies
wholly above it and wholly below it: 2.5 % each, were the intervals exact.
"""

import json
import sys
from functools import partial
from importlib.metadata import version

import numpy as np
from scipy.stats import norm

from deploy.reports.seeds.published import FLOOR, published_curve
from deploy.reports.statistics import human_normalised, human_scores
from deploy.study.statistics import aggregates
from deploy.study.statistics.aggregates import Scores, checked, estimate_of, resamples

SEEDS, GAMES = (3, 5, 10), (4, 20)
STUDIES, REPETITIONS, MANY = 1_000, 1_000, 100_000
ONE_ARM = {
    "interquartile mean": aggregates.interquartile_mean_of,
    "median": aggregates.median_of,
    "mean": aggregates.mean_of,
    "optimality gap": partial(aggregates.optimality_gap_of, gamma=1.0),
}
PROBABILITY = "probability of improvement"


def published(games: list[str], agent: str) -> tuple[Scores, Scores]:
    """Means and standard deviations (G,) of the published seeds."""
    rows = [published_curve(game, agent).values[-1] for game in games]
    scores = np.array(
        [[human_normalised(value, game) for value in row] for game, row in zip(games, rows, strict=True)]
    )
    # Published scores are rounded, so that no spread is exactly none.
    least = [human_normalised(FLOOR, game) - human_normalised(0.0, game) for game in games]
    return scores.mean(axis=1), np.maximum(scores.std(axis=1, ddof=1), least)


def missed(num_games: int, num_seeds: int) -> dict[str, dict[str, float]]:
    """Shares of the studies whose interval is above, and below, the true value."""
    names = sorted(human_scores())
    games = [names[place] for place in np.linspace(0, len(names) - 1, num_games).astype(int)]
    (mean, spread), (base, base_spread) = published(games, "rainbow"), published(games, "dqn")
    random = np.random.default_rng([num_games, num_seeds])
    many = random.normal(mean, spread, (MANY, num_games))
    truths = {name: float(statistic(many)) for name, statistic in ONE_ARM.items()}
    truths[PROBABILITY] = float(norm.cdf((mean - base) / np.hypot(spread, base_spread)).mean())
    ends: dict[str, list[tuple[float, float]]] = {name: [] for name in truths}
    for study in range(STUDIES):
        first = checked(random.normal(mean, spread, (num_seeds, num_games)))
        second = checked(random.normal(base, base_spread, (num_seeds, num_games)))
        samples = resamples([first, second], REPETITIONS, study)
        found = {name: estimate_of(s, [first], samples[:1]) for name, s in ONE_ARM.items()}
        found[PROBABILITY] = estimate_of(aggregates.probability_of, [first, second], samples)
        for name, estimate in found.items():
            # Where all resamples agree the interval is a point.
            low, high = estimate.bounds or (estimate.value, estimate.value)
            ends[name].append((low, high))
    return {name: _shares(np.array(rows), truths[name]) for name, rows in ends.items()}


def _shares(ends: Scores, truth: float) -> dict[str, float]:
    above, below = float((ends[:, 0] > truth).mean()), float((ends[:, 1] < truth).mean())
    return {"above": above, "below": below, "truth": truth, "width": float(np.ptp(ends, axis=1).mean())}


def main() -> None:
    """Print all of it."""
    found = []
    for num_games in GAMES:
        for num_seeds in SEEDS:
            found.append({"games": num_games, "seeds": num_seeds, "missed": missed(num_games, num_seeds)})
            print(json.dumps(found[-1]), file=sys.stderr)
    made = {
        "studies": STUDIES,
        "repetitions": REPETITIONS,
        "numpy": np.__version__,
        "scipy": version("scipy"),
    }
    print(json.dumps({**made, "results": found}, indent=1))


if __name__ == "__main__":
    main()

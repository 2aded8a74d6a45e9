"""Runs rliable, unchanged, on two small arms and prints what tests/golden/rliable.json holds.

In a virtual environment of its own (README.md has the versions):

    pip install "rliable==1.2.0" "pandas<3"
    python tests/golden/print_rliable_cases.py > tests/golden/rliable.json
"""

import json
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from rliable import library, metrics

SEED, REPETITIONS = 108_13264, 500
TAUS = [0.0, 0.25, 0.5, 1.0, 1.5, 3.0]
AGGREGATES = {
    "mean": metrics.aggregate_mean,
    "median": metrics.aggregate_median,
    "interquartile_mean": metrics.aggregate_iqm,
    "optimality_gap": metrics.aggregate_optimality_gap,
    "optimality_gap_2": lambda scores: metrics.aggregate_optimality_gap(scores, 2.0),
}


def arms() -> dict[str, np.ndarray]:
    """Scores of five and of three seeds on seven games, each game's sorted, some of them equal."""
    random = np.random.default_rng(2021)
    scales = np.array([0.05, 0.3, 0.6, 0.9, 1.4, 2.5, 8.0])
    first = scales * random.lognormal(0.1, 0.4, (5, 7))
    second = scales * random.lognormal(0.0, 0.4, (3, 7))
    # Games that stay at the random score, or where two arms have some scores in common.
    first[:, 0], second[:2, 0] = [0, 0, 0, 0.02, 0.05], 0.0
    second[0, 3] = first[2, 3]
    return {"first": np.sort(first, axis=0), "second": np.sort(second, axis=0)}


def found(scores: Any, function: Any) -> dict[str, Any]:
    """Point estimate and interval of a function of the scores, with NumPy's global generator seeded.

    rliable draws from it, whatever `random_state` is.
    """
    np.random.seed(SEED)  # noqa: NPY002
    values, intervals = library.get_interval_estimates({"": scores}, function, reps=REPETITIONS)
    return {"value": values[""].tolist(), "interval": intervals[""].tolist()}


def main() -> None:
    """Print all cases."""
    scores = arms()
    cases: dict[str, Any] = {
        name: {arm: found(values, lambda x, f=function: np.array([f(x)])) for arm, values in scores.items()}
        for name, function in AGGREGATES.items()
    }
    cases["performance_profile"] = {
        arm: found(values, lambda x: library.score_distributions(x, TAUS)) for arm, values in scores.items()
    }
    both = [scores["first"], scores["second"]]
    cases["probability_of_improvement"] = found(
        both, lambda x, y: np.array([metrics.probability_of_improvement(x, y)])
    )
    packages = {name: version(name) for name in ("rliable", "arch", "pandas", "numpy", "scipy")}
    made = {"python": sys.version.split()[0], **packages, "seed": SEED, "repetitions": REPETITIONS}
    arrays = {arm: values.tolist() for arm, values in scores.items()}
    print(json.dumps({"made": made, "taus": TAUS, "scores": arrays, "cases": cases}, indent=1))


if __name__ == "__main__":
    main()

"""How many of a study's runs fit at once on this machine or cluster, and how fast they can be."""

import os
from collections.abc import Sequence

from deploy.run.config import Config
from deploy.run.metadata import gpus
from deploy.study.plan import PlannedRun

SECONDS = 2.0
"""Length of each of the three measurements of `env_steps_per_s`."""


def at_once(runs: Sequence[PlannedRun], ray_address: str) -> int:
    """Return how many runs fit: each has a core for each actor and one for its learner, and a GPU if any is.

    A run that chooses its actors by itself counts with the fewest that it may have. On a cluster actors are
    anywhere and learners on this machine. Raises WrongFlag when it does not answer.
    """
    largest = max(runs, key=lambda run: run.config.actors.range.least).config
    actors, own = largest.actors.range.least, len(os.sched_getaffinity(0))
    if ray_address:
        from deploy.fleet.ray.nodes import cores_of

        room = min(int(cores_of(ray_address)) // actors, own)
    else:
        room = own // (actors + 1)
    if largest.learner.device != "cpu" and (found := len(gpus())):
        room = min(room, found)
    return max(room, 1)


def env_steps_per_s(config: Config) -> float:
    """Return the env steps per second that this machine's parts allow a run that learns: an upper limit."""
    from deploy.bench import limits

    return limits.measure(config, seconds=SECONDS)["limit"]

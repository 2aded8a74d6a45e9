"""Combines the actors' reported metrics into the fleet's: one rule per metric, in one table."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Rule(Enum):
    """How a metric of several actors is combined."""

    TOTAL = "the sum over every incarnation that ever was, dead ones included: it never goes down"
    SUM = "the sum over the actors at work"
    MEAN = "the mean over the actors at work that report it"
    MIN = "the smallest of theirs"
    MAX = "the largest of theirs"


RULES: Mapping[str, Rule] = {
    "speed/actor_steps_per_s": Rule.SUM,
    "actors/waiting_share": Rule.MEAN,
    "actors/weights_version": Rule.MIN,  # The oldest in use; -1 while an actor has none.
    "actors/weights_update": Rule.MIN,  # The learner's updates behind those weights.
    "actors/weights_age_updates": Rule.MEAN,  # When they acted, not now: an actor may wait.
    "actors/epsilon": Rule.MEAN,
    "actors/epsilon_min": Rule.MIN,  # Of a ladder.
    "actors/epsilon_max": Rule.MAX,
    "actors/env_steps": Rule.TOTAL,
    "actors/refused_rewards": Rule.TOTAL,
    "actors/restarts": Rule.TOTAL,  # Counted by `ActorFleet`.
    "writer/segments": Rule.TOTAL,
    "writer/items": Rule.TOTAL,
    "writer/bytes": Rule.TOTAL,
    "writer/waited_s": Rule.TOTAL,
    "writer/retries": Rule.TOTAL,
    "writer/connection_retries": Rule.TOTAL,
}
"""Every metric that an actor or the fleet reports. A metric missing here would not leave its actor."""

TOTALS = tuple(name for name, rule in RULES.items() if rule is Rule.TOTAL)
COMBINE: Mapping[Rule, Callable[[Sequence[float]], float]] = {
    Rule.SUM: sum,
    Rule.MEAN: statistics.fmean,
    Rule.MIN: min,
    Rule.MAX: max,
}


@dataclass(frozen=True)
class FleetReport:
    """Actors' reports at one moment; the default is a fleet that has not begun."""

    target: int = 0
    alive: int = 0
    pending: int = 0
    """Those that have not answered yet: most of them wait for a core."""
    at_work: Sequence[Mapping[str, float]] = ()
    """The metrics of each actor at work."""
    totals: Mapping[str, float] = field(default_factory=dict)
    """Counters over all incarnations that this supervisor has started."""


def totals(reports: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the counters among these reports, each summed."""
    added: dict[str, float] = {}
    for report in reports:
        for name in TOTALS:
            if name in report:
                added[name] = added.get(name, 0.0) + report[name]
    return added


def fleet_metrics(fleet: FleetReport, before: Mapping[str, float]) -> dict[str, float]:
    """Return the run's metrics of `fleet`; `before` holds those of the supervisors before this one."""
    counted = totals([dict.fromkeys(TOTALS, 0.0), before, fleet.totals])
    sizes = {"alive": fleet.alive, "target": fleet.target, "pending": fleet.pending}
    size = {f"actors/{name}": float(number) for name, number in sizes.items()}
    return _combined(fleet.at_work) | counted | size


def _combined(at_work: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Combine the metrics of the actors at work; a metric that none of them reports is left out."""
    combined = {}
    for name, rule in RULES.items():
        values = [metrics[name] for metrics in at_work if name in metrics]
        if rule is Rule.SUM or (rule in COMBINE and values):
            combined[name] = float(COMBINE[rule](values))
    return combined


class Growing:
    """A counter that each of a sequence of processes starts at 0: adds what the earlier ones counted."""

    def __init__(self, before: float) -> None:
        self._before, self._last = before, 0.0

    def add(self, value: float) -> float:
        """Return the count over all of them, given that the current one reports `value`."""
        if value < self._last:
            self._before += self._last
        self._last = value
        return self._before + value

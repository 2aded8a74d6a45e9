"""How the fleet's numbers are made of what its actors report: one rule for each metric, in one table."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum


class Rule(Enum):
    """What a metric of several actors comes to."""

    TOTAL = "the sum over every incarnation that ever was, dead ones included: it never goes down"
    SUM = "the sum over the actors at work"
    MEAN = "the mean over the actors at work that report it"
    MIN = "the smallest of theirs"
    MAX = "the largest of theirs"


RULES: Mapping[str, Rule] = {
    "speed/actor_steps_per_s": Rule.SUM,
    "actors/waiting_share": Rule.MEAN,
    "actors/weights_version": Rule.MIN,  # the oldest that acts; -1 while an actor has none
    "actors/weights_update": Rule.MIN,  # the learner's updates that made them
    "actors/weights_age_updates": Rule.MEAN,  # measured here, as only the learner knows how far it is
    "actors/epsilon": Rule.MEAN,
    "actors/epsilon_min": Rule.MIN,  # of a ladder
    "actors/epsilon_max": Rule.MAX,
    "actors/env_steps": Rule.TOTAL,
    "actors/refused_rewards": Rule.TOTAL,
    "actors/restarts": Rule.TOTAL,  # counted by `ActorFleet`
    "writer/segments": Rule.TOTAL,
    "writer/items": Rule.TOTAL,
    "writer/bytes": Rule.TOTAL,
    "writer/waited_s": Rule.TOTAL,
    "writer/retries": Rule.TOTAL,
    "writer/connection_retries": Rule.TOTAL,
}
"""Every metric that an actor or the fleet reports. One that is not here would not leave its actor."""

TOTALS = tuple(name for name, rule in RULES.items() if rule is Rule.TOTAL)
COMBINE: Mapping[Rule, Callable[[Sequence[float]], float]] = {
    Rule.SUM: sum,
    Rule.MEAN: statistics.fmean,
    Rule.MIN: min,
    Rule.MAX: max,
}


@dataclass(frozen=True)
class FleetReport:
    """What the actors report at one moment; the default is a fleet that has not begun."""

    target: int = 0
    alive: int = 0
    at_work: Sequence[Mapping[str, float]] = ()
    """The metrics of each actor at work."""
    totals: Mapping[str, float] = field(default_factory=dict)
    """Counters over all incarnations that this supervisor has started."""


def totals(reports: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The counters among these reports, each added up."""
    added: dict[str, float] = {}
    for report in reports:
        for name in TOTALS:
            if name in report:
                added[name] = added.get(name, 0.0) + report[name]
    return added


def fleet_metrics(
    fleet: FleetReport, before: Mapping[str, float], learner: Mapping[str, float]
) -> dict[str, float]:
    """The run's metrics of `fleet`; `before` are those of the supervisors before this one."""
    at_work = [{**metrics, **_weights_age(learner, metrics)} for metrics in fleet.at_work]
    counted = totals([dict.fromkeys(TOTALS, 0.0), before, fleet.totals])
    size = {"actors/alive": float(fleet.alive), "actors/target": float(fleet.target)}
    return _combined(at_work) | counted | size


def _combined(at_work: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The metrics that are of the actors at work; one that none of them reports is left out."""
    combined = {}
    for name, rule in RULES.items():
        values = [metrics[name] for metrics in at_work if name in metrics]
        if rule is Rule.SUM or (rule in COMBINE and values):
            combined[name] = float(COMBINE[rule](values))
    return combined


def _weights_age(learner: Mapping[str, float], actor: Mapping[str, float]) -> dict[str, float]:
    """Updates that the learner has made since an actor's weights; nothing before both have any."""
    now, then = learner.get("progress/updates", -1.0), actor.get("actors/weights_update", -1.0)
    return {"actors/weights_age_updates": max(0.0, now - then)} if min(now, then) >= 0 else {}


class Growing:
    """A counter that each process in a row begins at 0: what those before had counted is added."""

    def __init__(self, before: float) -> None:
        self._before, self._last = before, 0.0

    def add(self, value: float) -> float:
        """The count over all of them, when the one at work now says `value`."""
        if value < self._last:
            self._before += self._last
        self._last = value
        return self._before + value

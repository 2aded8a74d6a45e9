"""A run's numbers among Ray's own metrics, from where Prometheus reads them.

Ray exports what its processes report on every node's metrics port, if it is installed as `ray[default]`. The
names there have the prefix `ray_`, counters the suffix `_total`. docs/launching.md shows how to collect them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from deploy.monitor.bands import GREEDY, RETURN

PREFIX, TAGS = "apexpert_", ("run", "game")


class Kind(Enum):
    """What a number is to Prometheus."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True)
class Exported:
    """One number of a run under the name (behind `PREFIX`) and the tags that Ray gets of it."""

    name: str
    metric: str
    """Its name among the run's metrics (metrics.jsonl)."""
    help: str
    kind: Kind = Kind.GAUGE
    tags: Mapping[str, str] = field(default_factory=dict)
    """Its tags besides the run's."""

    @property
    def scraped(self) -> str:
        """Its name where Prometheus reads it."""
        return f"ray_{PREFIX}{self.name}{'_total' if self.kind is Kind.COUNTER else ''}"


def _rejected(kind: str) -> Exported:
    return Exported(
        "replay_rejected", f"replay/rejected_{kind}", "Rejected data, by kind", tags={"kind": kind}
    )


EXPORTED = (
    Exported("env_steps", "progress/env_steps", "Env steps in the replay", Kind.COUNTER),
    Exported("updates", "progress/updates", "Updates of the network", Kind.COUNTER),
    Exported("restarts", "actors/restarts", "Actors that died and were replaced", Kind.COUNTER),
    Exported("return_mean", RETURN, "Mean return of the last 100 episodes"),
    Exported("return_mean_greedy", GREEDY.metric, "The same of nearly greedy episodes"),
    Exported("actors_alive", "actors/alive", "Actors at work"),
    Exported("actors_target", "actors/target", "Actors asked for"),
    Exported("actors_pending", "actors/pending", "Actors started that have not answered yet"),
    Exported("actors_waiting_share", "actors/waiting_share", "Share of time the replay holds actors"),
    Exported("actors_steps_per_second", "speed/actor_steps_per_s", "Env steps a second of all actors"),
    Exported("weights_lag_updates", "actors/weights_age_updates", "Updates actors act behind"),
    Exported("learner_ready", "learner/ready", "1 while the learner is at work, else 0"),
    Exported("learner_waiting_share", "learner/waiting_share", "Share of time the learner waits"),
    Exported("loss", "learner/loss", "Loss of the last update"),
    Exported("checkpoint_age_seconds", "learner/checkpoint_age_s", "Seconds since the newest checkpoint"),
    Exported("replay_size", "replay/size", "Transitions that can be drawn"),
    Exported("replay_bytes", "replay/bytes", "Bytes of segments on all shards"),
    Exported("samples_per_insert", "replay/samples_per_insert", "Samples per insert"),
    # Not counters, which Ray exports from their first increase on: Prometheus would not see that one.
    Exported("replay_parked", "replay/parked", "Transitions on shards that do not answer"),
    Exported("replay_parked_shards", "replay/parked_shards", "Shards that do not answer"),
    Exported("replay_evicted", "replay/evicted", "Transitions evicted so far"),
    Exported("replay_lost", "replay/lost", "Acknowledged transitions lost so far"),
    *map(_rejected, ("corrupt", "stray", "version", "run", "signature", "indexed")),
)
"""Every number that is exported. Board and alerts (deploy/clusters/monitoring) use no others of a run."""


class RayMetrics:
    """Reports one run's metrics to Ray; one per supervisor."""

    def __init__(self, run: str, game: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._tags = {"run": run, "game": game}
        classes: dict[Kind, Any] = {Kind.GAUGE: Gauge, Kind.COUNTER: Counter}
        made: dict[str, Any] = {}
        for one in EXPORTED:
            if one.name not in made:
                made[one.name] = classes[one.kind](PREFIX + one.name, one.help, (*TAGS, *one.tags))
        self._exported = [(one, made[one.name]) for one in EXPORTED]
        self._counted: dict[str, float] = {}

    def export(self, metrics: Mapping[str, float]) -> None:
        """Report those of the run's metrics that are exported; values that are not finite are left out."""
        for one, reported in self._exported:
            value = metrics.get(one.metric, math.nan)
            if not math.isfinite(value):
                continue
            if one.kind is Kind.GAUGE:
                reported.set(value, {**self._tags, **one.tags})
            # A learner restored from a checkpoint counts anew from there: until it is where it was, nothing.
            elif (more := value - self._counted.get(one.name, 0.0)) > 0:
                self._counted[one.name] = value
                reported.inc(more, self._tags)


def exporter(run: str, game: str, *, private: bool) -> Callable[[Mapping[str, float]], object]:
    """Return what exports a run's metrics; on a private Ray, whose metrics nobody reads, it does nothing."""
    return (lambda metrics: None) if private else RayMetrics(run, game).export

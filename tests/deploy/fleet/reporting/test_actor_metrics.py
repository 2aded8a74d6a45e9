"""How the fleet's numbers are made of its actors': every metric has a rule, and counters never go down."""

from pathlib import Path

import pytest

from actors.config import ExplorationConfig
from deploy.fleet.reporting.actor_metrics import RULES, TOTALS, FleetReport, fleet_metrics, totals
from replay.shards.shard import Shard
from replay.types import Signature
from replay.writer import Writer
from tests.helpers.actors.acting import make_actor

BY_FLEET = {"actors/restarts"}
"""What no actor reports of itself."""
LATER = {"actors/weights_age_updates"}
"""What an actor reports once it has acted."""


def reported(tmp_path: Path, kind: str) -> dict[str, float]:
    """The metrics of a real actor with a real writer, before its first step."""
    shards = [Shard(f"unix://{tmp_path}/none.sock", run="r", index=0)]
    writer = Writer(shards, run="r", signature=Signature((84, 84), 4, 3, 3))
    actor = make_actor(writer=writer, exploration=ExplorationConfig(kind=kind))
    actor.close()
    return actor.metrics()


def test_every_metric_that_an_actor_reports_has_a_rule_and_every_rule_a_metric(tmp_path: Path) -> None:
    linear, ladder = reported(tmp_path, "linear"), reported(tmp_path, "ladder")
    assert set(linear) | set(ladder) | BY_FLEET | LATER == set(RULES)
    fleet = FleetReport(target=1, alive=1, at_work=[ladder], totals=totals([ladder]))
    assert set(ladder) <= fleet_metrics(fleet, {}).keys()


def test_each_rule_is_applied_to_the_actors_that_report_the_metric() -> None:
    first = {
        "speed/actor_steps_per_s": 10.0,
        "actors/waiting_share": 0.5,
        "actors/weights_version": 7.0,
        "actors/weights_update": 60.0,
        "actors/weights_age_updates": 30.0,
        "actors/epsilon": 0.25,
        "actors/epsilon_min": 0.1,
        "actors/epsilon_max": 0.4,
    }
    second = first | {
        "speed/actor_steps_per_s": 30.0,
        "actors/weights_version": 5.0,
        "actors/weights_update": 50.0,
        "actors/weights_age_updates": 40.0,
        "actors/epsilon": 0.05,
        "actors/epsilon_min": 0.01,
        "actors/epsilon_max": 0.09,
    }
    third = {"speed/actor_steps_per_s": 2.0, "actors/weights_version": -1.0, "actors/weights_update": -1.0}
    fleet = FleetReport(target=4, alive=3, at_work=[first, second, third])
    metrics = fleet_metrics(fleet, {})
    assert metrics["speed/actor_steps_per_s"] == 42.0
    assert metrics["actors/waiting_share"] == 0.5
    assert metrics["actors/weights_version"] == -1.0
    assert metrics["actors/weights_age_updates"] == 35.0
    assert metrics["actors/epsilon"] == pytest.approx(0.15)
    assert (metrics["actors/epsilon_min"], metrics["actors/epsilon_max"]) == (0.01, 0.4)
    assert (metrics["actors/alive"], metrics["actors/target"]) == (3.0, 4.0)


def test_without_actors_counters_stay_and_means_are_left_out() -> None:
    metrics = fleet_metrics(FleetReport(), {"writer/retries": 5.0, "actors/epsilon": 0.5})
    assert metrics["writer/retries"] == 5.0
    assert metrics["speed/actor_steps_per_s"] == 0.0
    assert "actors/epsilon" not in metrics
    assert metrics.keys() >= set(TOTALS)

"""What is exported of a run: numbers that it has, under names that Prometheus takes."""

import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import MagicMock

import pytest
import ray.util.metrics

from actors.episodes import Episode
from deploy.fleet.reporting import checkpoint_age
from deploy.fleet.reporting.actor_metrics import RULES, FleetReport
from deploy.fleet.reporting.ray_metrics import EXPORTED, Kind, RayMetrics, exporter
from deploy.fleet.reporting.telemetry import Telemetry
from deploy.monitor.metrics import read_metrics
from deploy.run.folder import RunFolder
from replay.config import ReplayConfig
from replay.items.counters import Counters
from replay.log.reader import COUNTERS
from replay.owner.metrics import metrics as replay_metrics
from tests.helpers.learner.fakes import Setup, never
from tests.helpers.runs.catch_runs import catch_config

VALID = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Reported:
    """Stands for Ray's Gauge and Counter: keeps what it is told."""

    all: ClassVar[dict[str, "Reported"]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert name not in self.all, "Ray would have two of that name"
        self.all[name] = self
        self.tag_keys, self.values = tag_keys, dict[tuple[tuple[str, str], ...], float]()

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        assert set(tags) == set(self.tag_keys), "Ray would raise"
        self.values[tuple(sorted(tags.items()))] = value

    def inc(self, value: float, tags: Mapping[str, str]) -> None:
        assert value > 0, "Ray would raise"
        key = tuple(sorted(tags.items()))
        self.set(self.values.get(key, 0.0) + value, tags)


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> dict[str, Reported]:
    """Everything that is reported to Ray, by name."""
    monkeypatch.setattr(Reported, "all", {})
    for name in ("Gauge", "Counter"):
        monkeypatch.setattr(ray.util.metrics, name, Reported)
    return Reported.all


def whole_metrics(tmp_path: Path, export: Any) -> dict[str, float]:
    """What a run's telemetry writes once learner, replay and actors have reported all they do."""
    setup = Setup(tmp_path / "learner", [60], total=60)
    setup.learner.run(never)
    log = MagicMock(**{"reader.counters": dict.fromkeys(COUNTERS, 0)})
    replay = replay_metrics(Counters(), log, ReplayConfig(), misses=0)
    folder = RunFolder.create(catch_config(tmp_path))
    telemetry = Telemetry(catch_config(tmp_path), folder, "", export)
    telemetry.add_episodes([Episode(1.0, 10, 0, 0.0)])
    at_work = [dict.fromkeys(RULES, 0.5)]
    telemetry.update(
        replay | setup.learner.metrics(), FleetReport(target=3, alive=1, pending=2, at_work=at_work)
    )
    telemetry.publish("running", "", 3, [], {})
    return list(read_metrics(folder.metrics_path))[-1]


def test_every_exported_number_is_among_a_runs_metrics_and_is_reported_with_the_runs_tags(
    tmp_path: Path, reported: dict[str, Reported]
) -> None:
    metrics = whole_metrics(tmp_path, RayMetrics("r", "Pong").export)
    assert {one.metric for one in EXPORTED} <= metrics.keys()
    assert len({(one.name, *one.tags.items()) for one in EXPORTED}) == len(EXPORTED)
    run = (("game", "Pong"), ("run", "r"))
    for one in EXPORTED:
        assert VALID.fullmatch(one.scraped)
        values = reported[f"apexpert_{one.name}"].values
        if one.kind is Kind.GAUGE or metrics[one.metric] > 0:
            assert values[tuple(sorted((*run, *one.tags.items())))] == metrics[one.metric]
    assert reported["apexpert_actors_pending"].values == {run: 2.0}
    assert reported["apexpert_learner_ready"].values == {run: 1.0}


def test_every_kind_of_rejected_data_is_exported() -> None:
    kinds = {f"replay/rejected_{kind}" for kind in COUNTERS}
    of_replay = {
        name
        for name in replay_metrics(Counters(), MagicMock(), ReplayConfig(), misses=0)
        if "rejected_" in name
    }
    assert {one.metric for one in EXPORTED if one.name == "replay_rejected"} == of_replay
    assert kinds & of_replay


def test_a_counter_never_goes_down_and_what_is_not_finite_is_left_out(reported: dict[str, Reported]) -> None:
    export = RayMetrics("r", "Pong").export
    for updates in (0.0, 100.0, 150.0, 120.0, 140.0, 170.0):  # a learner went back to its checkpoint
        export({"progress/updates": updates, "learner/loss": math.nan})
    assert list(reported["apexpert_updates"].values.values()) == [170.0]
    assert reported["apexpert_loss"].values == {}
    assert reported["apexpert_replay_size"].values == {}, "not known yet"


def test_a_private_ray_is_told_nothing(reported: dict[str, Reported]) -> None:
    exporter("r", "Pong", private=True)({"learner/loss": 0.5})
    assert reported == {}
    exporter("r", "Pong", private=False)({"learner/loss": 0.5})
    assert list(reported["apexpert_loss"].values.values()) == [0.5]


def test_the_learner_is_not_ready_while_it_reports_nothing(tmp_path: Path) -> None:
    folder = RunFolder.create(catch_config(tmp_path))
    exported: dict[str, float] = {}
    telemetry = Telemetry(catch_config(tmp_path), folder, "", exported.update)
    for learner, ready in (({}, 0.0), ({"progress/env_steps": 8.0}, 1.0), ({}, 0.0)):
        telemetry.update(learner, FleetReport(target=1))
        telemetry.publish("starting", "", 1, [], {})
        assert exported["learner/ready"] == ready


def test_the_age_of_the_newest_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, wall = 1000.0, time.time()
    monkeypatch.setattr(checkpoint_age, "time", SimpleNamespace(monotonic=lambda: now, time=lambda: wall))
    folder = RunFolder.create(catch_config(tmp_path))
    age = checkpoint_age.CheckpointAge(folder)
    now += 30
    assert age.seconds() == 30.0, "none yet: since the start"
    first = folder.checkpoints / "update-000000010"
    first.mkdir()
    now += 10
    assert age.seconds() == 0.0
    now += 20
    assert age.seconds() == 20.0
    os.utime(first, (wall - 500, wall - 500))
    assert checkpoint_age.CheckpointAge(folder).seconds() == pytest.approx(500), "of an earlier supervisor"
    (folder.checkpoints / "update-000000020").mkdir()
    now += 10
    assert age.seconds() == 0.0

"""`episodes.jsonl` and `legs.json` as a run writes them."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from actors.episodes import Episode
from deploy.fleet.reporting.actor_metrics import FleetReport
from deploy.fleet.reporting.episode_log import EpisodeLog
from deploy.fleet.reporting.telemetry import Telemetry
from deploy.monitor import metrics
from deploy.monitor.metrics import read_metrics
from deploy.reports.seeds.episodes import read_episodes
from deploy.run.folder import RunFolder
from tests.helpers.runs.catch_runs import catch_config


def episode(value: float) -> Episode:
    return Episode(value, 10, env_slot=3, epsilon=0.5, actor_slot=1)


def at(env_steps: int, restored: int = 0) -> dict[str, float]:
    return {"progress/env_steps": float(env_steps), "progress/restored_env_steps": float(restored)}


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    return list(read_metrics(folder.episodes_path))


def legs(folder: RunFolder) -> list[int]:
    return [leg["env_steps"] for leg in folder.read_json("legs.json", [])]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_an_episode_is_one_line(folder: RunFolder) -> None:
    log = EpisodeLog(folder, print)
    log.add(episode(2.5))
    log.update(at(700))
    assert lines(folder) == [
        {
            "env_steps": 700, "return": 2.5, "length": 10, "actor_slot": 1, "env_slot": 3, "epsilon": 0.5,
            "leg": 0,
        }
    ]  # fmt: skip
    assert legs(folder) == [0]
    log.update(at(800))
    assert len(lines(folder)) == 1, "once"


def test_episodes_wait_until_the_learner_says_where_the_run_is(folder: RunFolder) -> None:
    log = EpisodeLog(folder, print)
    log.add(episode(1.0))
    log.update({})
    assert (lines(folder), legs(folder)) == ([], [])
    log.update(at(950, restored=900))
    assert [line["env_steps"] for line in lines(folder)] == [950]
    assert legs(folder) == [900]
    log.add(episode(2.0))
    log.update({})
    assert [line["env_steps"] for line in lines(folder)] == [950, 950], "its last word counts"


def test_a_learner_that_begins_again_is_no_new_leg_and_takes_nothing_back(folder: RunFolder) -> None:
    log = EpisodeLog(folder, print)
    log.update(at(950))
    log.add(episode(1.0))
    log.update(at(800, restored=800))
    assert [(line["env_steps"], line["leg"]) for line in lines(folder)] == [(950, 0)]
    assert legs(folder) == [0]


def test_each_start_that_comes_to_a_learner_is_a_leg(folder: RunFolder) -> None:
    for restored in (0, None, 900, 950):
        log = EpisodeLog(folder, print)
        log.add(episode(1.0))
        if restored is None:  # killed before its learner had restored
            continue
        log.update(at(restored + 10, restored))
        log.close(0)
    assert [(line["leg"], line["env_steps"]) for line in lines(folder)] == [(0, 10), (1, 910), (2, 960)]
    assert legs(folder) == [0, 900, 950]


def test_what_waits_at_the_end_is_written(folder: RunFolder) -> None:
    log = EpisodeLog(folder, print)
    log.add(episode(1.0))
    log.close(123.0)
    assert [line["env_steps"] for line in lines(folder)] == [123]


def test_a_full_disk_costs_no_line_and_ends_nothing(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    log = EpisodeLog(folder, notes.append)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(metrics.os, "write", refuse)
        full.setattr(folder, "write_json", refuse)
        for number in range(3):
            log.add(episode(number))
            log.update(at(100 * number))
        assert (lines(folder), legs(folder)) == ([], [])
    log.update(at(400))
    assert [(line["return"], line["env_steps"]) for line in lines(folder)] == [(0, 0), (1, 100), (2, 200)]
    assert legs(folder) == [0]
    assert notes == [
        "episodes.jsonl cannot be written: No space left on device; it is tried again",
        "episodes.jsonl can be written again",
    ]


def test_a_line_cut_off_by_a_crash_takes_no_other_with_it(folder: RunFolder) -> None:
    log = EpisodeLog(folder, print)
    for number in range(2):
        log.add(episode(number))
    log.update(at(100))
    log.close(0)
    whole = folder.episodes_path.read_bytes()
    folder.episodes_path.write_bytes(whole[:-20])
    again = EpisodeLog(folder, print)
    again.add(episode(7.0))
    again.update(at(120, restored=100))
    assert [(record.return_, record.leg) for record in read_episodes(folder.episodes_path)] == [
        (0.0, 0),
        (7.0, 1),
    ]


def test_the_supervisors_telemetry_writes_as_many_lines_as_it_counts(tmp_path: Path) -> None:
    config = catch_config(tmp_path)
    folder = RunFolder.create(config)
    for start in range(2):
        telemetry = Telemetry(config, folder, "")
        for number in range(3):
            telemetry.add_episodes([episode(number), episode(number)])
            telemetry.update(at(100 * start + number, 100 * start), FleetReport())
        told = telemetry.publish("running", "", 1, [], {})["metrics"]
        assert told["episode/count"] == len(lines(folder)) == 6 * (start + 1)
        telemetry.add_episodes([])
        telemetry.close()
    assert json.loads(folder.episodes_path.read_text().splitlines()[-1])["env_steps"] == 102
    assert legs(folder) == [0, 100]

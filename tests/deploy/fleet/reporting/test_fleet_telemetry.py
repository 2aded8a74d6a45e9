"""What the supervisor tells while a resumed run is not yet where it was."""

import errno
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from actors.episodes import Episode
from deploy.fleet.reporting.actor_metrics import FleetReport
from deploy.fleet.reporting.log import log_to
from deploy.fleet.reporting.telemetry import Telemetry
from deploy.fleet.run_state import FleetState
from deploy.monitor.metrics import read_metrics
from deploy.run.folder import RunFolder
from tests.helpers.runs.catch_runs import catch_config

BEFORE = {
    "progress/env_steps": 950.0,
    "progress/updates": 95.0,
    "progress/seconds": 60.0,
    "episode/return_mean_100": 0.25,
    "replay/size": 950.0,
    "speed/updates_per_s": 9.0,
}


def resumed(tmp_path: Path, *checkpoints: tuple[int, Any], **environment: Any) -> tuple[Telemetry, RunFolder]:
    config = catch_config(tmp_path, **{"environment__frame_skip": 4} | environment)
    folder = RunFolder.create(config)
    folder.write_json("status.json", {"state": "failed", "metrics": BEFORE})
    for update, document in checkpoints:
        path = folder.checkpoints / f"update-{update:09d}"
        path.mkdir()
        (path / "document.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return Telemetry(config, folder, ""), folder


def shown(telemetry: Telemetry, state: str) -> dict[str, float]:
    metrics: dict[str, float] = telemetry.publish(state, "", 1, [], {})["metrics"]
    return metrics


def test_the_checkpoints_counts_are_shown_until_the_learner_tells(tmp_path: Path) -> None:
    whole, broken = {"env_steps": 900, "update": 90, "more": 1}, "{"
    telemetry, folder = resumed(tmp_path, (80, {"env_steps": 800, "update": 80}), (90, whole), (95, broken))
    metrics = shown(telemetry, "starting")
    assert (metrics["progress/env_steps"], metrics["progress/updates"]) == (900.0, 90.0)
    assert metrics["progress/num_frames"] == 900.0, "Catch skips no frames, whatever --frame-skip says"
    assert metrics["episode/return_mean_100"] == 0.25
    assert "speed/updates_per_s" not in metrics, "nothing has any speed yet"
    assert shown(telemetry, "stopped")["replay/size"] == 950.0
    assert folder.read_json("status.json", {})["metrics"]["progress/env_steps"] == 900.0
    telemetry.update({"progress/env_steps": 910.0}, FleetReport(target=1, alive=1))
    assert shown(telemetry, "running")["progress/env_steps"] == 910.0


@pytest.mark.parametrize("frame_skip", [1, 4])
def test_frames_of_an_atari_game_are_those_that_its_skip_says(tmp_path: Path, frame_skip: int) -> None:
    telemetry, _ = resumed(tmp_path, environment__env="", environment__frame_skip=frame_skip)
    telemetry.update({"progress/env_steps": 910.0}, FleetReport(target=1, alive=1))
    assert shown(telemetry, "running")["progress/num_frames"] == 910.0 * frame_skip


def test_nothing_is_recorded_before_the_learner_has_said_where_it_is(tmp_path: Path) -> None:
    telemetry, folder = resumed(tmp_path)
    telemetry.update({}, FleetReport(target=1, alive=0))
    telemetry.write()
    assert folder.metrics_path.read_text() == "", "a row at 0 env steps would spoil the curves"
    telemetry.update({"progress/env_steps": 910.0}, FleetReport(target=1, alive=1))
    telemetry.write()
    assert '"env_steps": 910' in folder.metrics_path.read_text()


def test_passwords_are_told_to_nobody(tmp_path: Path) -> None:
    telemetry, folder = resumed(tmp_path)
    telemetry.note("shard at redis://:secret@host is gone")
    telemetry.publish("failed", "redis://:secret@host refused", 1, [], {})
    told = folder.status_path.read_text()
    assert "secret" not in told
    assert "redis://:***@host refused" in told


def test_the_log_hides_passwords_in_tracebacks_too(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = root.handlers, root.level
    try:
        log_to(tmp_path / "log.txt", "tester")
        logging.getLogger("somebody").info("connects to %s", "redis://:secret@host:1")
        try:
            raise ValueError("no answer from redis://u:secret@host:2")
        except ValueError:
            logging.getLogger("somebody").exception("failed")
    finally:
        root.handlers, root.level = before, level
    logged = (tmp_path / "log.txt").read_text()
    assert "tester INFO somebody: connects to redis://:***@host:1" in logged
    assert "ValueError: no answer from redis://u:***@host:2" in logged
    assert "secret" not in logged


def test_the_mean_return_goes_on_over_a_resume(tmp_path: Path) -> None:
    telemetry, folder = resumed(tmp_path)
    telemetry.add_episodes([Episode(float(value), 10, 0, 1.0) for value in range(15)])
    telemetry.update({"progress/env_steps": 910.0}, FleetReport(target=1, alive=1))
    shown(telemetry, "stopped")
    again = Telemetry(catch_config(tmp_path), folder, "")
    again.add_episodes([Episode(100.0, 20, 0, 0.01)])
    again.update({"progress/env_steps": 920.0}, FleetReport(target=1, alive=1))
    metrics = shown(again, "running")
    assert metrics["episode/count"] == 16
    assert metrics["episode/return_mean_100"] == (sum(range(15)) + 100) / 16
    assert metrics["episode/length_mean_100"] == (15 * 10 + 20) / 16
    assert metrics["episode/return_mean_100_random"] == 7.0
    assert metrics["episode/return_mean_100_greedy"] == 100.0


def test_a_status_from_before_bands_still_counts(tmp_path: Path) -> None:
    _, folder = resumed(tmp_path)
    folder.write_json(
        "status.json", {"state": "failed", "metrics": BEFORE, "episodes": [[1.0, 10], [4.0, 30]]}
    )
    again = Telemetry(catch_config(tmp_path), folder, "")
    again.update({"progress/env_steps": 920.0}, FleetReport(target=1, alive=1))
    metrics = shown(again, "running")
    assert metrics["episode/return_mean_100"] == 2.5
    assert metrics["episode/length_mean_100"] == 20
    assert not [name for name in metrics if name.startswith("episode/return_mean_100_")], (
        "nobody knows of them"
    )
    once_more = Telemetry(catch_config(tmp_path), folder, "")
    assert once_more._episodes.rows() == again._episodes.rows()


def counted(refused: float, retries: float = 0.0) -> dict[str, float]:
    return {"actors/refused_rewards": refused, "writer/retries": retries, "actors/restarts": 1.0}


def test_the_actors_counters_never_go_down_over_a_resume(tmp_path: Path) -> None:
    telemetry, folder = resumed(tmp_path)
    learner = {"progress/env_steps": 910.0, "replay/frame_store_misses": 7.0}
    telemetry.update(learner, FleetReport(totals=counted(3.0, 2.0)))
    telemetry.update({}, FleetReport(totals=counted(4.0, 2.0)))
    shown(telemetry, "stopped")
    again = Telemetry(catch_config(tmp_path), folder, "")
    for _ in range(2):
        metrics = shown(again, "starting")
        assert (metrics["actors/refused_rewards"], metrics["writer/retries"]) == (4.0, 2.0)
        assert metrics["actors/restarts"] == 1.0
        again.update({}, FleetReport())
    for misses, expected in ((1.0, 8.0), (2.0, 9.0), (0.0, 9.0), (5.0, 14.0)):  # the learner starts twice
        again.update({"replay/frame_store_misses": misses}, FleetReport(totals=counted(5.0)))
        assert shown(again, "running")["replay/frame_store_misses"] == expected
    assert shown(again, "running")["actors/refused_rewards"] == 9.0
    assert shown(again, "running")["actors/restarts"] == 2.0


def test_what_actors_report_is_written_to_the_metrics_too(tmp_path: Path) -> None:
    telemetry, folder = resumed(tmp_path)
    actors = [{"actors/epsilon": 0.4, "actors/epsilon_max": 0.4}, {"actors/epsilon": 0.2}]
    fleet = FleetReport(target=2, alive=2, at_work=actors, totals=counted(3.0))
    telemetry.update({"progress/env_steps": 910.0}, fleet)
    (line,) = read_metrics(folder.metrics_path)
    assert line["actors/epsilon"] == pytest.approx(0.3)
    assert line["actors/epsilon_max"] == 0.4
    assert line["actors/refused_rewards"] == 3.0


def test_the_age_is_that_of_the_weights_when_they_acted(tmp_path: Path) -> None:
    telemetry, _ = resumed(tmp_path)
    learner = {"progress/env_steps": 910.0, "progress/updates": 148.0}
    actors = [{"actors/weights_age_updates": 9.0}, {"actors/weights_age_updates": 0.0}, {}]
    telemetry.update(learner, FleetReport(target=3, alive=3, at_work=actors))
    assert shown(telemetry, "running")["actors/weights_age_updates"] == 4.5


def test_a_status_that_cannot_be_written_is_told_once_and_ends_nothing(tmp_path: Path, monkeypatch) -> None:
    telemetry, folder = resumed(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "write_json", refuse)
    for _ in range(3):
        status = telemetry.publish("running", "", 1, [], {})
    assert [note[9:] for note in status["notes"]] == [
        "status.json cannot be written: No space left on device; it is tried again"
    ]


def test_an_incarnation_that_cannot_be_noted_is_not_used(tmp_path: Path, monkeypatch) -> None:
    """Its number would come again after a restart, for segments of another actor."""
    folder = RunFolder(tmp_path)
    state = FleetState(folder)
    assert state.next_incarnation(0) == 0

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(folder, "write_json", refuse)
        with pytest.raises(OSError, match="No space"):
            state.next_incarnation(0)
        state.target = 3
    assert state.target == 3
    assert state.next_incarnation(0) == 1
    assert FleetState(folder).target == 3

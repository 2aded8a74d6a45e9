"""Which curves a run has, where they lie on the axis, and which records count."""

import json
from pathlib import Path

import pytest

from deploy.reports.curves.run_curves import CurveError, read_run
from tests.helpers.recorded_run import ALL, EXPLORING, GREEDY, record_run


def kinds(run: Path) -> dict[str, tuple[list[float], list[float]]]:
    return {curve.kind: (curve.frames, curve.returns) for curve in read_run(run).curves}


def test_of_a_run_without_bands_all_episodes_count(tmp_path: Path) -> None:
    run = record_run(tmp_path / "a", [{ALL: -21.0}, {ALL: -15.0}], step=10**5)
    assert kinds(run) == {"all episodes": ([0.4, 0.8], [-21.0, -15.0])}
    assert read_run(run).curves[0].comparable, "as a version before bands recorded it"


def test_greedy_episodes_and_evaluations_are_curves_of_their_own(tmp_path: Path) -> None:
    evaluation = {"evaluation/return_mean": 4.0, "evaluation/env_steps": 1.5e6}
    run = record_run(
        tmp_path / "apex",
        [
            {ALL: -15.0, EXPLORING: -15.0},
            {ALL: -5.0, EXPLORING: -12.0, GREEDY: 2.0},
            evaluation,
            {ALL: -4.0, EXPLORING: -11.0, GREEDY: 3.0, **evaluation},  # as every later record repeats it
        ],
    )
    assert kinds(run) == {"epsilon up to 0.05": ([8.0, 16.0], [2.0, 3.0]), "evaluation": ([6.0], [4.0])}


def test_explorers_alone_are_not_comparable(tmp_path: Path) -> None:
    run = record_run(tmp_path / "one", [{ALL: -15.0, EXPLORING: -15.0}])
    (curve,) = read_run(run).curves
    assert (curve.kind, curve.comparable) == ("all episodes, exploring", False)


def test_a_run_that_began_before_bands_has_both(tmp_path: Path) -> None:
    run = record_run(tmp_path / "old", [{ALL: -15.0}, {ALL: -5.0, GREEDY: 2.0}])
    assert kinds(run) == {"all episodes": ([4.0], [-15.0]), "epsilon up to 0.05": ([8.0], [2.0])}


@pytest.mark.parametrize(
    ("environment", "frames"), [({"game": "pong"}, 4), ({"frame_skip": 2}, 2), ({"env": "m:e"}, 1)]
)
def test_frames_are_counted_as_the_environment_skips_them(
    tmp_path: Path, environment: dict, frames: int
) -> None:
    """Whatever an older version has recorded as `progress/num_frames`."""
    (tmp_path / "config.json").write_text(json.dumps({"environment": environment}))
    record = {"env_steps": 10**6, "progress/num_frames": 4e6, ALL: 1.0}
    evaluated = {"env_steps": 10**6, "evaluation/return_mean": 2.0, "evaluation/env_steps": 5e5}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(record)}\n{json.dumps(evaluated)}\n")
    assert [frames for frames, _ in kinds(tmp_path).values()] == [[frames], [frames / 2]]


def test_a_run_without_episodes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CurveError, match="no episode has ended"):
        read_run(record_run(tmp_path / "a", []))


def test_records_of_a_part_that_a_resume_dropped_are_not_drawn(tmp_path: Path) -> None:
    """It went back from 3 to 1 million env steps; a diagnosis is recorded at an earlier env step."""
    run = record_run(tmp_path / "a", [{ALL: 1.0}, {ALL: 2.0}, {ALL: 3.0}])
    with (run / "metrics.jsonl").open("a") as file:
        for env_steps, value in ((1_500_000, 4.0), (2_000_000, 5.0)):
            file.write(json.dumps({"env_steps": env_steps, ALL: value}) + "\n")
        file.write(json.dumps({"env_steps": 900_000, "diagnostics/update": 1.0}) + "\n")
    assert kinds(run)["all episodes"] == ([4.0, 6.0, 8.0], [1.0, 4.0, 5.0])


def test_hours_are_the_runs_own_time(tmp_path: Path) -> None:
    run = read_run(record_run(tmp_path / "a", [{ALL: 1.0}, {ALL: 2.0}]))
    assert run.along([4.0, 6.0, 8.0], "hours") == [1.0, 1.5, 2.0]
    assert run.along([4.0, 6.0], "frames") == [4.0, 6.0]
    old = record_run(tmp_path / "old", [])
    (old / "metrics.jsonl").write_text(json.dumps({"env_steps": 5, ALL: 1.0}) + "\n")
    with pytest.raises(CurveError, match="old: an older version recorded no time"):
        read_run(old).along([1.0], "hours")


def test_the_episodes_of_a_curve_explore_as_it_says(tmp_path: Path) -> None:
    episodes = [(10**6, -20.0, 0.9), (2 * 10**6, 5.0, 0.05), (3 * 10**6, 7.0, 0.01)]
    run = read_run(record_run(tmp_path / "a", [{ALL: 1.0, GREEDY: 2.0}], episodes=episodes))
    (greedy,) = run.curves
    assert [episode.return_ for episode in run.episodes_of(greedy)] == [5.0, 7.0]
    explorer = read_run(record_run(tmp_path / "b", [{ALL: 1.0, EXPLORING: 1.0}], episodes=episodes))
    assert len(explorer.episodes_of(explorer.curves[0])) == 3

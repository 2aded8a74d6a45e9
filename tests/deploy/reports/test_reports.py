import json
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from deploy.monitor.metrics import MetricsSink
from deploy.reports import curves
from deploy.reports.curves import CurveError, dopamine_curves, draw_curves, draw_learning_curve, read_curves
from deploy.reports.statistics import human_normalised, summarise
from deploy.reports.video import VideoWriter


def make_run(folder, game, returns):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"environment": {"game": game, "env": ""}}))
    sink = MetricsSink(folder)
    for i, value in enumerate(returns):
        sink.write({"episode/return_mean_100": value}, env_steps=i * 10**5)
    sink.close()
    return folder


def test_human_normalised_is_0_at_random_and_1_at_human():
    assert human_normalised(-20.7, "pong") == 0.0
    assert human_normalised(14.6, "Pong") == pytest.approx(1.0)
    assert human_normalised(3.0, "ms_pacman") is not None
    assert human_normalised(1.0, "tests.helpers.catch:make") is None


def test_summary_of_known_returns():
    summary = summarise([1.0, 2.0, 3.0, 10.0], "pong")
    assert (summary.mean.value, summary.median.value, summary.episodes) == (4.0, 2.5, 4)
    assert 1.0 <= summary.mean.low < 4.0 < summary.mean.high <= 10.0
    normalised, scale = summary.human_normalised_mean, 14.6 + 20.7
    assert normalised.value == pytest.approx((4.0 + 20.7) / scale)
    assert normalised.low == pytest.approx((summary.mean.low + 20.7) / scale)
    assert normalised.high == pytest.approx((summary.mean.high + 20.7) / scale)
    assert summarise([1.0, 2.0], "tests.helpers.catch:make").human_normalised_median is None


def test_equal_returns_have_no_interval():
    mean = summarise([5.0] * 3, "pong").mean
    assert (mean.value, mean.bounds) == (5.0, None)
    nearly = summarise([-1.0] * 30 + [1.0], "pong")
    assert nearly.mean.bounds is not None
    assert (nearly.median.value, nearly.median.bounds) == (-1.0, None)


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match="no finished episode"):
        summarise([], "pong")


def test_curve_is_read_back_and_drawn(tmp_path):
    run = make_run(tmp_path / "a", "pong", [-21.0, -20.0, -15.0])
    (curve,) = read_curves(run)
    assert (curve.frames, curve.returns) == ([0.0, 0.4, 0.8], [-21.0, -20.0, -15.0])
    assert (curve.kind, curve.comparable) == ("all episodes", True), "as a version before bands recorded it"
    picture = imageio.imread(draw_learning_curve(run))
    assert picture.shape[0] > 300
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 20


ALL, GREEDY = "episode/return_mean_100", "episode/return_mean_100_greedy"
EXPLORING = "episode/return_mean_100_exploring"


def make_banded_run(folder, *records):
    """Each record at 1, 2, 3 ... million env steps."""
    make_run(folder, "pong", [])
    sink = MetricsSink(folder)
    for i, record in enumerate(records, 1):
        sink.write(record, env_steps=i * 10**6)
    sink.close()
    return folder


def drawn(monkeypatch, runs, target):
    """Draw the runs' picture and return its legend."""
    figures = []
    with monkeypatch.context() as patch:
        patch.setattr(curves.plt, "close", figures.append)
        draw_curves(runs, target)
    (figure,) = figures
    curves.plt.close(figure)
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_beside_published_curves_stand_only_those_that_act_nearly_greedily(tmp_path, monkeypatch):
    evaluation = {"evaluation/return_mean": 4.0, "evaluation/env_steps": 1.5e6}
    run = make_banded_run(
        tmp_path / "apex",
        {ALL: -15.0, EXPLORING: -15.0},
        {ALL: -5.0, EXPLORING: -12.0, GREEDY: 2.0},
        evaluation,
        {ALL: -4.0, EXPLORING: -11.0, GREEDY: 3.0, **evaluation},  # as every later record repeats it
    )
    greedy, evaluated = read_curves(run)
    assert (greedy.kind, greedy.frames, greedy.returns) == ("epsilon up to 0.05", [8.0, 16.0], [2.0, 3.0])
    assert (evaluated.kind, evaluated.frames, evaluated.returns) == ("evaluation", [6.0], [4.0])
    labels = drawn(monkeypatch, [run], tmp_path / "p.png")
    assert labels[:2] == ["apex: epsilon up to 0.05", "apex: evaluation"]
    assert sum(label.startswith("Dopamine") for label in labels) == 4


def test_explorers_alone_are_not_drawn_beside_published_curves(tmp_path, monkeypatch):
    run = make_banded_run(tmp_path / "one", {ALL: -15.0, EXPLORING: -15.0}, {ALL: -5.0, EXPLORING: -5.0})
    labels = drawn(monkeypatch, [run], tmp_path / "p.png")
    assert labels == ["one: all episodes, exploring", "random", "human"]


def test_a_run_that_began_before_bands_says_which_part_is_of_all_episodes(tmp_path, monkeypatch):
    run = make_banded_run(tmp_path / "old", {ALL: -15.0}, {ALL: -5.0, GREEDY: 2.0})
    before, greedy = read_curves(run)
    assert (before.frames, before.returns) == ([4.0], [-15.0])
    assert (greedy.frames, greedy.returns) == ([8.0], [2.0])
    labels = drawn(monkeypatch, [run], tmp_path / "p.png")
    assert labels[:2] == ["old: all episodes", "old: epsilon up to 0.05"]


@pytest.mark.parametrize(
    ("environment", "frames"), [({"game": "pong"}, 4), ({"frame_skip": 2}, 2), ({"env": "m:e"}, 1)]
)
def test_frames_are_counted_as_the_environment_skips_them(tmp_path, environment, frames):
    """Whatever an older version has recorded as `progress/num_frames`."""
    (tmp_path / "config.json").write_text(json.dumps({"environment": environment}))
    record = {"env_steps": 10**6, "progress/num_frames": 4e6, ALL: 1.0}
    evaluated = {"env_steps": 10**6, "evaluation/return_mean": 2.0, "evaluation/env_steps": 5e5}
    (tmp_path / "metrics.jsonl").write_text(f"{json.dumps(record)}\n{json.dumps(evaluated)}\n")
    assert [curve.frames for curve in read_curves(tmp_path)] == [[frames], [frames / 2]]


def test_curves_of_two_games_in_one_picture(tmp_path):
    runs = [make_run(tmp_path / g, g, [0.0, 1.0]) for g in ("pong", "breakout")]
    assert draw_curves(runs, tmp_path / "both.png").stat().st_size > 10_000


def test_a_run_without_episodes_is_one_line(tmp_path):
    with pytest.raises(CurveError, match="no episode has ended"):
        draw_learning_curve(make_run(tmp_path / "a", "pong", []))


def test_published_curves_cover_pong_with_four_agents():
    agents = dopamine_curves("pong")
    assert set(agents) == {f"Dopamine {a} ({e})" for a in ("DQN", "Rainbow") for e in ("CNN", "Impala")}
    for curve in agents.values():
        frames, returns = zip(*curve, strict=True)
        assert (frames[0], frames[-1]) == (1.0, 200.0)
        assert -21.0 <= min(returns) < max(returns) <= 21.0
    assert dopamine_curves("catch") == {}


def test_video_has_the_frames_that_were_added(tmp_path):
    with VideoWriter(tmp_path / "v.mp4", fps=15) as video:
        for i in range(10):
            video.add(np.full((84, 84), 20 * i, np.uint8))
    frames = imageio.mimread(tmp_path / "v.mp4", memtest=False)
    assert len(frames) == 10
    assert frames[0].shape[:2] == (336, 336)
    assert abs(float(np.mean(frames[5])) - 100.0) < 12.0


@pytest.mark.parametrize("name", ["a:b", "-x", "c.zip", "%d[e] 'f' \\g"])
def test_no_characters_of_a_videos_path_matter(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with VideoWriter(Path(name) / f"{name}.mp4", fps=15) as video:
        video.add(np.zeros((64, 64), np.uint8))
    assert [path.name for path in (tmp_path / name).iterdir()] == [f"{name}.mp4"]


@pytest.mark.parametrize("num_frames", [1, 100])
def test_a_video_that_the_disk_has_no_room_for_is_told_and_ends_nothing(tmp_path, num_frames):
    """Of one frame ffmpeg writes nothing until it is told to end; of many its pipe breaks before."""
    path = tmp_path / "v.mp4"
    path.symlink_to("/dev/full")
    with VideoWriter(path, fps=15) as video:
        for i in range(num_frames):
            video.add(np.full((84, 84), i, np.uint8))
    assert str(path) in video.failure
    assert "\n" not in video.failure
    assert list(tmp_path.iterdir()) == [], "nothing half-written stays"

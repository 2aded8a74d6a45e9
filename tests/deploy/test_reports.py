import json
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from deploy.monitor.metrics import MetricsSink
from deploy.reports.curves import CurveError, dopamine_curves, draw_curves, draw_learning_curve, read_curve
from deploy.reports.statistics import human_normalised, summarise
from deploy.reports.video import VideoWriter


def make_run(folder, game, returns):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"environment": {"game": game, "env": ""}}))
    sink = MetricsSink(folder)
    for i, value in enumerate(returns):
        sink.write({"progress/num_frames": i * 4e5, "episode/return_mean_100": value}, env_steps=i * 10**5)
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


def test_summary_of_equal_returns_has_no_width():
    mean = summarise([5.0] * 3, "pong").mean
    assert (mean.low, mean.value, mean.high) == (5.0, 5.0, 5.0)


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match="no finished episode"):
        summarise([], "pong")


def test_curve_is_read_back_and_drawn(tmp_path):
    run = make_run(tmp_path / "a", "pong", [-21.0, -20.0, -15.0])
    assert read_curve(run) == ([0.0, 0.4, 0.8], [-21.0, -20.0, -15.0])
    picture = imageio.imread(draw_learning_curve(run))
    assert picture.shape[0] > 300
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 20


def test_curves_of_two_games_in_one_picture(tmp_path):
    runs = [make_run(tmp_path / g, g, [0.0, 1.0]) for g in ("pong", "breakout")]
    assert draw_curves(runs, tmp_path / "both.png").stat().st_size > 10_000


def test_a_run_without_episodes_is_one_line(tmp_path):
    with pytest.raises(CurveError, match="no episode has ended"):
        draw_learning_curve(make_run(tmp_path / "a", "pong", []))


def test_published_curves_cover_pong_with_four_agents():
    frames, agents = dopamine_curves("pong")
    assert len(agents) == 4
    assert all(len(curve) == len(frames) for curve in agents.values())
    assert dopamine_curves("catch")[1] == {}


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

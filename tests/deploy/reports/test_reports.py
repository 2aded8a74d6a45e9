"""Scores with their intervals, and videos."""

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest

from actors.rendering import Scene
from deploy.reports.captions import LINE_HEIGHT, caption, fitted
from deploy.reports.statistics import human_normalised, summarise
from deploy.reports.video import VideoWriter


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


def test_a_scene_stands_below_its_step_return_and_checkpoint(tmp_path: Path, monkeypatch) -> None:
    added = []
    monkeypatch.setattr(VideoWriter, "add", lambda _, frame: added.append(frame))
    with VideoWriter(tmp_path / "v.mp4", fps=15) as video:
        video.add_scene(Scene(np.full((210, 160, 3), 90, np.uint8), 1234, -3.0), "pong, update 5,000")
    (frame,) = added
    assert frame.shape == (2 * LINE_HEIGHT + 420, 320, 3)
    assert (frame[:LINE_HEIGHT] == caption("pong, update 5,000", 320)).all()
    assert (frame[LINE_HEIGHT : 2 * LINE_HEIGHT] == caption("step 1,234  return -3", 320)).all()
    assert (frame[2 * LINE_HEIGHT :] == 90).all()


def test_a_caption_fits_and_keeps_both_ends() -> None:
    assert fitted("short", 320) == "short"
    long = fitted("2026-11-29-pong-laptop-seed-1-with-a-name, update 124,377", 320)
    assert len(long) == 312 // 8
    assert long.startswith("2026-11-29-pong")
    assert long.endswith("update 124,377")
    # No text touches the right edge: the character's width is what it is said to be.
    assert (caption("W" * 100, 320)[:, -2:] == caption("", 320)[:, -2:]).all()

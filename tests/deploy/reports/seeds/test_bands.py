"""A run's windows beside published seeds: by hand, on made-up numbers."""

import json
import math
from pathlib import Path

import pytest

from deploy.reports.seeds.band_power import power
from deploy.reports.seeds.bands import compare, compare_window, document, window_of
from deploy.reports.seeds.bands_plot import draw_bands
from deploy.reports.seeds.episodes import (
    CutEpisodes,
    EpisodeRecord,
    RunEpisodes,
    count_cut,
    keep,
    read_episodes,
)
from deploy.reports.seeds.published import PublishedCurve, published_curve
from deploy.run.presets import LAPTOP

W = 250_000
CURVE = PublishedCurve(
    "g", "DQN", "CNN", (0, 1, 2, 4), ((1.0, 2.0, 3.0, 4.0, 5.0), (10.0,) * 5, (20.0,) * 5, (0.0,) * 5)
)


def record(env_steps: int, value: float = 0.0, leg: int = 0) -> EpisodeRecord:
    return EpisodeRecord(env_steps, value, 10, leg)


def run_of(*records: EpisodeRecord, env_steps: int, first: int = 0) -> RunEpisodes:
    return RunEpisodes(list(records), 0, CutEpisodes(0, 8), first, env_steps, ended=True)


@pytest.mark.parametrize(
    ("env_steps", "window"), [(0, 0), (1, 0), (W - 1, 0), (W, 0), (W + 1, 1), (2 * W, 1), (2 * W + 1, 2)]
)
def test_the_last_env_step_of_a_window_is_its_own(env_steps: int, window: int) -> None:
    assert window_of(env_steps) == window


def test_every_window_by_hand() -> None:
    run = run_of(
        record(1_000, 2.0), record(W, 4.0),  # mean 3, error 1
        record(W + 1, 10.0), record(2 * W, 10.0), record(2 * W - 5, 10.0),
        record(2 * W + 1, 30.0), record(2 * W + 2, 30.0),
        env_steps=3 * W,
    )  # fmt: skip
    first, second, third = compare(run, CURVE).rows
    assert (first.episodes, first.compared.mean, first.compared.error) == (2, 3.0, pytest.approx(1.0))
    assert first.compared.interval is not None
    assert first.compared.interval.half_width == pytest.approx(math.hypot(7.9744, 63.657), rel=1e-4)
    assert (second.episodes, second.compared.mean, second.verdict) == (3, 10.0, "inside")
    assert (third.episodes, third.compared.mean, third.verdict) == (2, 30.0, "above")
    assert [row.complete for row in (first, second, third)] == [True] * 3


def test_the_mean_over_all_windows_has_the_seeds_own_spread() -> None:
    curve = PublishedCurve("g", "DQN", "CNN", (0, 1), ((1.0, 2.0, 3.0, 4.0, 5.0), (5.0, 4.0, 3.0, 2.0, 1.0)))
    run = run_of(*[record(W, 3.0)] * 2, *[record(2 * W, 3.5)] * 2, env_steps=2 * W)
    bands = compare(run, curve)
    assert [row.verdict for row in bands.rows] == ["inside", "inside"]
    assert bands.overall is not None
    assert bands.overall.seeds == (3.0,) * 5, "those that are ahead in one window are behind in the other"
    assert (bands.overall.mean, bands.overall.verdict) == (3.25, "above")
    assert bands.overall.interval is not None
    assert bands.overall.interval.half_width == 0.05


def test_its_error_is_that_of_a_mean_of_means() -> None:
    run = run_of(record(1, 0.0), record(2, 2.0), record(W + 1, 10.0), record(W + 2, 14.0), env_steps=2 * W)
    overall = compare(run, CURVE).overall
    assert overall is not None
    assert (overall.mean, overall.error) == (6.5, pytest.approx(math.sqrt(1.0 + 4.0) / 2))
    assert overall.seeds == (5.5, 6.0, 6.5, 7.0, 7.5)
    assert overall.interval is not None
    seeds, own = 5.0436 * math.sqrt(0.625), 9.9248 * overall.error  # t(0.995, 2): one freedom a window
    assert overall.interval.half_width == pytest.approx(math.hypot(seeds, own), rel=1e-4)


def test_a_window_that_is_not_whole_is_not_judged() -> None:
    episodes = [record(W, 3.0)] * 2, [record(W + 9, 99.0)] * 2
    last = compare(run_of(*episodes[0], *episodes[1], env_steps=2 * W - 1), CURVE)
    assert [(row.complete, row.verdict) for row in last.rows] == [(True, "inside"), (False, "")]
    assert last.overall is not None
    assert last.overall.mean == 3.0, "of the first window alone"
    begun_late = compare(run_of(*[record(2 * W, 99.0)] * 2, env_steps=2 * W, first=W + 5), CURVE)
    assert [(row.window, row.verdict) for row in begun_late.rows] == [(1, "")]
    on_time = compare(run_of(*[record(2 * W, 99.0)] * 2, env_steps=2 * W, first=W), CURVE)
    assert [(row.window, row.verdict) for row in on_time.rows] == [(1, "above")]


def test_windows_without_episodes_or_seeds() -> None:
    run = run_of(*[record(1, 3.0)] * 2, *[record(3 * W + 1, 3.0)] * 2, record(5 * W, 7.0), env_steps=5 * W)
    bands = compare(run, CURVE)
    assert [row.episodes for row in bands.rows] == [2, 0, 0, 2, 1]
    assert [row.verdict for row in bands.rows] == ["inside", "", "", "", ""]
    assert bands.overall is None
    told = json.loads(json.dumps(document("r", run, bands), allow_nan=False))
    assert told["windows"][1] == {
        "env_steps": [W, 2 * W], "complete": True, "episodes": 0, "mean": None, "standard_error": None,
        "seeds": [10.0] * 5, "seeds_mean": 10.0, "interval": None, "verdict": "",
    }  # fmt: skip


def test_one_episode_has_no_error_and_gets_no_verdict() -> None:
    alone = compare_window([99.0], (1.0,) * 5)
    assert (alone.mean, alone.interval, alone.verdict) == (99.0, None, "")


def test_what_a_later_leg_went_back_behind_does_not_count() -> None:
    records = [record(900), record(901), record(950, leg=1), record(902, leg=1), record(960, leg=2)]
    assert keep(records, [0]) == records
    assert keep(records, [0, 900, 955]) == [records[0], *records[2:]]
    assert keep(records, [0, 900, 940]) == [records[0], records[3], records[4]]
    assert keep(records, [0, 900, 0]) == [records[4]], "no checkpoint was whole: a new network"
    assert keep(records, []) == records


def test_cut_episodes_are_one_an_env_slot_of_every_actor_that_ever_was() -> None:
    config = LAPTOP  # one actor, 8 environments
    once = {"target_actors": 1, "next_incarnation": {"0": 1}}
    assert count_cut(once, config, legs=1) == CutEpisodes(by_resume=0, by_end=8)
    resumed_and_scaled = {"target_actors": 1, "next_incarnation": {"0": 2, "1": 1}}
    assert count_cut(resumed_and_scaled, config, legs=2) == CutEpisodes(by_resume=16, by_end=8)
    assert count_cut({}, config, legs=3) == CutEpisodes(by_resume=16, by_end=8)


def test_lines_that_are_cut_off_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    whole = json.dumps({"env_steps": 5, "return": 1.5, "length": 3, "leg": 1, "epsilon": None})
    path.write_text(f'{whole}\n{{"env_steps": 6, "ret\n{whole}\n{{"env_steps": 7}}\n{whole[:-20]}')
    assert read_episodes(path) == [EpisodeRecord(5, 1.5, 3, 1)] * 2
    assert read_episodes(tmp_path / "none") == []


def test_power_by_hand() -> None:
    rows = power(CURVE, windows=3)
    assert [row.window for row in rows] == [0, 1, 2]
    alone = [row.alone for row in rows]
    assert [(found.frozen, found.half) for found in alone if found] == [
        ("inside", "inside"),
        ("below", "below"),  # 3 and 6.5 against 10 +- 0.05
        ("below", "below"),  # 3 and 11.5 against 20 +- 0.05
    ]
    second = rows[1].overall
    assert second is not None  # seeds 5.5 to 7.5: 6.5 +- 3.99
    assert (second.interval.mean, second.interval.half_width) == (6.5, pytest.approx(3.9873, rel=1e-4))
    assert (second.frozen, second.half) == ("inside", "inside")
    third = rows[2].overall
    assert third is not None  # seeds 10.33 to 11.67: 11 +- 2.66; 3 and 7 are below
    assert third.interval.half_width == pytest.approx(7.9745 / 3, rel=1e-4)
    assert (third.frozen, third.half) == ("below", "below")
    assert power(CURVE, windows=5)[-1].window == 4


@pytest.mark.parametrize(
    ("game", "agent", "windows", "frozen"),
    [
        ("Boxing", "rainbow", 2, [1]),
        ("Breakout", "dqn", 2, [1]),
        ("Krull", "rainbow", 3, [1, 2]),
        ("Pong", "qr-dqn", 4, [3]),
    ],
)
def test_where_a_frozen_run_is_seen(game: str, agent: str, windows: int, frozen: list[int]) -> None:
    rows = power(published_curve(game, agent), windows)
    assert [row.window for row in rows if row.alone and row.alone.frozen != "inside"] == frozen


def test_the_picture_has_all_of_it(tmp_path: Path) -> None:
    run = run_of(record(1, 3.0), *[record(2 * W, 99.0)] * 2, *[record(2 * W + 1, 5.0)] * 2, env_steps=2 * W)
    path = draw_bands("r", compare(run, CURVE), tmp_path / "bands.png")
    assert path.stat().st_size > 5_000
    nothing = draw_bands("r", compare(run_of(env_steps=0), CURVE), tmp_path / "nothing.png")
    assert nothing.stat().st_size > 1_000

"""The last episodes of all and of each band, kept over a resume."""

import json

import pytest

from actors.episodes import Episode
from deploy.fleet.reporting.recent_episodes import RecentEpisodes
from deploy.monitor.bands import band_of


@pytest.mark.parametrize(
    ("epsilon", "band"),
    [
        (0.0, "greedy"), (1.0 + (0.01 - 1.0), "greedy"), (0.05, "greedy"),
        (0.051, "exploring"), (0.4, "exploring"), (0.5, "exploring"),
        (0.501, "random"), (1.0, "random"),
    ],
)  # fmt: skip
def test_bands_by_epsilon(epsilon: float, band: str) -> None:
    assert band_of(epsilon).name == band


def test_a_bands_mean_is_of_its_own_last_100_episodes() -> None:
    """Those that act greedily are few among many that explore: they are not pushed out."""
    recent = RecentEpisodes()
    for number in range(300):
        recent.add(Episode(float(number), 10, 0, 0.4))
        if number % 3 == 0:
            recent.add(Episode(1000.0 + number, 20, 1, 0.01))
    metrics = recent.metrics()
    assert metrics["episode/return_mean_100_greedy"] == 1000 + sum(range(0, 300, 3)) / 100
    assert metrics["episode/return_mean_100_exploring"] == sum(range(200, 300)) / 100
    assert "episode/return_mean_100_random" not in metrics
    last = [*range(225, 300), *(1000 + n for n in range(225, 300, 3))]
    assert metrics["episode/return_mean_100"] == sum(last) / 100
    assert metrics["episode/length_mean_100"] == 12.5


def test_its_rows_bring_everything_back() -> None:
    recent = RecentEpisodes()
    for number in range(1000):
        recent.add(Episode(float(number), number, number % 8, (0.01, 0.4, 1.0)[number**2 % 7 % 3]))
    rows = json.loads(json.dumps(recent.rows()))
    assert len(rows) <= 400
    again = RecentEpisodes(rows)
    assert again.metrics() == recent.metrics()
    assert again.rows() == rows


def test_without_episodes_there_are_no_means() -> None:
    assert RecentEpisodes().metrics() == {}
    assert RecentEpisodes().rows() == []

import pytest

from actors.episodes import Episode
from actors.telemetry import Telemetry


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_of_the_last_ten_seconds() -> None:
    clock = Clock()
    telemetry = Telemetry(clock)
    for _ in range(60):
        clock.now += 0.5
        telemetry.count(5, [])
    assert telemetry.rates()["speed/actor_steps_per_s"] == pytest.approx(10)
    clock.now += 10
    telemetry.rates()
    clock.now += 1
    assert telemetry.rates()["speed/actor_steps_per_s"] == pytest.approx(0, abs=0.6)
    assert telemetry.env_steps == 300


def test_waiting_counts_while_it_lasts() -> None:
    clock = Clock()
    telemetry = Telemetry(clock)
    clock.now += 2
    with telemetry.waiting():
        clock.now += 6
        assert telemetry.rates()["actors/waiting_share"] == pytest.approx(0.75)
    clock.now += 2
    telemetry.count(1, [])
    assert telemetry.rates()["actors/waiting_share"] == pytest.approx(0.6)


def test_episodes_are_given_once() -> None:
    telemetry = Telemetry(Clock())
    episodes = [Episode(1.0, 6, 0), Episode(-1.0, 6, 1)]
    telemetry.count(2, episodes[:1])
    telemetry.count(2, episodes[1:])
    assert telemetry.take_episodes() == episodes
    assert telemetry.take_episodes() == []

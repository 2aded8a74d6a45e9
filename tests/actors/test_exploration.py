import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.config import ExplorationConfig
from actors.exploration import Epsilons, ladder_epsilons, ladder_position, linear_epsilon

LINEAR = ExplorationConfig(epsilon_start=1.0, epsilon_end=0.01, epsilon_decay_steps=1000)


@pytest.mark.parametrize(
    ("done", "expected"), [(-5000, 1.0), (0, 1.0), (500, 0.505), (1000, 0.01), (10**9, 0.01)]
)
def test_epsilon_falls_linearly_after_the_warm_up(done, expected) -> None:
    assert linear_epsilon(LINEAR, done) == pytest.approx(expected, abs=1e-12)


def test_the_warm_up_is_counted_off() -> None:
    epsilons = Epsilons(LINEAR, slot=3, num_envs=2, warm_up_steps=20_000)
    assert epsilons.at(0).tolist() == [1.0, 1.0]
    assert epsilons.at(20_000).tolist() == [1.0, 1.0]
    assert epsilons.at(20_500) == pytest.approx([0.505, 0.505])
    assert epsilons.at(21_000) == pytest.approx([0.01, 0.01])


def test_the_ladder_starts_at_its_ends() -> None:
    config = ExplorationConfig(kind="ladder")
    assert ladder_epsilons(config, slot=0, num_envs=1) == pytest.approx([0.4])
    assert ladder_epsilons(config, slot=0, num_envs=2) == pytest.approx([0.4, 0.4**8])
    assert [ladder_position(i) for i in range(9)] == [0, 1, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]


@given(st.integers(1, 40), st.integers(1, 16))
def test_scaling_moves_nobody(slots, num_envs) -> None:
    config = ExplorationConfig(kind="ladder")
    fleet = np.concatenate([ladder_epsilons(config, slot=s, num_envs=num_envs) for s in range(slots)])
    assert len(set(fleet.tolist())) == len(fleet)
    larger = np.concatenate([ladder_epsilons(config, slot=s, num_envs=num_envs) for s in range(slots + 1)])
    assert np.array_equal(larger[: len(fleet)], fleet)


@given(st.integers(2, 600))
def test_any_first_positions_are_spread_evenly(count) -> None:
    positions = np.sort([ladder_position(i) for i in range(count)])
    gaps = np.diff(positions)
    assert positions[0] == 0
    assert positions[-1] == 1
    assert gaps.max() <= 2 * gaps.min()


def test_the_ladder_does_not_change_with_time() -> None:
    epsilons = Epsilons(ExplorationConfig(kind="ladder"), slot=1, num_envs=4, warm_up_steps=100)
    assert np.array_equal(epsilons.at(0), epsilons.at(10**7))
    assert np.array_equal(
        epsilons.at(0), ladder_epsilons(ExplorationConfig(kind="ladder"), slot=1, num_envs=4)
    )

"""The sum tree against a brute force, its extremes, and draws in proportion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from replay.items.priority_index import PriorityIndex, _draw

MASSES = st.one_of(st.just(0.0), st.floats(1e-300, 1e300), st.sampled_from([1.0, 1e-10, 0.1, 3e38]))
SETS = st.lists(st.lists(st.tuples(st.integers(0, 10**6), MASSES), min_size=1, max_size=8), max_size=20)


def fill(capacity: int, sets: list[list[tuple[int, float]]]) -> tuple[PriorityIndex, np.ndarray]:
    index, masses = PriorityIndex(capacity), np.zeros(capacity)
    for batch in sets:
        leaves = [leaf % capacity for leaf, _ in batch]
        index.set(leaves, [mass for _, mass in batch])
        for leaf, (_, mass) in zip(leaves, batch, strict=True):
            masses[leaf] = mass
    return index, masses


@settings(max_examples=200, deadline=None)
@given(capacity=st.integers(1, 70), sets=SETS, u=st.lists(st.floats(0, 1, exclude_max=True), max_size=20))
def test_it_agrees_with_plain_arrays(
    capacity: int, sets: list[list[tuple[int, float]]], u: list[float]
) -> None:
    index, masses = fill(capacity, sets)
    assert (index.masses() == masses).all()
    assert (index.mass(np.arange(capacity)) == masses).all()
    assert index.total == pytest.approx(masses.sum(), rel=1e-12)
    assert index.max_mass == max([1.0] + [mass for batch in sets for _, mass in batch])
    if index.total == 0.0:
        with pytest.raises(ValueError, match="no mass"):
            index.draw(u)
    else:
        assert (masses[index.draw([*u, 0.0, np.nextafter(1.0, 0.0)])] > 0.0).all()


@settings(max_examples=100, deadline=None)
@given(capacity=st.integers(1, 70), sets=SETS)
def test_it_is_a_function_of_its_leaves(capacity: int, sets: list[list[tuple[int, float]]]) -> None:
    index, masses = fill(capacity, sets)
    loaded, other = PriorityIndex(capacity), PriorityIndex(capacity)
    loaded.load(masses, index.max_mass)
    order = np.random.default_rng(0).permutation(capacity)
    other.set(order, masses[order])
    assert (loaded._tree == index._tree).all()
    assert (other._tree == index._tree).all()
    assert loaded.max_mass == index.max_mass


@settings(max_examples=200, deadline=None)
@given(data=st.data(), capacity=st.integers(1, 70), sets=SETS)
def test_a_range_is_set_as_its_leaves_are(
    data: st.DataObject, capacity: int, sets: list[list[tuple[int, float]]]
) -> None:
    first = data.draw(st.integers(0, capacity))
    masses = np.array(data.draw(st.lists(MASSES, max_size=capacity - first)), np.float64)
    (one, _), (other, _) = fill(capacity, sets), fill(capacity, sets)
    one.set_range(first, masses)
    other.set(np.arange(first, first + len(masses)), masses)
    assert (one._tree[1:] == other._tree[1:]).all()
    assert one.max_mass == other.max_mass
    for wrong in (-1, capacity - len(masses) + 1):
        with pytest.raises(IndexError):
            one.set_range(wrong, masses)
    for mass in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="masses"):
            one.set_range(0, np.array([mass]))
    assert (one._tree[1:] == other._tree[1:]).all()


@pytest.mark.parametrize("capacity", [1, 2, 3, 37, 64])
def test_each_leaf_owns_its_share_of_the_interval(capacity: int) -> None:
    """Integer masses make every sum exact: an even sweep of u meets each leaf exactly as often as that."""
    masses = np.random.default_rng(capacity).integers(0, 9, capacity).astype(np.float64)
    masses[capacity // 2] = 5.0
    index = PriorityIndex(capacity)
    index.set(np.arange(capacity), masses)
    total = int(masses.sum())
    leaves = index.draw((np.arange(total) + 0.5) / total)
    assert (np.bincount(leaves, minlength=capacity) == masses).all()


def test_draws_are_proportional() -> None:
    generator = np.random.default_rng(5)
    masses = generator.gamma(0.5, size=300)
    index = PriorityIndex(300)
    index.set(np.arange(300), np.ones(300))
    index.set(generator.permutation(300), np.zeros(300))
    index.set(np.arange(300), masses)
    counts = np.bincount(index.draw(generator.random(200_000)), minlength=300)
    assert chisquare(counts, masses / masses.sum() * counts.sum()).pvalue > 1e-3


def test_rounding_never_lands_on_a_leaf_without_mass() -> None:
    """Sums that round (1e17 + 1) may leave points past the last leaf with mass."""
    generator = np.random.default_rng(1)
    for _ in range(200):
        masses = 10.0 ** generator.uniform(-20, 20, 33) * (generator.random(33) < 0.4)
        masses[0] = 1.0
        index = PriorityIndex(33)
        index.set(np.arange(33), masses)
        u = np.concatenate([generator.random(200), 1.0 - 2.0 ** -np.arange(1.0, 54.0)])
        assert (masses[index.draw(u)] > 0.0).all()


def test_a_point_beyond_the_mass_lands_on_the_last_leaf_that_has_some() -> None:
    """What the kernel would do if rounding ever made a point as large as a node's mass."""
    for masses in ([1.0, 2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [5.0, 0.0, 0.0, 0.0, 0.0]):
        index, leaves = PriorityIndex(len(masses)), np.empty(1, np.int64)
        index.set(np.arange(len(masses)), masses)
        _draw(index._tree, index.capacity, np.array([1.0 + 1e-9]), leaves)
        assert masses[leaves[0]] > 0.0


def test_of_a_leaf_set_twice_the_last_counts() -> None:
    index = PriorityIndex(4)
    index.set([2, 1, 2], [9.0, 1.0, 3.0])
    assert index.masses().tolist() == [0.0, 1.0, 3.0, 0.0]
    assert index.total == 4.0


@pytest.mark.parametrize("mass", [-1.0, np.nan, np.inf, -0.5e-300])
def test_bad_masses_are_refused_whole(mass: float) -> None:
    index = PriorityIndex(4)
    with pytest.raises(ValueError, match="finite and not negative"):
        index.set([0, 1], [1.0, mass])
    assert index.total == 0.0


def test_leaves_and_points_outside_are_refused() -> None:
    index = PriorityIndex(4)
    for leaf in (-1, 4):
        with pytest.raises(IndexError):
            index.set([leaf], [1.0])
        with pytest.raises(IndexError):
            index.mass([leaf])
    index.set([0], [1.0])
    for point in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="points"):
            index.draw([point])
    with pytest.raises(ValueError, match="at least one leaf"):
        PriorityIndex(0)
    with pytest.raises(ValueError, match="masses"):
        index.load(np.ones(3), 1.0)

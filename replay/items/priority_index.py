"""The priority index: a sum tree of float64 masses, from which leaves are drawn in proportion to mass."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replay.segments.compiled import njit

MANY = 8
"""If at least one leaf in this many changes, rebuilding all sums costs less than a path for each leaf."""


@njit("void(f8[::1], i8, i8[::1], f8[::1])", nogil=True, cache=True)
def _set(
    tree: NDArray[np.float64], capacity: int, leaves: NDArray[np.int64], masses: NDArray[np.float64]
) -> None:
    for i in range(leaves.size):
        tree[leaves[i] + capacity] = masses[i]
    # All leaves go up together: their cache misses overlap, which is worth a factor of four. The
    # last visit to a node comes after both its children are final, so it ends as the sum of their
    # final values.
    level = 1
    while (2 * capacity - 1) >> level > 0:
        for i in range(leaves.size):
            node = (leaves[i] + capacity) >> level
            if node > 0:
                # Recomputed, never adjusted by a difference, so that rounding errors cannot accumulate.
                tree[node] = tree[2 * node] + tree[2 * node + 1]
        level += 1


@njit("void(f8[::1], i8, i8, f8[::1])", nogil=True, cache=True)
def _set_range(tree: NDArray[np.float64], capacity: int, first: int, masses: NDArray[np.float64]) -> None:
    low, high = first + capacity, first + capacity + masses.size - 1
    tree[low : high + 1] = masses
    while high > 1:  # leaves may be on two levels, in which case the lower end reaches the root first
        low, high = max(low >> 1, 1), high >> 1
        for node in range(low, high + 1):
            tree[node] = tree[2 * node] + tree[2 * node + 1]


@njit("void(f8[::1], i8)", nogil=True, cache=True)
def _build(tree: NDArray[np.float64], capacity: int) -> None:
    for node in range(capacity - 1, 0, -1):
        tree[node] = tree[2 * node] + tree[2 * node + 1]


@njit("void(f8[::1], i8, f8[::1], i8[::1])", nogil=True, cache=True)
def _draw(
    tree: NDArray[np.float64], capacity: int, u: NDArray[np.float64], leaves: NDArray[np.int64]
) -> None:
    targets = u * tree[1]
    leaves[:] = 1
    # All draws go down together for the same reason, and without branches, which would be unpredictable.
    above = True
    while above:
        above = False
        for i in range(u.size):
            node = leaves[i]
            if node < capacity:
                node *= 2
                left = tree[node]
                # Even if rounding puts a target at the node's whole mass, never take a side without mass.
                right = (targets[i] >= left) & (tree[node + 1] > 0.0)
                targets[i] -= left if right else 0.0
                leaves[i] = node + right
                above = True
    for i in range(u.size):
        leaves[i] -= capacity


def finite_and_not_negative(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which priorities or masses (N,) can be used."""
    usable: NDArray[np.bool_] = np.isfinite(values) & (values >= 0)
    return usable


class PriorityIndex:
    """Masses of `capacity` leaves, and draws in proportion to them.

    A sum tree (Schaul et al., 2016, appendix B.2.1). Every inner node is exactly the float64 sum of
    its two children, so the tree is a function of its leaves: the same masses give the same draws,
    in whatever order they were set. Setting or drawing a leaf costs O(log capacity) and does not
    hold the GIL.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a priority index needs at least one leaf, not {capacity}")
        self.capacity = capacity
        self.max_mass = 1.0
        """Largest mass ever set, at least 1: the mass of a new item without a priority of its own."""
        # Leaf i is node capacity + i; the children of node j are 2j and 2j + 1. No power of two is needed.
        self._tree = np.zeros(2 * capacity, np.float64)

    @property
    def total(self) -> float:
        """Sum of all masses."""
        return float(self._tree[1])

    def mass(self, leaves: ArrayLike) -> NDArray[np.float64]:
        """Return the masses (B,) of leaves (B,)."""
        return self._tree[self._checked(leaves) + self.capacity]

    def set(self, leaves: ArrayLike, masses: ArrayLike) -> None:
        """Set leaves (B,) to masses (B,); for a leaf that occurs twice, the last mass counts.

        Raises ValueError for a mass that is negative or not finite, IndexError for a leaf outside
        the index; either way nothing is set.
        """
        places = self._checked(leaves)
        values = np.empty(places.shape, np.float64)
        values[:] = masses
        if not places.size:
            return
        largest = float(values.max())
        if not (values.min() >= 0.0 and largest < np.inf):  # both are NaN if a mass is, and compare as false
            raise ValueError("masses must be finite and not negative")
        if places.size * MANY < self.capacity:
            _set(self._tree, self.capacity, places, values)
        else:
            self._tree[places + self.capacity] = values
            _build(self._tree, self.capacity)
        self.max_mass = max(self.max_mass, largest)

    def set_range(self, first: int, masses: NDArray[np.float64]) -> None:
        """Do what `set` does for the leaves from `first` on, as many as there are masses (B,) float64."""
        if not 0 <= first <= first + len(masses) <= self.capacity:
            raise IndexError(f"leaves must be in [0, {self.capacity})")
        if not len(masses):
            return
        largest = float(masses.max())
        if not (masses.min() >= 0.0 and largest < np.inf):
            raise ValueError("masses must be finite and not negative")
        _set_range(self._tree, self.capacity, first, masses)
        self.max_mass = max(self.max_mass, largest)

    def note_mass(self, masses: NDArray[np.float64]) -> None:
        """Count these masses among those ever set, which `max_mass` is the largest of."""
        if masses.size:
            self.max_mass = max(self.max_mass, float(masses.max()))

    def draw(self, u: ArrayLike) -> NDArray[np.int64]:
        """Return leaves (B,) int64 at the points u (B,) float64 in [0, 1) of the total mass, all with mass.

        Raises ValueError if the index has no mass, or for points outside [0, 1).
        """
        points = np.array(u, np.float64)
        if self.total <= 0.0:
            raise ValueError("the priority index has no mass to draw from")
        if points.size and not (points.min() >= 0.0 and points.max() < 1.0):
            raise ValueError("points of a draw must be in [0, 1)")
        leaves = np.empty(points.size, np.int64)
        _draw(self._tree, self.capacity, points, leaves)
        return leaves

    def masses(self) -> NDArray[np.float64]:
        """Return a read-only view (capacity,) of all masses."""
        view = self._tree[self.capacity :].view()
        view.flags.writeable = False
        return view

    def load(self, masses: NDArray[np.float64], max_mass: float) -> None:
        """Load all masses (capacity,) and the largest so far, as a checkpoint holds them."""
        if masses.shape != (self.capacity,) or not finite_and_not_negative(masses).all():
            raise ValueError(f"expected {self.capacity} finite masses that are not negative")
        self._tree[self.capacity :] = masses
        _build(self._tree, self.capacity)
        self.max_mass = max_mass

    def _checked(self, leaves: ArrayLike) -> NDArray[np.int64]:
        """Copy leaves to an int64 array and check their bounds, since the compiled loops check none."""
        places = np.array(leaves, np.int64)
        if places.size and (int(places.min()) < 0 or int(places.max()) >= self.capacity):
            raise IndexError(f"leaves must be in [0, {self.capacity})")
        return places

"""Prioritized or uniform sampling: masses of items, draws in proportion to them, and importance weights."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replay.config import ReplayConfig
from replay.errors import NotEnoughData
from replay.items.counters import Counters
from replay.items.priority_index import finite_and_not_negative
from replay.items.table import ItemTable
from replay.types import Segment

PRIORITY_EPSILON = 1e-10
"""Added to a raw priority, so that no item ever has probability 0."""
BELOW_ONE = float(np.nextafter(1.0, 0.0))


class Priorities:
    """The distribution over the table's items (Schaul et al., 2016; uniform sampling is all masses 1).

    A raw priority p (a loss or the magnitude of a TD error) becomes the mass (p + 1e-10) **
    priority_exponent here and nowhere else. Priorities that are NaN, infinite or negative are
    refused and counted.
    """

    def __init__(
        self, config: ReplayConfig, table: ItemTable, counters: Counters, seed: int | Sequence[int]
    ) -> None:
        self._config = config
        self._table = table
        self._counters = counters
        self.random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))

    def first_masses(self, segment: Segment) -> NDArray[np.float64]:
        """Return masses (num_items,) of new items: from the actor's priorities, else the largest so far."""
        masses = np.full(segment.num_items, self._table.index.max_mass)
        if segment.priorities is None or not self._config.prioritized:
            return masses
        raw = segment.priorities.astype(np.float64)
        usable = finite_and_not_negative(raw)
        self._counters.refused_priorities += int((~usable).sum())
        # An item whose priority is refused enters with the largest mass, as without a priority.
        masses[usable] = self._mass(raw[usable])
        return masses

    def update(self, leaf: ArrayLike, generation: ArrayLike, priorities: ArrayLike) -> None:
        """Set new priorities, as described in `Sampler.update_priorities`."""
        if not self._config.prioritized:
            return
        leaves, generations = np.asarray(leaf, np.int64), np.asarray(generation, np.int64)
        raw = np.asarray(priorities, np.float64)
        held = self._table.items_held(leaves, generations)
        usable = finite_and_not_negative(raw)
        self._counters.stale_updates += int((~held).sum())
        self._counters.refused_priorities += int((~usable & held).sum())
        good = held & usable
        self._table.set_masses(leaves[good], self._mass(raw[good]))

    def draw(self, strata: NDArray[np.int64], num_strata: int) -> NDArray[np.int64]:
        """Draw one leaf from each of these strata (of `num_strata` equal parts of the total mass).

        Raises NotEnoughData if there is no item at all.
        """
        if self._table.size == 0:
            raise NotEnoughData("every segment that could be drawn is gone")
        points = (strata + self.random.random(len(strata))) / num_strata
        # Rounding may give a point of 1.0, which the index refuses.
        return self._table.index.draw(np.minimum(points, BELOW_ONE))

    def chances(self, leaves: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return probabilities (B,) and importance weights (B,): (N * P) ** -exponent over the largest."""
        index = self._table.index
        probability = index.mass(leaves) / index.total
        if not self._config.prioritized:
            return probability, np.ones(len(leaves), np.float32)
        weight = (self._table.size * probability) ** -self._config.importance_exponent
        return probability, (weight / weight.max()).astype(np.float32)

    def level(self) -> None:
        """Make the distribution of a restored table uniform, if the run is now uniform."""
        if not self._config.prioritized:
            leaves = self._table.item_leaves(self._table.in_order())
            self._table.set_masses(leaves, np.ones(len(leaves)))
            self._table.index.max_mass = 1.0

    def _mass(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        masses: NDArray[np.float64] = (raw + PRIORITY_EPSILON) ** self._config.priority_exponent
        return masses

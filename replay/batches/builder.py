"""Build batches: draw leaves in proportion to their masses and gather all parts of their transitions."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from replay.batches.observations import FrameReader, Observations, Places, SegmentsGone
from replay.config import ReplayConfig
from replay.items.priorities import Priorities
from replay.items.table import ItemTable
from replay.segments.returns import Returns, n_step_returns
from replay.types import Batch


class BatchBuilder:
    """Draws batches from a table; `forget` is called with what cannot be read, and must remove it."""

    def __init__(
        self,
        config: ReplayConfig,
        table: ItemTable,
        priorities: Priorities,
        frames: FrameReader,
        forget: Callable[[SegmentsGone], None],
    ) -> None:
        self._table, self._priorities = table, priorities
        self._rule = config.return_rule
        self._frames, self._forget = frames, forget

    def draw(self, batch_size: int) -> Batch:
        """Draw one item from each of B equal strata of the total mass (Schaul et al., 2016).

        Raises NotEnoughData if every item turned out to be gone.
        """
        strata = np.arange(batch_size)
        leaves = self._priorities.draw(strata, batch_size)
        # The loop ends: each round removes segments or parks a shard, and no items are an error.
        while True:
            returns, places = self._windows(leaves)
            try:
                observations = self._frames.read(places)
                break
            except SegmentsGone as gone:
                self._forget(gone)
                # Only these strata are drawn again; the segments removed have no mass any more.
                lost = self._table.index.mass(leaves) == 0.0
                leaves[lost] = self._priorities.draw(strata[lost], batch_size)
        return self._batch(leaves, places.slots, returns, observations)

    def _windows(self, leaves: NDArray[np.int64]) -> tuple[Returns, Places]:
        """Return the returns of items and where their observations lie."""
        table = self._table
        slots = table.leaf_slots[leaves].astype(np.int64)
        rows = table.slots[slots]
        returns = n_step_returns(
            table.columns.rewards,
            table.columns.terminated,
            table.columns.truncated,
            table.columns.life_lost,
            leaves,
            rows["first_leaf"] + rows["num_steps"],
            self._rule,
        )
        return returns, Places(slots, rows["lead"] + leaves - rows["first_leaf"], returns.steps)

    def _batch(
        self,
        leaves: NDArray[np.int64],
        slots: NDArray[np.int64],
        returns: Returns,
        observations: Observations,
    ) -> Batch:
        table = self._table
        # Computed last: segments that were dropped while drawing have changed the total mass.
        probability, importance_weight = self._priorities.chances(leaves)
        return Batch(
            observation=observations.observation,
            action=table.columns.actions[leaves].astype(np.int64),
            reward=returns.reward,
            discount=returns.discount,
            next_observation=observations.next_observation,
            probability=probability,
            importance_weight=importance_weight,
            leaf=leaves,
            generation=table.slots["generation"][slots],
            weights_version=table.slots["weights_version"][slots],
        )

"""Draw a few transitions from what a run's shards hold, without a sampler: only their segments are read.

For inspecting a replay of any size; for training use a sampler, which reads everything once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replay.config import ReplayConfig
from replay.errors import SegmentError
from replay.items.priority_index import PriorityIndex, finite_and_not_negative
from replay.segments.codec import decode
from replay.segments.returns import ZERO_FRAME_POSITION, n_step_returns, stack_positions
from replay.tools.inventory import Inventory
from replay.tools.stored_shard import StoredShard
from replay.types import Segment, SegmentIdentity


@dataclass(frozen=True)
class DrawnTransition:
    """One transition, and where it comes from."""

    identity: SegmentIdentity
    step: int
    """Steps of its episode before it."""
    observation: NDArray[np.uint8]
    """(stack, *frame_shape): its frames."""
    next_observation: NDArray[np.uint8]
    """(stack, *frame_shape): its frames."""
    action: int
    reward: float
    """The n-step return."""
    discount: float
    steps: int
    """Length of its window."""
    mass: float
    """In proportion to which it is drawn."""
    probability: float
    weights_version: int


def item_masses(
    inventory: Inventory, known: Mapping[SegmentIdentity, NDArray[np.float64]], newest: float = 1.0
) -> NDArray[np.float64]:
    """Return masses (items,) in the inventory's order: those known from a checkpoint, else `newest`."""
    # `np.concatenate` needs at least one part.
    parts = [np.empty(0)]
    for identity, count in zip(inventory.identities(), inventory.segments["num_items"].tolist(), strict=True):
        own = known.get(identity)
        parts.append(np.full(count, newest) if own is None or len(own) != count else own)
    masses = np.concatenate(parts)
    # A damaged checkpoint may hold masses that the index would refuse.
    return np.where(finite_and_not_negative(masses), masses, 0.0)


def draw_transitions(
    shards: Sequence[StoredShard],
    inventory: Inventory,
    masses: NDArray[np.float64],
    config: ReplayConfig,
    *,
    run: str,
    stack: int,
    count: int,
    seed: int,
) -> list[DrawnTransition]:
    """Draw `count` transitions, one from each of as many equal strata of the masses (items,).

    Transitions whose segment was evicted meanwhile, or cannot be decoded, are left out. Raises
    ValueError if there is nothing to draw.
    """
    if not masses.sum() > 0:
        raise ValueError("there are no items to draw")
    index = PriorityIndex(len(masses))
    index.set(np.arange(len(masses)), masses)
    random = np.random.default_rng(seed)
    # Scaled to stay below 1 after rounding, as the index requires.
    items = index.draw((np.arange(count) + random.random(count)) / count * (1 - 1e-12))
    starts = np.cumsum([0, *inventory.segments["num_items"].tolist()])
    rows = np.searchsorted(starts, items, side="right") - 1
    identities = inventory.identities()
    drawn = []
    for row, item in zip(rows.tolist(), items.tolist(), strict=True):
        shard, identity = shards[int(inventory.segments["shard"][row])], identities[row]
        segment = _read(shard, identity, run)
        if segment is not None:
            mass = float(masses[item])
            place = int(item - starts[row])
            drawn.append(_transition(segment, place, config, stack, mass, mass / index.total))
    return drawn


def _read(shard: StoredShard, identity: SegmentIdentity, run: str) -> Segment | None:
    encoded = shard.fetch([identity])[0]
    try:
        return None if encoded is None else decode(encoded, run=run, signature=None)
    except SegmentError:
        return None


def _transition(
    segment: Segment, place: int, config: ReplayConfig, stack: int, mass: float, probability: float
) -> DrawnTransition:
    returns = n_step_returns(
        segment.rewards,
        segment.terminated,
        segment.truncated,
        segment.life_lost,
        np.array([place]),
        np.array([segment.num_steps]),
        config.return_rule,
    )
    newest = np.array([segment.lead + place])
    steps = int(returns.steps[0])
    return DrawnTransition(
        identity=segment.identity,
        step=segment.first_step + place,
        observation=_stacked(segment, newest, stack),
        next_observation=_stacked(segment, newest + steps, stack),
        action=int(segment.actions[place]),
        reward=float(returns.reward[0]),
        discount=float(returns.discount[0]),
        steps=steps,
        mass=mass,
        probability=probability,
        weights_version=segment.weights_version,
    )


def _stacked(segment: Segment, newest: NDArray[np.int64], stack: int) -> NDArray[np.uint8]:
    """Return the frames (stack, *shape) of the observation that ends at a position in the segment."""
    positions = stack_positions(newest, stack)[0]
    # A copy, because it is indexed by an array: zeros may be written into it.
    frames: NDArray[np.uint8] = segment.frames[np.maximum(positions, 0)]
    frames[positions == ZERO_FRAME_POSITION] = 0
    return frames

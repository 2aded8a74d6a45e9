"""The data that replay moves: identities, signatures, segments and batches."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

FrameShape = tuple[int, ...]
"""(H, W) of a frame with one plane, or (C, H, W) of a frame with C planes (decision 0035)."""


def stacked_shape(frame_shape: FrameShape, stack: int) -> tuple[int, int, int]:
    """Return (K, H, W) of an observation: the planes of `stack` frames, oldest frame first."""
    *channels, height, width = frame_shape
    return stack * math.prod(channels), height, width


class SegmentIdentity(NamedTuple):
    """Names one segment permanently: an actor slot, its incarnation, and the place in that sequence."""

    actor: int
    incarnation: int
    seq: int

    def __str__(self) -> str:
        return f"{self.actor}.{self.incarnation}.{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse what `str` returns; raises ValueError on anything else."""
        actor, incarnation, seq = text.split(".")
        identity = cls.of(actor, incarnation, seq)
        # Two spellings of one identity would be two segments.
        if min(identity) < 0 or str(identity) != text:
            raise ValueError(f"not the identity of a segment: {text[:80]!r}")
        return identity

    @classmethod
    def of(cls, actor: int | str, incarnation: int | str, seq: int | str) -> Self:
        """Return the identity of these numbers, as numpy, JSON or text have them; raises ValueError."""
        return cls(int(actor), int(incarnation), int(seq))

    @classmethod
    def of_row(cls, row: Any) -> Self:
        """Return the identity in a row of a structured array with fields of these names."""
        return cls.of(*(row[name] for name in cls._fields))

    @classmethod
    def of_rows(cls, columns: Any) -> list[Self]:
        """Return the identities in columns (B,) of these names, of a structured array or a mapping."""
        return list(map(cls, *(columns[name].tolist() for name in cls._fields)))


@dataclass(frozen=True)
class Signature:
    """Properties that data and its readers must agree on.

    A reader may ask for a smaller `stack` or `n_step` than the data has, never for a larger one.
    """

    frame_shape: FrameShape
    stack: int
    n_step: int
    num_actions: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return math.prod(self.frame_shape)

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """(K, H, W), see `stacked_shape`."""
        return stacked_shape(self.frame_shape, self.stack)

    @classmethod
    def of_document(cls, document: Any) -> Self:
        """Return the signature of what `dataclasses.asdict` made of one, as JSON stores it.

        Raises ValueError, TypeError, KeyError or OverflowError on anything else.
        """
        shape = tuple(int(side) for side in document["frame_shape"])
        if not is_frame_shape(shape):
            raise ValueError(f"not the shape of a frame: {shape}")
        return cls(shape, *(int(document[name]) for name in ("stack", "n_step", "num_actions")))


def is_frame_shape(shape: FrameShape) -> bool:
    """Whether frames may have this shape: two or three sides, each 1 or more."""
    return len(shape) in (2, 3) and min(shape) > 0


@dataclass(frozen=True)
class Segment:
    """Consecutive env steps of one environment slot within one episode, with all that its items need.

    Item i (0 <= i < num_items) starts at column i; its newest frame is `frames[lead + i]`. Columns
    past `num_items` are the up to `n_step - 1` further steps that the last items' returns need, so
    `num_items <= num_steps <= num_items + n_step - 1`. A segment closed by an episode's end or by a
    drain has `num_steps == num_items`: its last items have shorter windows. Frames before
    `frames[0]` are zeros if `lead < stack - 1` (the episode's beginning).
    """

    identity: SegmentIdentity
    env_slot: int
    first_step: int
    """Steps of the episode before column 0."""
    num_items: int
    lead: int
    """Real frames before the first item's newest frame: min(stack - 1, first_step)."""
    frames: NDArray[np.uint8]
    """(lead + num_steps + 1, *frame_shape): the last is the newest frame after the last column's step."""
    actions: NDArray[np.int32]
    """(num_steps,)"""
    rewards: NDArray[np.float32]
    """(num_steps,), raw."""
    terminated: NDArray[np.bool_]
    """(num_steps,): a true end after this step; only the last column can be set."""
    truncated: NDArray[np.bool_]
    """(num_steps,): a time limit after this step; only the last column can be set."""
    life_lost: NDArray[np.bool_]
    """(num_steps,)"""
    priorities: NDArray[np.float32] | None = None
    """(num_items,) raw initial priorities from the actor, or None."""
    weights_version: int = 0

    @property
    def num_steps(self) -> int:
        """Number of columns stored."""
        return len(self.actions)


@dataclass(frozen=True)
class Batch:
    """A sampled set of B transitions and how they were drawn.

    `reward` is the n-step return and `discount` the factor on the bootstrap (0 after a true end).
    """

    observation: NDArray[np.uint8]
    """(B, K, H, W): K planes, those of all frames of the stack, oldest frame first."""
    action: NDArray[np.int64]
    """(B,)"""
    reward: NDArray[np.float32]
    """(B,)"""
    discount: NDArray[np.float32]
    """(B,)"""
    next_observation: NDArray[np.uint8]
    """(B, K, H, W)"""
    probability: NDArray[np.float64]
    """(B,) probability of being drawn, over all shards."""
    importance_weight: NDArray[np.float32]
    """(B,)"""
    leaf: NDArray[np.int64]
    """(B,) leaves in the priority index."""
    generation: NDArray[np.int64]
    """(B,) generations of these leaves: an update for another generation is dropped."""
    weights_version: NDArray[np.int64]
    """(B,) version of the weights that acted when the item's segment began."""

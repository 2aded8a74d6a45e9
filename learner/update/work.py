"""The data of one update on its way through the train step: batch, shares, noise, results."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.values.noisy import Noise
from replay.types import Batch


@dataclass(frozen=True)
class UpdateResult:
    """Results of one update, from before the weights moved."""

    priorities: NDArray[np.float32]
    """(B,) raw priorities, see `learner.update.priorities`; not weighted."""
    loss: float
    """Mean of importance weight times loss, plus the experts' balancing losses."""
    q_mean: float
    """Mean of the online network's values over batch and actions."""
    grad_norm: float
    """L2 norm of the whole gradient, before it is clipped."""

    @classmethod
    def unpack(cls, packed: NDArray[np.float32]) -> Self:
        """Return the result in `packed` (B + 4,): priorities, loss, mean value, norm, whether it was spared.

        The last is 1 where loss or norm are not finite, and then no weight was changed.
        """
        loss, q_mean, grad_norm = packed[-4:-1].tolist()
        return cls(packed[:-4], loss, q_mean, grad_norm)


class Launched(Protocol):
    """An update that was begun."""

    @property
    def is_under_way(self) -> bool:
        """Whether a GPU computes it while the host goes on; else it is over."""

    def take(self) -> UpdateResult:
        """Return its result, once it is there; to be called once."""


@dataclass(frozen=True)
class Finished:
    """An update that was over when the call that began it returned."""

    result: UpdateResult
    is_under_way = False

    def take(self) -> UpdateResult:
        """Return its result."""
        return self.result


class TensorBatch(NamedTuple):
    """The part of a `Batch` that the update reads, on its device; observations uint8, the rest (B,)."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_observation: Tensor
    importance_weight: Tensor


class NextValues(NamedTuple):
    """The target network's word on the next observations of some rows."""

    image: Tensor
    """The next observations as the networks take them, for the online network as well."""
    q_values: Tensor
    logits: Tensor | None
    quantiles: Tensor | None
    noise: Noise | None
    """With which it was said."""


@dataclass
class SplitBatch:
    """A batch on its device, in the shares that members of the team work on."""

    batch: Batch
    shares: list[TensorBatch]
    target_noise: Noise | None
    """For the target network's pass over all rows."""
    noise_before: Tensor
    """State of the target noise's generator before that was drawn."""
    next_values: dict[int, NextValues] = field(default_factory=dict)
    """By share, as far as it was computed ahead."""

    def rows(self, share: int) -> slice:
        """Where in the batch a share is."""
        # `chunk` makes all shares but the last equally long.
        first = share * len(self.shares[0].action)
        return slice(first, first + len(self.shares[share].action))


class SharePart(NamedTuple):
    """Outputs of one member of the team for the B rows of its share."""

    priorities: Tensor
    """(B,)"""
    weighted: Tensor
    """(B,) losses times importance weights, plus the experts' balancing losses: what the update minimises."""
    q_values: Tensor
    """(B, A)"""


class UpdateNoise(NamedTuple):
    """The noise of an update's three forward passes; None is noise off."""

    online: Noise | None = None
    """Of the online network on the observations: the pass that learns."""
    chooser: Noise | None = None
    """Of the online network on the next observations: it chooses the next action."""
    target: Noise | None = None
    """Of the target network on the next observations: it values the action, where not done yet."""

    def rows(self, part: slice) -> "UpdateNoise":
        """The noise for a part of the batch's rows."""
        return UpdateNoise(*(noise and noise.rows(part) for noise in self))


NO_NOISE = UpdateNoise()

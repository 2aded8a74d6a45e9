"""Interface of every environment to the rest of the code, whatever is behind it.

An environment resets itself on the step after an end (Gymnasium's NEXT_STEP). That step answers with the new
episode's first frame and is no transition: `StepResult.valid` is False for it. So the true last frame of an
episode is always seen, with its end, on the step before.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from apexpert.errors import ApexpertError
from replay.types import FrameShape, stacked_shape

ON = np.uint8(255)
"""Where a plane of zeros and ones has a one: the network divides by 255."""


class EnvironmentSetupError(ApexpertError):
    """An environment cannot be made or does not fit; the message is one line that names the flag."""


class EnvironmentFailed(ApexpertError):
    """A user's own environment raised while it was played; the message is one line with file and line."""


@dataclass(frozen=True)
class StepResult:
    """Answers of E environments to one action each."""

    frames: NDArray[np.uint8]
    """(E, *frame_shape), which is (H, W), or (C, H, W) of C planes: newest single frame; the true last one of
    an episode that just ended."""
    rewards: NDArray[np.float32]
    """(E,) raw."""
    terminated: NDArray[np.bool_]
    """(E,) a true end."""
    truncated: NDArray[np.bool_]
    """(E,) a time limit, never together with a true end."""
    life_lost: NDArray[np.bool_]
    """(E,) a life was lost in this step; the game may go on."""
    valid: NDArray[np.bool_]
    """(E,) False: the reset after an end, no transition; `frames` has the new episode's first frame."""


class EnvironmentSpec(NamedTuple):
    """Facts about an environment that the network and the replay need."""

    frame_shape: FrameShape
    num_actions: int

    def observation_shape(self, stack: int) -> tuple[int, int, int]:
        """(K, H, W) of `stack` frames."""
        return stacked_shape(self.frame_shape, stack)


class VectorEnvironment(Protocol):
    """E environments stepped as one, each resetting itself on the step after its episode's end."""

    num_envs: int
    num_actions: int
    frame_shape: FrameShape

    def reset(self) -> NDArray[np.uint8]:
        """Start all episodes with the seeds given at construction; (E, *frame_shape) first frames."""

    def step(self, actions: NDArray[np.int64]) -> StepResult:
        """Apply (E,) actions; those of environments that are about to reset are ignored."""

    def close(self) -> None:
        """Free what the environments hold."""

"""The slow, obvious way from a recorded stream of env steps to its transitions; knows nothing of segments."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RecordedStep:
    """One env step of one environment slot, as it happened."""

    frame: NDArray[np.uint8]
    """(H, W): the newest frame when the action was chosen."""
    action: int
    reward: float
    terminated: bool
    truncated: bool
    life_lost: bool
    next_frame: NDArray[np.uint8]
    """(H, W): the newest frame after the step."""
    drained_after: bool = False
    """The builder was drained (or reset mid-episode) after this step: no window goes on past it."""
    reset_after: bool = False
    """The next step begins an episode although this one did not end."""


@dataclass(frozen=True)
class BruteForceItem:
    """A transition, as design and contract define it, and where it came from."""

    episode: int
    """Episode's number in the stream, from 0."""
    step: int
    """Steps of that episode before it."""
    num_window_steps: int
    observation: NDArray[np.uint8]
    """(stack, H, W)"""
    action: int
    reward: np.float32
    discount: np.float32
    next_observation: NDArray[np.uint8]
    """(stack, H, W)"""


def brute_force_items(
    stream: Sequence[RecordedStep],
    *,
    stack: int,
    n_step: int,
    gamma: float,
    reward_clip: float,
    life_loss_terminates: bool,
) -> list[BruteForceItem]:
    """All transitions of one slot's stream, in the order of their steps.

    The stream's last step is taken as drained: nothing is known of what comes after it.
    """
    items = []
    for number, episode in enumerate(split_episodes(stream)):
        frames = [episode[0].frame, *(step.next_frame for step in episode)]
        for start in range(len(episode)):
            total, power, length, bootstrap = 0.0, 1.0, 0, True
            for step in episode[start:]:
                reward = float(np.float32(step.reward))
                if reward_clip > 0:
                    reward = min(max(reward, -reward_clip), reward_clip)
                total += power * reward
                power *= gamma
                length += 1
                if step.terminated or (step.life_lost and life_loss_terminates):
                    bootstrap = False
                    break
                if step.truncated or step.drained_after or length == n_step:
                    break
            items.append(
                BruteForceItem(
                    episode=number,
                    step=start,
                    num_window_steps=length,
                    observation=_stacked(frames, start, stack),
                    action=episode[start].action,
                    reward=np.float32(total),
                    discount=np.float32(power if bootstrap else 0.0),
                    next_observation=_stacked(frames, start + length, stack),
                )
            )
    return items


def split_episodes(stream: Sequence[RecordedStep]) -> list[list[RecordedStep]]:
    """The stream cut after every end and every reset."""
    episodes: list[list[RecordedStep]] = [[]]
    for step in stream:
        episodes[-1].append(step)
        if step.terminated or step.truncated or step.reset_after:
            episodes.append([])
    return [episode for episode in episodes if episode]


def _stacked(frames: list[NDArray[np.uint8]], newest: int, stack: int) -> NDArray[np.uint8]:
    zero = np.zeros_like(frames[0])
    return np.stack([frames[i] if i >= 0 else zero for i in range(newest - stack + 1, newest + 1)])

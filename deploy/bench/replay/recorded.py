"""Games recorded in the production environments, their segments, and the items they must give."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.config import EnvironmentConfig
from actors.environments import VectorEnvironment, environment_seeds, make_environment
from replay.config import ReplayConfig
from replay.segments.builder import SegmentBuilder
from replay.types import Segment, Signature

GAMES = ("ms_pacman", "seaquest", "breakout", "pong")
NUM_ENVS = 8
NUM_ACTIONS = 18
"""All games share one replay, so that its signature has the full action space."""


class Step(NamedTuple):
    """One env step as plain values."""

    env: int
    first_frame: NDArray[np.uint8] | None
    """(H, W) if the step is the first of its episode, else None."""
    action: int
    reward: float
    next_frame: NDArray[np.uint8]
    """(H, W)"""
    terminated: bool
    truncated: bool
    life_lost: bool


@dataclass(frozen=True)
class Stream:
    """S steps of one environment as arrays: all frames in order, frames of resets included."""

    frames: NDArray[np.uint8]
    """(F, H, W)"""
    newest: NDArray[np.int64]
    """(S,) the frame that the step's action was chosen on; the next frame is the step's result."""
    first: NDArray[np.int64]
    """(S,) the first frame of the step's episode."""
    actions: NDArray[np.int64]
    """(S,)"""
    rewards: NDArray[np.float32]
    """(S,)"""
    terminated: NDArray[np.bool_]
    """(S,)"""
    truncated: NDArray[np.bool_]
    """(S,)"""
    life_lost: NDArray[np.bool_]
    """(S,)"""


class Transition(NamedTuple):
    """One item, computed by brute force."""

    observation: NDArray[np.uint8]
    """(stack, H, W)"""
    action: int
    reward: np.float32
    discount: np.float32
    next_observation: NDArray[np.uint8]
    """(stack, H, W)"""


class Recording:
    """One game, played by NUM_ENVS production environments under random actions."""

    def __init__(self, game: str, streams: Mapping[int, Stream], replay: ReplayConfig, stack: int) -> None:
        self.game, self.streams, self._replay, self._stack = game, streams, replay, stack
        frame_shape = streams[0].frames.shape[1:]
        self.signature = Signature(frame_shape, stack, replay.n_step, NUM_ACTIONS)

    @property
    def num_steps(self) -> int:
        """Steps of all environments; each is one item."""
        return sum(len(stream.actions) for stream in self.streams.values())

    @cached_property
    def steps(self) -> list[Step]:
        """All steps, alternating between the environments."""
        # Not `zip`: resets are no steps, so the streams differ in length.
        turns = itertools.zip_longest(*(_steps(env, stream) for env, stream in self.streams.items()))
        return [step for turn in turns for step in turn if step is not None]

    @cached_property
    def segments(self) -> list[Segment]:
        """All segments, numbered in the order in which they were finished."""
        return list(self.build())

    def build(self, *, actor: int = 0, incarnation: int = 0) -> Iterator[Segment]:
        """Yield the segments as an actor makes them: step by step, by the production builder."""
        numbers = itertools.count()
        builders = [
            SegmentBuilder(
                self.signature,
                actor=actor,
                incarnation=incarnation,
                env_slot=env,
                num_slots=NUM_ENVS,
                segment_steps=self._replay.segment_steps,
                next_seq=numbers.__next__,
            )
            for env in self.streams
        ]
        for env, first_frame, action, reward, next_frame, terminated, truncated, life_lost in self.steps:
            if first_frame is not None:
                builders[env].reset(first_frame)
            yield from builders[env].add(action, reward, next_frame, terminated, truncated, life_lost)
        for builder in builders:
            yield from builder.drain()

    @cached_property
    def _starts(self) -> list[int]:
        """For each segment, the index of its first item's step in its environment's stream."""
        # Every step becomes exactly one item, in order, so items count a stream's steps.
        taken = dict.fromkeys(self.streams, 0)
        starts = []
        for segment in self.segments:
            starts.append(taken[segment.env_slot])
            taken[segment.env_slot] += segment.num_items
        return starts

    def expected(self, seq: int, place: int) -> Transition:
        """Return item `place` of segment `seq`, straight from the stream; shares no code with the replay."""
        stream, rules = self.streams[self.segments[seq].env_slot], self._replay
        start = step = self._starts[seq] + place
        # Summed in float64, in order, rounded once, like the replay's returns: bits are compared.
        total, power, bootstrap = 0.0, 1.0, True
        while True:
            reward = float(stream.rewards[step])
            if rules.reward_clip > 0:
                reward = min(max(reward, -rules.reward_clip), rules.reward_clip)
            total += power * reward
            power *= rules.gamma
            step += 1
            if stream.terminated[step - 1] or (stream.life_lost[step - 1] and rules.life_loss_terminates):
                bootstrap = False
                break
            # The recording's end is a drain: the last items bootstrap after fewer steps.
            if stream.truncated[step - 1] or step - start == rules.n_step or step == len(stream.actions):
                break
        newest, first = int(stream.newest[start]), int(stream.first[start])
        return Transition(
            _stacked(stream.frames, newest, first, self._stack),
            int(stream.actions[start]),
            np.float32(total),
            np.float32(power if bootstrap else 0.0),
            _stacked(stream.frames, newest + step - start, first, self._stack),
        )


def record(
    game: str, environment: EnvironmentConfig, replay: ReplayConfig, *, steps: int, seed: int = 0
) -> Recording:
    """Play `game` for at least `steps` steps in total, with every other setting of `environment`."""
    config = replace(environment, game=game, env="")
    environments = make_environment(config, NUM_ENVS, environment_seeds(seed, 0, 0, NUM_ENVS))
    try:
        streams = _play(environments, steps, np.random.default_rng(seed))
    finally:
        environments.close()
    return Recording(game, streams, replay, environment.stack)


def _play(environments: VectorEnvironment, steps: int, rng: np.random.Generator) -> dict[int, Stream]:
    # Copies, because an environment may write its next frames into the same array.
    frames = [[frame.copy()] for frame in environments.reset()]
    first = [0] * NUM_ENVS
    rows: list[list[tuple[int, int, int, float, bool, bool, bool]]] = [[] for _ in range(NUM_ENVS)]
    while sum(map(len, rows)) < steps:
        actions = rng.integers(0, environments.num_actions, NUM_ENVS)
        answer = environments.step(actions)
        for env, valid in enumerate(answer.valid.tolist()):
            newest = len(frames[env]) - 1
            frames[env].append(answer.frames[env].copy())
            if valid:
                flags = (answer.terminated[env], answer.truncated[env], answer.life_lost[env])
                rows[env].append((newest, first[env], actions[env], answer.rewards[env], *flags))
            else:  # A reset, or a no-op after it: the episode begins with this frame.
                first[env] = newest + 1
    kinds = (np.int64, np.int64, np.int64, np.float32, np.bool_, np.bool_, np.bool_)
    return {
        env: Stream(
            np.stack(frames[env]),
            *(
                np.array(column, kind)
                for column, kind in zip(zip(*rows[env], strict=True), kinds, strict=True)
            ),
        )
        for env in range(NUM_ENVS)
    }


def _steps(env: int, stream: Stream) -> Iterator[Step]:
    columns = zip(
        stream.newest.tolist(),
        stream.first.tolist(),
        stream.actions.tolist(),
        stream.rewards.tolist(),
        stream.terminated.tolist(),
        stream.truncated.tolist(),
        stream.life_lost.tolist(),
        strict=True,
    )
    for newest, first, action, reward, *flags in columns:
        begins = stream.frames[newest] if newest == first else None
        yield Step(env, begins, action, reward, stream.frames[newest + 1], *flags)


def _stacked(frames: NDArray[np.uint8], newest: int, first: int, stack: int) -> NDArray[np.uint8]:
    zero = np.zeros_like(frames[0])
    return np.stack([frames[i] if i >= first else zero for i in range(newest - stack + 1, newest + 1)])

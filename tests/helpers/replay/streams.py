"""Synthetic streams of env steps, and their way through a segment builder."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from replay.config import ReturnRule
from replay.segments.builder import SegmentBuilder
from replay.segments.returns import n_step_returns, stack_positions
from replay.types import FrameShape, Segment, Signature
from tests.helpers.replay.brute_force import BruteForceItem, RecordedStep

FRAME_SHAPE = (3, 2)


def random_stream(
    seed: int,
    num_steps: int,
    *,
    frame_shape: FrameShape = FRAME_SHAPE,
    num_actions: int = 4,
    end: float = 0.1,
    life: float = 0.1,
    drain: float = 0.0,
    reset: float = 0.0,
) -> list[RecordedStep]:
    """A stream of `num_steps` steps; `end`, `life`, `drain`, `reset`: the chance of each per step."""
    rng = np.random.default_rng(seed)
    stream: list[RecordedStep] = []
    frame = None
    for _ in range(num_steps):
        if frame is None:
            frame = rng.integers(1, 256, frame_shape, dtype=np.uint8)
        next_frame = rng.integers(1, 256, frame_shape, dtype=np.uint8)
        ends, truncates = rng.random() < end, rng.random() < 0.5
        resets = rng.random() < reset
        stream.append(
            RecordedStep(
                frame=frame,
                action=int(rng.integers(num_actions)),
                reward=float(rng.choice([0.0, 1.0, -3.5, 0.3, rng.normal()])),
                terminated=bool(ends and not truncates),
                truncated=bool(ends and truncates),
                life_lost=bool(rng.random() < life),
                next_frame=next_frame,
                drained_after=bool(resets or rng.random() < drain),
                reset_after=bool(resets),
            )
        )
        frame = None if ends or resets else next_frame
    return stream


def streams(max_steps: int = 40) -> st.SearchStrategy[list[RecordedStep]]:
    """Streams with all sorts of events, dense and rare."""
    chance = st.sampled_from([0.0, 0.05, 0.3, 1.0])
    rare = st.sampled_from([0.0, 0.05, 0.3])
    return st.builds(
        lambda seed, steps, end, life, drain, reset: random_stream(
            seed, steps, end=end, life=life, drain=drain, reset=reset
        ),
        st.integers(0, 2**32),
        st.integers(1, max_steps),
        chance,
        chance,
        rare,
        rare,
    )


def build_segments(builder: SegmentBuilder, stream: Sequence[RecordedStep]) -> list[Segment]:
    """Plays a stream into a builder, with its drains, and drains it at the end."""
    segments: list[Segment] = []
    starts = True
    for step in stream:
        if starts:
            builder.reset(step.frame)
        segments += builder.add(
            step.action, step.reward, step.next_frame, step.terminated, step.truncated, step.life_lost
        )
        if step.drained_after and not step.reset_after:
            segments += builder.drain()
        starts = step.terminated or step.truncated or step.reset_after
    return segments + builder.drain()


def items_of(
    segment: Segment,
    *,
    stack: int,
    n_step: int,
    gamma: float,
    reward_clip: float,
    life_loss_terminates: bool,
) -> list[BruteForceItem]:
    """A segment's transitions by way of `replay.segments.returns`; `episode` is left 0."""
    start = np.arange(segment.num_items)
    returns = n_step_returns(
        segment.rewards,
        segment.terminated,
        segment.truncated,
        segment.life_lost,
        start,
        np.full(segment.num_items, segment.num_steps),
        ReturnRule(n_step, gamma, reward_clip, life_loss_terminates),
    )
    padded = np.concatenate([segment.frames, np.zeros_like(segment.frames[:1])])  # place -1 is the zero frame
    newest = segment.lead + start
    observation = padded[stack_positions(newest, stack)]
    next_observation = padded[stack_positions(newest + returns.steps, stack)]
    return [
        BruteForceItem(
            episode=0,
            step=segment.first_step + i,
            num_window_steps=int(returns.steps[i]),
            observation=observation[i],
            action=int(segment.actions[i]),
            reward=returns.reward[i],
            discount=returns.discount[i],
            next_observation=next_observation[i],
        )
        for i in range(segment.num_items)
    ]


def assert_same_items(found: Sequence[BruteForceItem], expected: Sequence[BruteForceItem]) -> None:
    """Exactly the same transitions in the same order (the episode's number is not compared)."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.step, one.num_window_steps) == (other.step, other.num_window_steps)
        assert one.action == other.action
        assert one.reward.tobytes() == other.reward.tobytes()
        assert one.discount.tobytes() == other.discount.tobytes()
        np.testing.assert_array_equal(one.observation, other.observation)
        np.testing.assert_array_equal(one.next_observation, other.next_observation)


def signature(stack: int = 4, n_step: int = 3, frame_shape: FrameShape = FRAME_SHAPE) -> Signature:
    """A signature for small frames and four actions."""
    return Signature(frame_shape=frame_shape, stack=stack, n_step=n_step, num_actions=4)

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.config import ReturnRule
from replay.segments.builder import SegmentBuilder
from replay.segments.codec import decode, encode
from replay.types import Segment
from tests.helpers.replay.brute_force import BruteForceItem, RecordedStep, brute_force_items, split_episodes
from tests.helpers.replay.streams import (
    FRAME_SHAPE,
    assert_same_items,
    build_segments,
    items_of,
    random_stream,
    signature,
    streams,
)

RULES = {"gamma": 0.97, "reward_clip": 1.0, "life_loss_terminates": False}


def make(
    *, stack: int = 4, n_step: int = 3, steps: int = 8, env_slot: int = 0, num_slots: int = 1, **more: object
) -> SegmentBuilder:
    return SegmentBuilder(
        signature(stack, n_step),
        actor=2,
        incarnation=1,
        env_slot=env_slot,
        num_slots=num_slots,
        segment_steps=steps,
        next_seq=more.pop("next_seq", count().__next__),  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


def play(builder: SegmentBuilder, stream: list[RecordedStep], **reader: object) -> list[BruteForceItem]:
    segments = build_segments(builder, stream)
    return [item for segment in segments for item in items_of(segment, **reader)]  # type: ignore[arg-type]


@settings(deadline=None, max_examples=250)
@given(
    stream=streams(),
    stack=st.integers(1, 5),
    n_step=st.integers(1, 5),
    lower=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    segment_steps=st.integers(1, 12),
    gamma=st.sampled_from([0.99, 0.5, 1.0]),
    reward_clip=st.sampled_from([0.0, 1.0, 2.5]),
    life=st.booleans(),
    slot=st.integers(0, 2),
    priorities=st.booleans(),
)
def test_items_are_those_of_the_brute_force(
    stream: list[RecordedStep],
    stack: int,
    n_step: int,
    lower: tuple[int, int],
    segment_steps: int,
    gamma: float,
    reward_clip: float,
    life: bool,
    slot: int,
    priorities: bool,
) -> None:
    """Through builder, codec and kernels, for readers of a smaller stack and n_step too."""
    data = signature(stack, n_step)
    builder = make(stack=stack, n_step=n_step, steps=segment_steps, env_slot=slot, num_slots=3)
    reader = {
        "stack": max(1, stack - lower[0]),
        "n_step": max(1, n_step - lower[1]),
        "gamma": gamma,
        "reward_clip": reward_clip,
        "life_loss_terminates": life,
    }
    found = []
    for segment in build_segments(builder, stream):
        stored = decode(encode(segment, "run", data), run="run", signature=data)
        found += items_of(stored, **reader)  # type: ignore[arg-type]
    assert_same_items(found, brute_force_items(stream, **reader))  # type: ignore[arg-type]
    assert builder.open_steps == 0


@settings(deadline=None, max_examples=60)
@given(stream=streams(), n_step=st.integers(1, 4), segment_steps=st.integers(1, 9), life=st.booleans())
def test_actor_priorities_are_the_items_errors(
    stream: list[RecordedStep], n_step: int, segment_steps: int, life: bool
) -> None:
    rules = {**RULES, "life_loss_terminates": life}
    builder = make(n_step=n_step, steps=segment_steps, priority_rule=ReturnRule(n_step, **rules))  # type: ignore[arg-type]
    rng = np.random.default_rng(len(stream))
    episodes = split_episodes(stream)
    # Q of the observations of each episode, the one after its last step included.
    q_max = [rng.normal(size=len(episode) + 1).astype(np.float32) for episode in episodes]
    q_taken = [rng.normal(size=len(episode)).astype(np.float32) for episode in episodes]
    segments: list[Segment] = []
    for e, episode in enumerate(episodes):
        builder.reset(episode[0].frame, q_max=None if e == 0 else float(q_max[e - 1][-1]))
        for t, s in enumerate(episode):
            segments += builder.add(
                s.action,
                s.reward,
                s.next_frame,
                s.terminated,
                s.truncated,
                s.life_lost,
                q_taken=float(q_taken[e][t]),
                q_max=float(q_max[e][t]),
            )
            if s.drained_after and not s.reset_after:
                segments += builder.drain(q_max=float(q_max[e][t + 1]))
    segments += builder.drain(q_max=float(q_max[-1][-1]))
    found = np.concatenate([s.priorities for s in segments if s.priorities is not None])
    items = brute_force_items(stream, stack=4, n_step=n_step, **rules)  # type: ignore[arg-type]
    expected = [
        abs(
            i.reward + i.discount * q_max[i.episode][i.step + i.num_window_steps] - q_taken[i.episode][i.step]
        )
        for i in items
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    found_items = [item for s in segments for item in items_of(s, stack=4, n_step=n_step, **rules)]  # type: ignore[arg-type]
    assert_same_items(found_items, items)


def test_slots_keep_to_themselves() -> None:
    seq = count().__next__
    builders = [make(env_slot=i, num_slots=3, next_seq=seq) for i in range(3)]
    recorded = [random_stream(i, 60) for i in range(3)]
    segments: list[Segment] = []
    for step in range(60):
        for builder, stream in zip(builders, recorded, strict=True):
            last = stream[step - 1]
            if step == 0 or last.terminated or last.truncated:
                builder.reset(stream[step].frame)
            now = stream[step]
            segments += builder.add(
                now.action, now.reward, now.next_frame, now.terminated, now.truncated, now.life_lost
            )
    for builder in builders:
        segments += builder.drain()
    assert [segment.identity.seq for segment in segments] == list(range(len(segments)))
    reader = {"stack": 4, "n_step": 3, **RULES}
    for slot, stream in enumerate(recorded):
        own = [segment for segment in segments if segment.env_slot == slot]
        found = [item for segment in own for item in items_of(segment, **reader)]  # type: ignore[arg-type]
        assert_same_items(found, brute_force_items(stream, **reader))  # type: ignore[arg-type]


def test_full_segments_and_their_sizes() -> None:
    segments = build_segments(make(steps=8), random_stream(0, 30, end=0.0))
    assert [(s.num_items, s.num_steps, s.lead, s.first_step) for s in segments] == [
        (8, 10, 0, 0),
        (8, 10, 3, 8),
        (8, 10, 3, 16),
        (6, 6, 3, 24),
    ]
    assert [len(s.frames) for s in segments] == [11, 14, 14, 10]


def test_an_episodes_end_emits_everything() -> None:
    stream = random_stream(0, 10, end=0.0)
    builder = make(steps=8)
    builder.reset(stream[0].frame)
    for step in stream[:9]:
        assert builder.add(step.action, 0.0, step.next_frame, False, False) == []
    [segment] = builder.add(0, 0.0, stream[9].next_frame, True, False)
    assert (segment.num_items, segment.num_steps) == (10, 10)
    assert builder.open_steps == 0


def test_slots_are_shifted_in_phase_at_first_and_after_a_drain() -> None:
    firsts = []
    for slot in range(4):
        stream = random_stream(0, 100, end=0.0)
        stream[59] = RecordedStep(**{**vars(stream[59]), "drained_after": True})
        segments = build_segments(make(steps=16, env_slot=slot, num_slots=4), stream)
        after = next(i for i, s in enumerate(segments) if s.first_step == 60)
        firsts.append((segments[0].num_items, segments[1].num_items, segments[after].num_items))
    assert firsts == [(4, 16, 4), (8, 16, 8), (12, 16, 12), (16, 16, 16)]


def emitted_items(*, num_slots: int, steps: int, length: int, games: int) -> list[list[tuple[int, int]]]:
    """Of each game, when (step of the game) slots in step with one another emit how many items, no ends."""
    builders = [make(steps=steps, env_slot=slot, num_slots=num_slots) for slot in range(num_slots)]
    frame = np.ones(FRAME_SHAPE, np.uint8)
    emitted: list[list[tuple[int, int]]] = []
    for _ in range(games):
        emitted.append([])
        for builder in builders:
            builder.reset(frame)
        for step in range(length):
            for builder in builders:
                for segment in builder.add(0, 0.0, frame, step == length - 1, False):
                    emitted[-1].append((step, segment.num_items))
        assert sum(items for _, items in emitted[-1]) == num_slots * length
    return emitted


def test_slots_whose_games_have_one_length_do_not_flush_together() -> None:
    for game in emitted_items(num_slots=8, steps=64, length=500, games=3):
        flushes = [step for step, _ in game if step < 499]
        assert len(set(flushes)) == len(flushes)
        assert max(np.diff(flushes)) == 8, "spread evenly over the 64 steps of a segment"
        # Beside the last segment of each slot, only the first is short.
        assert sum(items < 64 for _, items in game) <= 2 * 8
        assert len(game) <= 8 * (500 // 64 + 2)


def test_games_shorter_than_a_segment_are_not_cut() -> None:
    first, *others = emitted_items(num_slots=4, steps=16, length=12, games=4)
    assert len(first) == 6, "the first segments of two slots are shorter"
    assert all(len(game) == 4 for game in others)


def test_open_steps_and_weights_version() -> None:
    builder = make(steps=4, n_step=2)
    builder.reset(np.ones(FRAME_SHAPE, np.uint8))
    found: list[Segment] = []
    for version in range(6):
        found += builder.add(0, 0.0, np.ones(FRAME_SHAPE, np.uint8), False, False, weights_version=version)
    assert builder.open_steps == 2
    found += builder.drain()
    assert [segment.weights_version for segment in found] == [0, 4]
    assert builder.open_steps == 0
    assert builder.drain() == []


def test_frames_are_copied() -> None:
    builder = make(steps=2, n_step=1)
    frame = np.full(FRAME_SHAPE, 1, np.uint8)
    builder.reset(frame)
    frame[:] = 2
    [segment] = builder.add(0, 0.0, frame, True, False)
    frame[:] = 3
    builder.reset(frame)
    assert segment.frames[:, 0, 0].tolist() == [1, 2]


def test_a_step_outside_of_an_episode_is_refused() -> None:
    builder = make()
    frame = np.ones(FRAME_SHAPE, np.uint8)
    with pytest.raises(ValueError, match="reset first"):
        builder.add(0, 0.0, frame, False, False)
    builder.reset(frame)
    builder.add(0, 0.0, frame, False, True)
    with pytest.raises(ValueError, match="reset first"):
        builder.add(0, 0.0, frame, False, False)


def test_wrong_rewards_frames_and_missing_values_are_refused() -> None:
    builder = make()
    frame = np.ones(FRAME_SHAPE, np.uint8)
    with pytest.raises(ValueError, match="frame is"):
        builder.reset(frame[0])
    with pytest.raises(ValueError, match="frame is"):
        builder.reset(frame.astype(np.float32))
    builder.reset(frame)
    with pytest.raises(ValueError, match="finite"):
        builder.add(0, float("nan"), frame, False, False)
    other = make(priority_rule=ReturnRule(3, gamma=0.97, reward_clip=1.0))
    other.reset(frame)
    with pytest.raises(ValueError, match="q_taken"):
        other.add(0, 0.0, frame, False, False)


def test_a_refused_frame_changes_nothing() -> None:
    """Neither the segments that the next call returns nor the open episode."""
    stream = random_stream(0, 12, end=0.0)

    def items(*, refusals: bool) -> list[BruteForceItem]:
        builder = make(steps=4, priority_rule=ReturnRule(3, gamma=0.97, reward_clip=1.0))
        segments: list[Segment] = []
        for number, step in enumerate(stream):
            if number in (0, 8):
                builder.reset(step.frame)
            if refusals:
                with pytest.raises(ValueError, match="frame is"):
                    builder.add(0, 0.0, step.frame[0], False, False, q_taken=0.0, q_max=0.0)
                with pytest.raises(ValueError, match="frame is"):
                    builder.reset(step.frame[0])
            segments += builder.add(
                step.action, step.reward, step.next_frame, False, number == 7, q_taken=0.0, q_max=0.0
            )
        segments += builder.drain()
        reader = {"stack": 4, "n_step": 3, "gamma": 0.97, "reward_clip": 1.0, "life_loss_terminates": False}
        return [item for segment in segments for item in items_of(segment, **reader)]  # type: ignore[arg-type]

    expected = items(refusals=False)
    assert len(expected) == len(stream)
    assert_same_items(items(refusals=True), expected)

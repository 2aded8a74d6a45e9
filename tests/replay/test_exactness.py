"""Batches are the brute force's transitions bit for bit, their frames coming from the store or from Redis."""

from dataclasses import replace

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replay.sampler import Sampler
from replay.types import Batch, Signature
from tests.helpers.brute_force import RecordedStep
from tests.helpers.samplers import Run, replay_config, same_batches, small_signature
from tests.helpers.servers import shared_urls
from tests.helpers.streams import streams


@pytest.fixture(scope="module")
def urls() -> list[str]:
    return shared_urls()


def every_item_once(run: Run) -> list[Batch]:
    """Batches of all items, each once, with all frames in the store, those of one segment, and none."""
    size = sum(map(len, run.items.values()))
    longest = max(segment.frames.nbytes for segment in run.segments.values())
    batches = []
    for store_bytes in (None, longest, 0):
        sampler = run.sampler(store_bytes=store_bytes, batch_size=size)
        while sampler.ingest():
            pass
        assert sampler.inserted == sampler.size == size
        rows = sampler.table.slots[sampler.table.in_order()]
        assert (rows["num_steps"] < rows["num_items"] + run.config.n_step).all()  # no more than needed
        batch = sampler.sample()
        assert len(np.unique(batch.leaf)) == size
        run.check(sampler, batch)
        check_misses(sampler, store_bytes, size)
        batches.append(batch)
    return batches


def check_misses(sampler: Sampler, store_bytes: int | None, size: int) -> None:
    misses = sampler.metrics()["replay/frame_store_misses"]
    assert misses == (0 if store_bytes is None else size) or (store_bytes and misses < size)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    recorded=st.lists(streams(60), min_size=1, max_size=3),
    stack=st.integers(1, 5),
    n_step=st.integers(1, 5),
    stored_more=st.tuples(st.integers(0, 2), st.integers(0, 3)),
    segment_steps=st.integers(1, 20),
    reward_clip=st.sampled_from([0.0, 1.0]),
    life_loss_terminates=st.booleans(),
)
def test_all_ways_are_the_brute_force(
    urls: list[str],
    recorded: list[list[RecordedStep]],
    stack: int,
    n_step: int,
    stored_more: tuple[int, int],
    segment_steps: int,
    reward_clip: float,
    life_loss_terminates: bool,
) -> None:
    config = replay_config(
        prioritized=False,
        n_step=n_step,
        segment_steps=segment_steps,
        reward_clip=reward_clip,
        life_loss_terminates=life_loss_terminates,
    )
    run = Run(urls, small_signature(config, stack), config)
    data = replace(run.signature, stack=stack + stored_more[0], n_step=n_step + stored_more[1])
    for slot, stream in enumerate(recorded):
        segments = run.record(stream, actor=slot % 2, env_slot=slot, num_slots=len(recorded), data=data)
        for i, segment in enumerate(segments):
            run.write([segment], shard=(slot + i // 3) % 2, data=data)
    full, small, none = every_item_once(run)
    assert same_batches(full, small)
    assert same_batches(full, none)


def play_atari(num_steps: int, max_frames: int) -> tuple[list[list[RecordedStep]], int]:
    """Two games of Breakout by random play, as recorded streams, and the number of actions."""
    envs = AtariVectorEnv(
        "breakout",
        2,
        stack_num=1,
        noop_max=0,
        max_num_frames_per_episode=max_frames,
        repeat_action_probability=0.25,
    )
    num_actions = int(envs.single_action_space.n)
    rng = np.random.default_rng(3)
    streams: list[list[RecordedStep]] = [[], []]
    frames, info = envs.reset(seed=np.array([1, 2]))
    begun, lives = np.ones(2, np.bool_), info["lives"]
    for _ in range(num_steps):
        actions = rng.integers(0, num_actions, 2)
        answer = envs.step(actions)
        after, rewards, terminated, truncated, info = answer
        for env in np.flatnonzero(begun):
            step = RecordedStep(
                frame=frames[env, -1].copy(),
                action=int(actions[env]),
                reward=float(rewards[env]),
                terminated=bool(terminated[env]),
                truncated=bool(truncated[env]),
                life_lost=bool(info["lives"][env] < lives[env]),
                next_frame=after[env, -1].copy(),
            )
            streams[env].append(step)
        begun, lives, frames = ~(terminated | truncated), info["lives"], after.copy()
    envs.close()
    return streams, num_actions


@pytest.mark.parametrize(("max_frames", "n_step"), [(108_000, 3), (240, 10)])
def test_recorded_atari_is_the_brute_force(urls: list[str], max_frames: int, n_step: int) -> None:
    """Breakout's random games lose lives, end (5 lives) and, with a limit of 60 steps, are truncated."""
    recorded, num_actions = play_atari(400, max_frames)
    ends = [step for stream in recorded for step in stream if step.terminated or step.truncated]
    assert any(step.truncated for step in ends) == (max_frames == 240)
    assert any(step.terminated for step in ends) == (max_frames != 240)
    assert any(step.life_lost for stream in recorded for step in stream)
    config = replay_config(
        prioritized=False, n_step=n_step, segment_steps=32, life_loss_terminates=n_step == 10
    )
    config = replace(config, frame_store_bytes=128 * 1024**2)
    run = Run(urls, Signature((84, 84), 4, n_step, num_actions), config)
    for slot, stream in enumerate(recorded):
        run.write(run.record(stream, env_slot=slot, num_slots=2), shard=slot)
    full, small, none = every_item_once(run)
    assert same_batches(full, small)
    assert same_batches(full, none)

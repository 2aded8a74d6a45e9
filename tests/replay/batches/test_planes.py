"""Frames of several planes: from the builder through Redis to the batch, by every way there is."""

from dataclasses import replace

import numpy as np
import pytest

from replay.items.frame_store import HostFrameStore, host_store
from replay.segments.builder import SegmentBuilder
from replay.types import Signature, stacked_shape
from tests.helpers.replay.samplers import Run, ingest_all, replay_config, same_batches
from tests.helpers.shards.servers import shared_urls

PLANES = (3, 4, 2)


def signature(stack: int = 2) -> Signature:
    return Signature(PLANES, stack, n_step=3, num_actions=4)


@pytest.mark.parametrize("stack", [1, 2])
def test_batches_are_the_brute_force_from_store_and_from_redis(stack: int) -> None:
    run = Run(shared_urls(), signature(stack), replay_config(prioritized=False))
    for actor in range(2):
        run.fill(actor, 60, actor=actor, end=0.1)
    seen = None
    # All frames in the store, some of them, none: the others come from Redis.
    for store_bytes in (None, 30 * 24, 0):
        sampler = run.sampler(store_bytes=store_bytes, batch_size=120)
        ingest_all(sampler)
        batch = sampler.sample()
        assert batch.observation.shape == (120, stack * 3, 4, 2)
        run.check(sampler, batch)
        misses = sampler.metrics()["replay/frame_store_misses"]
        assert (misses > 0) == (store_bytes is not None)
        seen = seen or batch
        assert same_batches(seen, batch)
        sampler.close()


def test_the_planes_of_the_oldest_frame_come_first() -> None:
    assert stacked_shape((10, 12), 4) == (4, 10, 12)
    assert stacked_shape((3, 10, 12), 2) == (6, 10, 12)
    run = Run(shared_urls(), signature(), replay_config(prioritized=False))
    *_, last = run.fill(0, 20, actor=0, end=0.0, life=0.0)
    sampler = run.sampler(batch_size=20)
    ingest_all(sampler)
    batch = sampler.sample()
    seen = batch.observation[int(np.argmax(batch.leaf))]
    newest = last.lead + last.num_items - 1
    np.testing.assert_array_equal(seen, np.concatenate(last.frames[newest - 1 : newest + 1]))
    sampler.close()


def test_the_store_reserves_bytes_for_all_planes() -> None:
    store = HostFrameStore(PLANES, 5 * 24 + 3)
    frames = np.arange(5 * 24, dtype=np.uint8).reshape(5, *PLANES)
    store.put("a", frames)
    assert store.bytes == 5 * 24
    (rows,) = store.rows(["a"])
    assert rows is not None
    np.testing.assert_array_equal(store.gather(rows[None, :2])[0], frames[:2])
    assert not store.gather(np.zeros((1, 1), np.int64)).any()
    store.put("b", frames[:1])
    assert store.rows(["a"]) == [None], "there is room for 5 frames alone"
    config = replay_config(capacity=16, frame_store_bytes=2**30)
    # Two segments of 16 steps, each with 3 - 1 columns, one frame before and one after.
    assert host_store(config, PLANES, 2)._num_rows == 2 * (16 + 3 + 1)


def test_a_builder_takes_frames_of_its_shape_alone() -> None:
    builder = SegmentBuilder(
        signature(), actor=0, incarnation=0, env_slot=0, num_slots=1, segment_steps=8, next_seq=lambda: 0
    )
    with pytest.raises(ValueError, match=r"frame is uint8 \(4, 2\), not uint8 \(3, 4, 2\)"):
        builder.reset(np.zeros((4, 2), np.uint8))
    builder.reset(np.zeros(PLANES, np.uint8))


def test_a_stored_signature_is_read_again_and_another_one_is_refused() -> None:
    for shape in ((84, 84), PLANES):
        kept = replace(signature(), frame_shape=shape)
        document = {"frame_shape": list(shape), "stack": 2, "n_step": 3, "num_actions": 4}
        assert Signature.of_document(document) == kept
    for shape in ([], [84], [1, 2, 3, 4], [0, 3]):
        with pytest.raises(ValueError, match="not the shape of a frame"):
            Signature.of_document({"frame_shape": shape, "stack": 2, "n_step": 3, "num_actions": 4})

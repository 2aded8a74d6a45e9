"""The host frame store against a plain dictionary: contents, cap in bytes, and who leaves first."""

import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay.items.frame_store import HostFrameStore

SHAPE = (3, 5)
FRAME_BYTES = 15


def frames(key: int, count: int) -> np.ndarray:
    return np.random.default_rng(key).integers(1, 256, (count, *SHAPE)).astype(np.uint8)


@settings(max_examples=150, deadline=None)
@given(
    num_rows=st.integers(0, 40),
    script=st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "put", "touch", "drop"]), st.integers(0, 9), st.integers(0, 14)
        ),
        max_size=60,
    ),
)
def test_it_holds_what_the_oldest_use_leaves_room_for(
    num_rows: int, script: list[tuple[str, int, int]]
) -> None:
    store = HostFrameStore(SHAPE, num_rows * FRAME_BYTES + 7)
    model: dict[int, np.ndarray] = {}  # in order of use
    for step, (action, key, count) in enumerate(script):
        if action == "put":
            content = frames(step, count)
            store.put(key, content)
            model.pop(key, None)
            if count <= num_rows:
                while sum(map(len, model.values())) + count > num_rows:
                    model.pop(next(iter(model)))
                model[key] = content
        elif action == "touch":
            store.rows([key])
            if key in model:
                model[key] = model.pop(key)
        else:
            store.drop(key)
            model.pop(key, None)
        assert store.bytes == sum(map(len, model.values())) * FRAME_BYTES <= num_rows * FRAME_BYTES
        check(store, model)


def check(store: HostFrameStore, model: dict[int, np.ndarray]) -> None:
    held = store.rows(list(model))  # in order of use, so nothing changes
    for rows, content in zip(held, model.values(), strict=True):
        assert rows is not None
        assert 0 not in rows
        assert (store.gather(rows[None])[0] == content).all()
    used = np.concatenate([*held, np.empty(0, np.int64)])
    assert len(np.unique(used)) == len(used) == sum(map(len, model.values()))
    absent = [key for key in range(10) if key not in model]
    assert store.rows(absent) == [None] * len(absent)


def test_row_zero_is_the_zero_frame() -> None:
    store = HostFrameStore(SHAPE, 10 * FRAME_BYTES)
    content = frames(1, 4)
    store.put(1, content)
    [rows] = store.rows([1])
    assert rows is not None
    out = store.gather(np.stack([[0, 0, rows[3]], [rows[0], rows[1], rows[0]]]))
    assert out.shape == (2, 3, *SHAPE)
    assert out.dtype == np.uint8
    assert (out[0, :2] == 0).all()
    assert (out[0, 2] == content[3]).all()
    assert (out[1] == content[[0, 1, 0]]).all()


def test_rows_outside_are_refused() -> None:
    store = HostFrameStore(SHAPE, 2 * FRAME_BYTES)
    for row in (-1, 3):
        with pytest.raises(IndexError):
            store.gather(np.array([[row]]))


def test_memory_is_touched_only_as_frames_arrive() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store = HostFrameStore((84, 84), 2 * 2**30)
    for key in range(20):
        store.put(key, np.ones((70, 84, 84), np.uint8))
    assert store.bytes == 20 * 70 * 84 * 84
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_a_store_of_no_bytes_holds_nothing() -> None:
    store = HostFrameStore((84, 84), 0)
    store.put(1, np.ones((2, 84, 84), np.uint8))
    assert store.rows([1]) == [None]
    assert store.bytes == 0
    assert store.gather(np.zeros((1, 4), np.int64)).sum() == 0

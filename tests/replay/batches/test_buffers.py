import numpy as np

from replay.batches.observations import MOST_BUFFERS, BufferPool

SHAPE = (2, 3, 4)


def test_what_somebody_holds_is_never_handed_out_again() -> None:
    pool = BufferPool()
    held = [pool.take(SHAPE) for _ in range(MOST_BUFFERS + 2)]
    views = [array[1, 1:] for array in held]
    del held
    for number, view in enumerate(views):
        view[:] = number
    fresh = [pool.take(SHAPE) for _ in range(MOST_BUFFERS)]
    assert not any(np.shares_memory(one, other) for one in fresh for other in views)
    for number, view in enumerate(views):
        assert (view == number).all()


def test_what_nobody_holds_serves_again_in_any_shape() -> None:
    pool = BufferPool()
    first, second = pool.take(SHAPE), pool.take(SHAPE)
    address = second.ctypes.data
    del second
    again = pool.take(SHAPE)
    assert again.ctypes.data == address
    assert not np.shares_memory(again, first)
    del again
    assert pool.take((5,)).shape == (5,)
    assert pool.take(SHAPE).shape == SHAPE

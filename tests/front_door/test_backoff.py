"""Waits between tries: how they grow, where they end, and what jitter may do to them."""

from apexpert.backoff import Backoff


def test_waits_double_up_to_the_longest_and_begin_again() -> None:
    waits = Backoff(0.5, 3.0)
    assert [waits.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    waits.reset()
    assert waits.next() == 0.5


def test_jitter_shortens_a_wait_by_a_half_at_most() -> None:
    waits = Backoff(1.0, 1.0, jitter=True)
    drawn = [waits.next() for _ in range(100)]
    assert all(0.5 <= wait <= 1.0 for wait in drawn)
    assert len(set(drawn)) > 1

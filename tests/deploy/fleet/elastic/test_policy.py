"""How many actors a run has, by who waits for whom."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.fleet.elastic.policy import (
    MOST_PATIENCE,
    PERIOD_SECONDS,
    SETTLE_SECONDS,
    ElasticPolicy,
    Shares,
    wanted,
)

SHARE = st.floats(0, 1)
MANY = 1_000
unhurried = settings(deadline=None)


def minute(policy, now, held_back, learner_waits, *, target, least=1, most=MANY, pending=0):
    """One period of even shares; returns the target after it."""
    for second in range(0, int(PERIOD_SECONDS), 10):
        policy.observe(now + second, held_back, learner_waits, 0.0)
    assert policy.is_due(now + PERIOD_SECONDS)
    change = policy.decide(target, least, most, pending)
    policy.restart(now + PERIOD_SECONDS)
    return target if change is None else change.target


class Fleet:
    """A learner that has use for `use` actors' env steps, and actors that all make as many."""

    def __init__(self, use):
        self.use = use

    def shares(self, actors):
        """Who waits: actors beyond the use share its loss, and a learner waits for those that are missing."""
        return max(0.0, 1 - self.use / actors), max(0.0, 1 - actors / self.use)


def followed(use, target, minutes, **bounds):
    """The target minute by minute, of a fleet whose learner has use for `use` actors."""
    policy, fleet, targets = ElasticPolicy(0.0), Fleet(use), [target]
    for number in range(minutes):
        now = number * PERIOD_SECONDS
        targets.append(minute(policy, now, *fleet.shares(targets[-1]), target=targets[-1], **bounds))
    return targets


@pytest.mark.parametrize(
    ("target", "held_back", "learner_waits", "pending", "then"),
    [
        (40, 0.0, 0.06, 0, 50),  # A quarter more.
        (1, 0.0, 0.06, 0, 2),  # At least one.
        (3, 0.0, 0.06, 0, 4),
        (40, 0.0, 0.06, 1, None),  # One is still to come.
        (40, 0.0, 0.05, 0, None),
        (40, 0.20, 0.0, 0, None),
        (40, 0.21, 0.0, 0, 36),  # ceil(40 * 0.79 / 0.9): a tenth of their time is left to wait.
        (40, 0.9, 0.0, 0, 32),  # A fifth at most.
        (40, 0.9, 0.0, 5, 32),  # Those to come are of no use either.
        (2, 0.5, 0.0, 0, None),  # ceil(1.1): one would not do.
        (2, 0.6, 0.0, 0, 1),
        (40, 0.5, 0.5, 0, None),  # Both wait for something else.
    ],
)
def test_what_a_minute_asks_for(target, held_back, learner_waits, pending, then):
    change = wanted(target, Shares(held_back, learner_waits, looks=1), pending)
    assert (change.target if change else None) == then
    if change is not None:
        share = held_back if then < target else learner_waits
        assert f"{100 * share:.0f} % of the time" in change.reason


@unhurried
@given(st.integers(1, MANY), st.integers(1, MANY), st.integers(0, MANY), SHARE, SHARE, st.integers(0, 10))
def test_never_beyond_the_range(target, least, more, held_back, learner_waits, pending):
    most = least + more
    policy = ElasticPolicy(0.0)
    policy.shares.add(held_back, learner_waits, 0.0)
    change = policy.decide(target, least, most, pending)
    assert least <= (target if change is None else change.target) <= most


@unhurried
@given(st.floats(0.5, 500), st.integers(1, MANY), st.integers(1, 20), st.integers(0, MANY))
def test_a_steady_learner_gets_its_actors_and_then_nothing_changes(use, target, least, more):
    targets = followed(use, min(max(target, least), least + more), 100, least=least, most=least + more)
    last = targets[-1]
    assert len(set(targets[-40:])) == 1
    held_back, learner_waits = Fleet(use).shares(last)
    # The learner waits only if the range allows no more, and actors wait longer only if it allows no fewer.
    assert learner_waits <= 0.05 or last == least + more
    assert held_back <= 0.20 or last == least or math.ceil(use / 0.9) >= last
    # There and at most once back: a quarter more may be a few too many.
    signs = [b > a for a, b in itertools.pairwise(targets) if a != b]
    assert sum(a != b for a, b in itertools.pairwise(signs)) <= 1


def test_a_fleet_that_would_flap_changes_direction_less_and_less_often():
    """Twelve actors starve the learner and fifteen are held back, whatever the policy does."""
    policy, target, changes = ElasticPolicy(0.0), 12, []
    for number in range(1_000):
        shares = (0.0, 0.5) if target < 15 else (0.5, 0.0)
        after = minute(policy, number * PERIOD_SECONDS, *shares, target=target)
        if after != target:
            changes.append(number)
        target = after
    waits = [b - a for a, b in itertools.pairwise(changes)]
    assert waits[:6] == [1, 2, 4, 8, 16, MOST_PATIENCE]
    assert set(waits[6:]) == {MOST_PATIENCE}


def test_what_was_seen_before_a_change_has_settled_decides_nothing():
    policy = ElasticPolicy(100.0)
    policy.observe(100.0 + SETTLE_SECONDS - 1, 1.0, 0.0, 0.0)
    assert not policy.is_due(100.0 + PERIOD_SECONDS)
    policy.observe(100.0 + SETTLE_SECONDS, 0.1, 0.2, 300.0)
    policy.observe(100.0 + SETTLE_SECONDS + 1, 0.3, 0.4, 500.0)
    assert not policy.is_due(100.0 + PERIOD_SECONDS - 1)
    assert policy.is_due(100.0 + PERIOD_SECONDS)
    assert vars(policy.shares) == pytest.approx(vars(Shares(0.2, 0.3, 400.0, 2)))
    policy.restart(160.0)
    assert not policy.is_due(160.0 + PERIOD_SECONDS)


def test_a_target_out_of_range_is_brought_back_at_once():
    policy = ElasticPolicy(0.0)
    change = policy.decide(4, 8, 200, 0)
    assert (change.target, change.reason) == (8, "8 to 200 are to be had")
    assert policy.decide(300, 8, 200, 0).target == 200

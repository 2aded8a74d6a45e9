import threading

from hypothesis import given
from hypothesis import strategies as st

from apexpert import durable
from deploy.fleet.run_state import FleetState
from deploy.fleet.scaling import Restarts, missing, surplus
from deploy.run.folder import RunFolder


@given(st.sets(st.integers(0, 20)), st.integers(0, 20))
def test_after_starting_and_leaving_exactly_the_target_runs(running, target):
    assert (running | set(missing(running, target))) - set(surplus(running, target)) == set(range(target))


def test_scaling_down_and_up_moves_no_slot_that_stays():
    assert surplus({0, 1, 2}, 2) == [2]
    assert missing({0, 1}, 4) == [2, 3]
    assert missing({0, 2}, 3) == [1]


def test_waits_double_up_to_half_a_minute():
    restarts, now, waits = Restarts(), 100.0, []
    for _ in range(9):
        restarts.started(now)
        restarts.failed(now)
        waits.append(restarts.not_before - now)
        assert not restarts.may_start(restarts.not_before - 0.01)
        now = restarts.not_before
        assert restarts.may_start(now)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert restarts.failures == 9


def test_a_role_that_held_for_a_minute_starts_afresh():
    restarts = Restarts()
    for now in (0.0, 10.0, 20.0):
        restarts.started(now)
        restarts.failed(now)
    restarts.started(30.0)
    restarts.failed(95.0)
    assert restarts.failures == 1
    assert restarts.not_before == 95.5


def test_incarnations_are_on_disk_before_they_are_used_and_never_come_back(tmp_path):
    folder = RunFolder(tmp_path)
    state = FleetState(folder)
    assert [state.next_incarnation(0), state.next_incarnation(1), state.next_incarnation(0)] == [0, 0, 1]
    again = FleetState(folder)
    assert again.next_incarnation(0) == 2
    assert again.next_incarnation(1) == 1
    assert again.dead_incarnations(alive={(0, 2), (1, 1)}) == {(0, 0), (0, 1), (1, 0)}


def test_the_target_outlives_the_supervisor(tmp_path):
    folder = RunFolder(tmp_path)
    FleetState(folder).target = 3
    assert FleetState(folder).target == 3


def test_a_target_set_meanwhile_brings_no_incarnation_back(tmp_path, monkeypatch):
    """A thread of Ray's writes the target while the supervisor's own starts an actor."""
    folder, plain, others = RunFolder(tmp_path), durable.replace, []
    state = FleetState(folder)

    def replace(path, data, mode):
        if not others:
            others.append(threading.Thread(target=state.next_incarnation, args=[0]))
            others[0].start()
            # Long enough for a writer that nothing keeps from being first; one that waits goes on later.
            others[0].join(0.3)
        plain(path, data, mode)

    monkeypatch.setattr(durable, "replace", replace)
    state.target = 2
    others[0].join()
    assert FleetState(folder).next_incarnation(0) == 1
    assert FleetState(folder).target == 2

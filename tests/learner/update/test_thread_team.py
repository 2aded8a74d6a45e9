"""The team of threads: order, concurrency, errors."""

import threading

import pytest
import torch

from learner.config import LearnerConfig
from learner.update.thread_team import ThreadTeam
from learner.update.train_step import TrainStep
from models.config import NetworkConfig
from tests.helpers.deadline import patient


def nothing(*members):
    pass


def test_results_come_in_order_from_threads_that_run_at_once():
    meeting = threading.Barrier(3, timeout=patient(20))

    def work(member):
        meeting.wait()
        return member, threading.get_ident(), torch.get_num_threads()

    results = ThreadTeam(3).run(nothing, nothing, work)
    assert [member for member, _, _ in results] == [0, 1, 2]
    assert len({thread for _, thread, _ in results}) == 3
    assert {threads for _, _, threads in results} == {1}


def test_the_caller_is_a_member_with_the_threads_of_the_others_for_as_long():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = ThreadTeam(2).run(nothing, nothing, lambda m: (threading.get_ident(), torch.get_num_threads()))
        assert seen[0] == (threading.get_ident(), 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_team_of_one_works_in_the_callers_thread():
    assert ThreadTeam(1).run(nothing, nothing, lambda member: threading.get_ident()) == [
        threading.get_ident()
    ]


@pytest.mark.parametrize("size", [1, 2])
def test_each_members_operators_have_their_number_of_threads(size):
    before = torch.get_num_threads()
    team = ThreadTeam(size, before + 1)
    assert team.run(nothing, nothing, lambda member: torch.get_num_threads()) == [before + 1] * size
    assert torch.get_num_threads() == before
    assert team.num_threads == size * (before + 1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_is_between_comes_once_after_all_first_and_before_any_second(size):
    events = []
    team = ThreadTeam(size)
    for _ in range(20):
        team.run(
            lambda member: events.append("first"),
            lambda: events.append("between"),
            lambda member: events.append("second"),
        )
    assert events == (["first"] * size + ["between"] + ["second"] * size) * 20


@pytest.mark.parametrize("fails", ["first", "between", "second"])
def test_an_error_comes_back_after_all_have_ended_and_the_team_goes_on(fails):
    team, running = ThreadTeam(2), []

    def phase(name, member=1):
        running.append(name)
        try:
            if name == fails and member == 1:
                raise ZeroDivisionError(name)
        finally:
            running.remove(name)

    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match=fails):
            team.run(
                lambda member: phase("first", member), lambda: phase("between"), lambda m: phase("second", m)
            )
        assert running == []
    assert team.run(nothing, nothing, lambda member: member) == [0, 1]


@pytest.mark.parametrize("size", [1, 2])
def test_meanwhile_runs_once_in_the_callers_thread(size):
    callers = []
    ThreadTeam(size).run(nothing, nothing, nothing, lambda: callers.append(threading.get_ident()) or [])
    assert callers == [threading.get_ident()]


def test_the_team_works_while_the_caller_does_something_else():
    started, met = threading.Barrier(3, timeout=patient(20)), []

    def wait(member):
        if member:
            met.append((member, started.wait()))

    def join():
        met.append((0, started.wait()))
        return []

    ThreadTeam(3).run(wait, nothing, nothing, join)
    assert sorted(member for member, _ in met) == [0, 1, 2]


def test_a_member_with_nothing_to_do_takes_the_spare_tasks_and_nobody_waits_for_them():
    team, events, released = ThreadTeam(2), [], threading.Event()

    def first(member):
        if member == 1:
            assert released.wait(patient(20))
        events.append(f"first {member}")

    def spare(name):
        def task():
            events.append(name)
            if name == "b":
                released.set()

        return task

    def meanwhile():
        return [spare("a"), spare("b"), spare("c")]

    while "b" not in events:  # member 0 may be through before there is a task
        released.clear()
        timer = threading.Timer(1.0, released.set)
        timer.start()
        team.run(first, lambda: events.append("between"), nothing, meanwhile)
        timer.cancel()
    last = len(events) - 1 - events[::-1].index("first 0")
    assert events[last : last + 3] == ["first 0", "a", "b"]
    assert events.index("between") > events.index("first 1")


def test_a_team_of_one_leaves_spare_tasks_undone():
    done = []
    ThreadTeam(1).run(nothing, nothing, nothing, lambda: [lambda: done.append("spare")])
    assert not done


def test_an_error_in_a_spare_task_comes_back():
    team, seen = ThreadTeam(2), threading.Event()

    def fail():
        seen.set()
        raise ZeroDivisionError("spare")

    def work(member):
        if member == 1:
            seen.wait(0.2)

    def run_until_it_is_taken():
        while True:
            team.run(work, nothing, nothing, lambda: [fail])

    with pytest.raises(ZeroDivisionError, match="spare"):
        run_until_it_is_taken()


def test_an_error_of_the_caller_comes_back_after_the_team_has_ended():
    release, ended = threading.Event(), threading.Event()

    def work(member):
        release.wait(patient(20))
        ended.set()

    def fail():
        release.set()
        raise ZeroDivisionError("meanwhile")

    with pytest.raises(ZeroDivisionError, match="meanwhile"):
        ThreadTeam(2).run(work, nothing, nothing, fail)
    assert ended.is_set()


@pytest.mark.parametrize(
    ("threads", "batch", "size"), [(1, 32, 1), (2, 32, 2), (16, 32, 4), (2, 8, 1), (4, 4, 1), (64, 512, 64)]
)
def test_every_member_has_rows_enough(threads, batch, size):
    assert ThreadTeam.for_batch(threads, batch, 1e7).size == size


@pytest.mark.parametrize(
    ("threads", "batch", "flops", "shares"),
    [
        (1, 32, 1e7, 1), (2, 32, 1e7, 1), (2, 63, 1e7, 1), (2, 64, 1e7, 2), (4, 32, 1e7, 4),
        (2, 32, 3.1e7, 1), (2, 32, 3.2e7, 2), (2, 16, 6e7, 1),
    ],
)  # fmt: skip
def test_of_two_threads_one_takes_a_small_batch_of_a_small_network_alone(threads, batch, flops, shares):
    assert ThreadTeam.for_batch(threads, batch, flops).num_shares == shares


@pytest.mark.parametrize(("width", "shares"), [(0.5, 1), (2.0, 2)])
def test_the_train_step_goes_by_its_networks_flops(width, shares):
    network = NetworkConfig(encoder="nature", encoder_width_scale=width, expert_hidden_units=8)
    config = LearnerConfig(batch_size=32, cpus=2, device="cpu")
    assert TrainStep(network, config, num_actions=3).team.num_shares == shares

"""The team of threads: order, concurrency, errors."""

import threading

import pytest
import torch

from learner.config import LearnerConfig
from learner.update.thread_team import Phase, ThreadTeam
from learner.update.train_step import TrainStep
from models.config import NetworkConfig
from tests.helpers.deadline import patient


def nothing(*members):
    pass


def run(team, first, between, second, *meanwhile):
    return team.run(first, [Phase(between, second)], *meanwhile)


def test_results_come_in_order_from_threads_that_run_at_once():
    meeting = threading.Barrier(3, timeout=patient(20))

    def work(member):
        meeting.wait()
        return member, threading.get_ident(), torch.get_num_threads()

    results = run(ThreadTeam(3), nothing, nothing, work)
    assert [member for member, _, _ in results] == [0, 1, 2]
    assert len({thread for _, thread, _ in results}) == 3
    assert {threads for _, _, threads in results} == {1}


def test_the_caller_is_a_member_with_the_threads_of_the_others_for_as_long():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = run(
            ThreadTeam(2), nothing, nothing, lambda m: (threading.get_ident(), torch.get_num_threads())
        )
        assert seen[0] == (threading.get_ident(), 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_team_of_one_works_in_the_callers_thread():
    assert run(ThreadTeam(1), nothing, nothing, lambda member: threading.get_ident()) == [
        threading.get_ident()
    ]


@pytest.mark.parametrize("size", [1, 2])
def test_each_members_operators_have_their_number_of_threads(size):
    before = torch.get_num_threads()
    team = ThreadTeam(size, before + 1)
    assert run(team, nothing, nothing, lambda member: torch.get_num_threads()) == [before + 1] * size
    assert torch.get_num_threads() == before
    assert team.num_threads == size * (before + 1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_is_between_comes_once_after_all_first_and_before_any_second(size):
    events = []
    team = ThreadTeam(size)
    for _ in range(20):
        run(
            team,
            lambda member: events.append("first"),
            lambda: events.append("between"),
            lambda member: events.append("second"),
        )
    assert events == (["first"] * size + ["between"] + ["second"] * size) * 20


@pytest.mark.parametrize("size", [1, 3])
def test_each_later_phase_begins_when_all_have_ended_the_one_before_it(size):
    events, team = [], ThreadTeam(size)

    def note(event):
        return lambda *member: events.append(event)

    for _ in range(20):
        results = team.run(note("a"), [Phase(note("1"), note("b")), Phase(note("2"), lambda member: member)])
        assert results == list(range(size))
    assert "".join(events) == ("a" * size + "1" + "b" * size + "2") * 20


def test_an_error_in_the_second_of_three_phases_frees_those_who_wait_for_the_third():
    team, begun = ThreadTeam(3), []

    def fail(member):
        if member == 1:
            raise ZeroDivisionError("second")

    with pytest.raises(ZeroDivisionError, match="second"):
        team.run(nothing, [Phase(nothing, fail), Phase(nothing, begun.append)])
    assert not begun
    assert run(team, nothing, nothing, lambda member: member) == [0, 1, 2]


def test_work_alone_has_a_members_threads_and_flushes_denormal_numbers():
    before = torch.get_num_threads()
    seen = ThreadTeam(2, before + 1).alone(
        lambda: (threading.get_ident(), torch.get_num_threads(), (torch.tensor([1e-40]) * 1.0).item())
    )
    assert seen == (threading.get_ident(), before + 1, 0.0)
    assert torch.get_num_threads() == before


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
            run(
                team,
                lambda member: phase("first", member),
                lambda: phase("between"),
                lambda m: phase("second", m),
            )
        assert running == []
    assert run(team, nothing, nothing, lambda member: member) == [0, 1]


@pytest.mark.parametrize("size", [1, 2])
def test_meanwhile_runs_once_in_the_callers_thread(size):
    callers = []
    run(ThreadTeam(size), nothing, nothing, nothing, lambda: callers.append(threading.get_ident()) or [])
    assert callers == [threading.get_ident()]


def test_the_team_works_while_the_caller_does_something_else():
    started, met = threading.Barrier(3, timeout=patient(20)), []

    def wait(member):
        if member:
            met.append((member, started.wait()))

    def join():
        met.append((0, started.wait()))
        return []

    run(ThreadTeam(3), wait, nothing, nothing, join)
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
        run(team, first, lambda: events.append("between"), nothing, meanwhile)
        timer.cancel()
    last = len(events) - 1 - events[::-1].index("first 0")
    assert events[last : last + 3] == ["first 0", "a", "b"]
    assert events.index("between") > events.index("first 1")


def test_a_team_of_one_leaves_spare_tasks_undone():
    done = []
    run(ThreadTeam(1), nothing, nothing, nothing, lambda: [lambda: done.append("spare")])
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
            run(team, work, nothing, nothing, lambda: [fail])

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
        run(ThreadTeam(2), work, nothing, nothing, fail)
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

"""The team of threads: order, concurrency, errors."""

import threading

import pytest
import torch

from learner.thread_team import ThreadTeam


def test_results_come_in_order_from_threads_that_run_at_once():
    meeting = threading.Barrier(3, timeout=20)

    def work(member):
        meeting.wait()
        return member, threading.get_ident(), torch.get_num_threads()

    results = ThreadTeam(3).run(work)
    assert [member for member, _, _ in results] == [0, 1, 2]
    assert len({thread for _, thread, _ in results}) == 3
    assert {threads for _, _, threads in results} == {1}


def test_a_team_of_one_works_in_the_callers_thread():
    assert ThreadTeam(1).run(lambda member: threading.get_ident()) == [threading.get_ident()]


def test_fewer_calls_than_members():
    assert ThreadTeam(3).run(lambda member: member, 2) == [0, 1]


def test_an_error_comes_back_after_all_have_ended():
    ended = threading.Event()
    release = threading.Event()

    def work(member):
        if member == 0:
            release.set()
            raise ZeroDivisionError("of member 0")
        release.wait(20)
        ended.set()

    with pytest.raises(ZeroDivisionError, match="member 0"):
        ThreadTeam(2).run(work)
    assert ended.is_set()


@pytest.mark.parametrize("size", [1, 2])
def test_meanwhile_runs_once_in_the_callers_thread(size):
    callers = []
    results = ThreadTeam(size).run(
        lambda member: member, meanwhile=lambda: callers.append(threading.get_ident())
    )
    assert results == list(range(size))
    assert callers == [threading.get_ident()]


def test_the_team_works_while_the_caller_does_something_else():
    started = threading.Barrier(3, timeout=20)
    ThreadTeam(2).run(lambda member: started.wait(), meanwhile=started.wait)


def test_an_error_of_the_caller_comes_back_after_the_team_has_ended():
    release, ended = threading.Event(), threading.Event()

    def work(member):
        release.wait(20)
        ended.set()

    def fail():
        release.set()
        raise ZeroDivisionError("meanwhile")

    with pytest.raises(ZeroDivisionError, match="meanwhile"):
        ThreadTeam(2).run(work, meanwhile=fail)
    assert ended.is_set()


@pytest.mark.parametrize(
    ("threads", "batch", "size"), [(1, 32, 1), (2, 32, 2), (16, 32, 4), (2, 8, 1), (4, 4, 1), (64, 512, 64)]
)
def test_every_member_has_rows_enough(threads, batch, size):
    assert ThreadTeam.for_batch(threads, batch).size == size

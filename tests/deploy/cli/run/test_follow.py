"""The foreground loop: Ctrl-C and other signals, runs that end, fail, or are not heard of any more."""

import errno
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.run.follow import Forced, Interrupts
from deploy.fleet.errors import FleetError
from tests.helpers.runs.scripted_run import ScriptedRun, run_line, status


def test_ctrl_c_stops_the_run_cleanly_and_says_how_to_go_on(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ScriptedRun([status("running")], after_stop=[status("stopping"), status("stopped")])
    launched(run)

    def interrupt(asked: int) -> None:
        if asked == 3:
            (Path("runs/r/checkpoints") / "update-000000125").mkdir()
            os.kill(os.getpid(), signal.SIGINT)

    run.on_status = interrupt
    code, out, err = run_line(capsys, "train", "--name", "r")
    assert (code, err) == (0, "")
    assert run.calls.count("stop") == 1
    assert run.calls[-1] == "shutdown"
    assert "runs/r/checkpoints/update-000000125" in out
    assert "apexpert resume r\n" in out


def test_a_fault_of_showing_ends_a_run_cleanly(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ScriptedRun([status("running")], after_stop=[status("stopping"), status("stopped")])
    launched(run)
    shown = []

    def fail(_: object, status: dict[str, Any]) -> None:
        shown.append(status["state"])
        raise KeyError("metrics")

    monkeypatch.setattr("deploy.monitor.console.Console.update", fail)
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert "run r is stopped: it could not be shown: KeyError: 'metrics'; resume it: apexpert resume r" in err
    assert shown == ["running"]
    assert run.calls.index("stop") < run.calls.index("shutdown") == len(run.calls) - 1


def test_what_is_left_of_a_run_that_has_ended_is_no_failure_of_it(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Lasting(ScriptedRun):
        def shutdown(self) -> None:
            raise FleetError("Ray of this run (process 7) does not end")

    launched(Lasting([status("finished")]))
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert (code, err) == (0, "WARNING: Ray of this run (process 7) does not end\n")


def test_a_stop_that_is_not_heard_is_repeated(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Deaf(ScriptedRun):
        def stop(self) -> None:
            super().stop()
            if self.calls.count("stop") < 3:
                raise FleetError("does not answer")
            self._statuses = [status("stopped")]

    run = Deaf([status("running")], after_stop=[status("running")])
    launched(run)
    run.on_status = lambda asked: os.kill(os.getpid(), signal.SIGINT) if asked == 2 else None
    code, out, _ = run_line(capsys, "train", "--name", "r")
    assert code == 0
    assert run.calls.count("stop") == 3
    assert out.count("stopping:") == 1


def test_a_stop_that_a_new_supervisor_has_forgotten_is_repeated(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Forgetful(ScriptedRun):
        def stop(self) -> None:
            super().stop()
            again = self.calls.count("stop") == 2
            self._statuses = [status("stopping"), status("stopped") if again else status("running")]

    run = Forgetful([status("running")])
    launched(run)
    run.on_status = lambda asked: os.kill(os.getpid(), signal.SIGINT) if asked == 2 else None
    assert run_line(capsys, "train", "--name", "r")[0] == 0
    assert run.calls.count("stop") == 2


def test_a_run_that_is_not_heard_of_any_more_is_exit_1(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.cli.run.train.LOST_SECONDS", 0.3)
    launched(ScriptedRun([status("running", time=1.0), status("running", time=2.0)]))
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert "no sign of it for 0 s; resume it: apexpert resume r" in err


def test_a_clock_that_is_set_loses_no_run(
    launched: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The statuses' times are those of another hour, and jump; but they go on."""
    monkeypatch.setattr("deploy.cli.run.follow.LOST_SECONDS", 30.0)
    times = (5.0, 6.0, 9e9, 9e9 + 1, 7.0)
    launched(ScriptedRun([*(status("running", time=at) for at in times), status("finished")]))
    assert run_line(capsys, "train", "--name", "r")[0] == 0


def test_a_run_whose_processes_were_killed_is_exit_1_at_once(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ScriptedRun([status("running")])
    run.is_gone = True
    launched(run)
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert "run r: its processes were ended without a word; resume it: apexpert resume r" in err


def test_a_run_that_was_told_to_stop_as_all_processes_were_has_stopped(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ScriptedRun([status("running")])

    def terminate(asked: int) -> None:
        if asked == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            run.is_gone, run.last = True, status("stopped")

    run.on_status = terminate
    launched(run)
    code, out, _ = run_line(capsys, "train", "--name", "r")
    assert (code, run.calls[-1]) == (0, "shutdown")
    assert "last words True" in run.calls
    assert "apexpert resume r" in out


def test_the_last_words_of_a_run_whose_ray_has_ended_count(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever was not asked to end it hears by the exit code that it is not at its end."""
    run = ScriptedRun([status("running")])
    run.is_gone, run.last = True, status("stopped", message="Ray has ended")
    launched(run)
    code, out, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert "apexpert resume r" in out
    assert "run r was ended from outside: Ray has ended" in err


def test_a_run_that_nobody_can_see_any_more_is_stopped_cleanly(
    launched: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train | head`: the pipe's reader leaves, and nobody has pressed Ctrl-C."""
    run = ScriptedRun([status("running")], after_stop=[status("stopping"), status("stopped")])
    launched(run)

    def leave(asked: int) -> None:
        if asked == 2:
            monkeypatch.setattr(sys.stdout._stream, "write", broken)  # type: ignore[union-attr]

    def broken(text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    run.on_status = leave
    monkeypatch.setattr("deploy.monitor.console.PLAIN_PERIOD_SECONDS", 0.0)
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert "stop" in run.calls
    assert run.calls[-1] == "shutdown"
    assert "its output cannot be written: Broken pipe; resume it: apexpert resume r" in err


def test_a_second_ctrl_c_ends_it_at_once(launched: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = ScriptedRun([status("running")], after_stop=[status("stopping")])
    launched(run)
    run.on_status = lambda asked: os.kill(os.getpid(), signal.SIGINT) if asked in (2, 5) else None
    code, out, _ = run_line(capsys, "train", "--name", "r")
    assert code == 130
    assert run.calls[-1] == "shutdown"
    assert "apexpert resume r" in out


def test_a_run_that_fails_is_exit_1_with_its_reason(
    launched: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(ScriptedRun([status("failed", message="loss is NaN, batch saved in nan.npz")]))
    code, _, err = run_line(capsys, "train", "--name", "r")
    assert code == 1
    assert err.startswith("apexpert: run r failed: loss is NaN, batch saved in nan.npz;")
    assert err.count("\n") == 1


def test_interrupts_count_and_give_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.count == 1
        with pytest.raises(Forced):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_comes_to_the_process_and_to_its_group_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed terminal, `timeout`: the second must not force the end; one that comes later does."""
    now = [10.0]
    monkeypatch.setattr("deploy.cli.run.follow.time.monotonic", lambda: now[0])
    with Interrupts() as interrupts:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.count == 1
        now[0] += 5.0
        with pytest.raises(Forced):
            os.kill(os.getpid(), signal.SIGHUP)

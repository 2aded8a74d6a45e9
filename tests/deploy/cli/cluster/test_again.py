"""`apexpert train --resume-if-there`: what a retry calls, whatever the last attempt has left."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.cluster import again
from deploy.run import locks
from deploy.run.config import ConfigError, with_values
from deploy.run.errors import RunBusy
from deploy.run.folder import RunFolder
from deploy.run.locks import being_made
from deploy.run.presets import LAPTOP
from tests.helpers.runs.scripted_run import METRICS, ScriptedRun, run_line, status

AGAIN = ("train", "--resume-if-there", "--name", "r")
NAMED = with_values(LAPTOP, run__name="r")


@pytest.fixture
def calls(launched: Any) -> list[Any]:
    """The runs that are launched from now on."""
    found: list[Any] = launched(ScriptedRun([status("stopped")]))
    return found


def has_ended(state: str, **more: Any) -> None:
    RunFolder.open("r").write_json("status.json", status(state, **more))


def test_it_creates_the_run_and_resumes_it_with_the_same_flags(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--seed", "3", "--actors", "2", "--game", "Breakout", "--learner.learning-rate", "0.001")
    assert run_line(capsys, *AGAIN, *flags)[0] == 0
    before = RunFolder.open("r").load_config()
    has_ended("stopped")
    code, out, err = run_line(capsys, *AGAIN, *flags)
    assert (code, err) == (0, "")
    assert "r is there: resuming it\n" in out
    assert [resumed for *_, resumed in calls] == [False, True]
    assert calls[1][0] == with_values(before, run__runs_dir=str(Path("runs").absolute()))


def test_flags_that_resume_has_are_applied_if_they_are_given(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_line(capsys, *AGAIN, "--total-env-steps", "20000", "--max-hours", "3", "--until-return", "5")
    has_ended("stopped")
    code, out, _ = run_line(capsys, *AGAIN, "--actors", "3", "--max-hours", "4")
    assert code == 0
    assert "resuming it with --max-hours 4.0 --actors.num-actors 3\n" in out
    config = calls[1][0]
    assert (config.run.total_env_steps, config.run.until_return) == (20_000, 5.0), "not given: as before"
    assert (config.run.max_hours, config.actors.num_actors) == (4.0, 3)


def test_a_file_of_flags_counts_as_given(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    run_line(capsys, *AGAIN)
    has_ended("stopped")
    Path("more.toml").write_text("[run]\ntotal_env_steps = 2_000_000\n")
    assert run_line(capsys, *AGAIN, "--config", "more.toml")[0] == 0
    assert calls[1][0].run.total_env_steps == 2_000_000


def test_any_other_flag_that_differs_is_refused_and_nothing_changes(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_line(capsys, *AGAIN, "--seed", "3", "--game", "Breakout")
    has_ended("stopped")
    before = RunFolder.open("r").config_path.read_text()
    code, _, err = run_line(capsys, *AGAIN, "--actors", "2", "--game", "Pong")
    assert (code, err.count("\n")) == (2, 1)
    assert "run r is there with other settings" in err
    assert "--seed 0 (it has 3), --game pong (it has breakout)" in err
    assert "apexpert resume r resumes it as it is" in err
    assert len(calls) == 1
    assert RunFolder.open("r").config_path.read_text() == before


def test_a_finished_run_is_done(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    run_line(capsys, *AGAIN, "--total-env-steps", "6000")
    has_ended("finished")
    code, out, err = run_line(capsys, *AGAIN, "--total-env-steps", "6000")
    assert (code, err) == (0, "")
    assert out.startswith("r: finished already")
    assert len(calls) == 1
    assert run_line(capsys, *AGAIN, "--total-env-steps", "7000")[0] == 0
    assert calls[1][0].run.total_env_steps == 7_000, "a later end resumes it"


def test_a_run_that_finishes_while_it_is_waited_for_is_done(
    calls: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_line(capsys, *AGAIN)
    has_ended("evaluating")
    monkeypatch.setattr(again, "wait_until_left", lambda _: has_ended("finished"))
    code, out, _ = run_line(capsys, *AGAIN)
    assert (code, len(calls)) == (0, 1)
    assert out.startswith("r: finished already")


def test_a_run_that_finished_early_goes_on_with_another_end(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_line(capsys, *AGAIN, "--max-hours", "1")
    has_ended("finished", message="max_hours is reached", metrics=METRICS)
    assert "finished already" in run_line(capsys, *AGAIN, "--max-hours", "1")[1]
    assert run_line(capsys, *AGAIN, "--max-hours", "2")[0] == 0
    assert [config.run.max_hours for config, *_ in calls] == [1.0, 2.0]


def test_it_needs_a_name(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_line(capsys, "train", "--resume-if-there")
    assert (code, calls) == (2, [])
    assert "--resume-if-there: needs --name NAME" in err


def test_a_folder_that_is_half_made_is_made_anew(
    calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    half = Path("runs/r")
    (half / "checkpoints").mkdir(parents=True)
    (half / "metadata.json").write_text("{}")
    assert run_line(capsys, *AGAIN)[0] == 0
    assert [resumed for *_, resumed in calls] == [False]
    shutil.rmtree(half)
    (half / "notes").mkdir(parents=True)
    (half / "notes" / "mine.txt").write_text("x")
    code, _, err = run_line(capsys, *AGAIN)
    assert code == 2
    assert "is there already" in err
    assert (half / "notes" / "mine.txt").exists(), "somebody else's"


def test_a_folder_that_is_being_made_is_not_taken_for_half_made(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "MAKING_SECONDS", 0.0)

    def looked_at(*_: Any) -> None:
        with pytest.raises(RunBusy, match="another command is making"):
            again.there(NAMED)

    monkeypatch.setattr(RunFolder, "_fill", looked_at)
    folder = RunFolder.create(NAMED)
    assert folder.path.exists(), "another command's --resume-if-there has left it alone"
    assert [path.name for path in folder.path.parent.iterdir()] == ["r"], "the lock's file is removed"


def test_whoever_waited_for_the_lock_does_not_hold_a_file_that_was_removed(in_tmp: Path) -> None:
    path, entered, order = in_tmp / "runs" / "r", threading.Event(), []

    def second() -> None:
        with being_made(path):
            order.append("second")
            entered.set()

    waiting = threading.Thread(target=second)
    with being_made(path):
        waiting.start()
        assert not entered.wait(0.2)
        order.append("first")
    assert entered.wait(60)
    waiting.join()
    assert order == ["first", "second"]


def test_the_second_of_two_at_once_is_refused_in_one_line(
    calls: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_line(capsys, *AGAIN)
    has_ended("running")
    monkeypatch.setattr(again, "ABANDONED_SECONDS", 0.0)
    with RunFolder.open("r").lock():
        code, _, err = run_line(capsys, *AGAIN)
    assert (code, err.count("\n"), len(calls)) == (2, 1, 1)
    assert "r is at work already: see apexpert status r" in err


def test_a_retry_waits_for_the_run_of_a_killed_command_to_save_and_end(
    calls: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_line(capsys, *AGAIN)
    folder, looks = RunFolder.open("r"), [True, True, True, False]
    states = iter(["running", "stopping", "stopping"])
    monkeypatch.setattr(again, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(RunFolder, "is_at_work", lambda _: looks.pop(0) if looks else False)
    monkeypatch.setattr(again, "read_status", lambda _: status(next(states, "stopped")))
    again.wait_until_left(folder)
    assert looks == []
    assert "waiting in case it is about to stop" in capsys.readouterr().out


def test_a_detached_run_is_not_waited_for_unless_it_stops(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(with_values(NAMED, run__detach=True))
    folder.write_json("status.json", status("running"))
    monkeypatch.setattr(again, "LOOK_SECONDS", 60.0)
    with folder.lock():
        again.wait_until_left(folder)


URLS = ("redis://:one@a:1/0", "redis://:one@b:1/0")
SHARED = with_values(NAMED, replay__urls=URLS)
GIVEN = frozenset({"replay.urls"})


@pytest.mark.parametrize(
    ("urls", "given", "expected"),
    [
        (URLS, GIVEN, {}),
        (URLS[:1], GIVEN, {"urls": URLS}),
        (("redis://:two@a:1/0",), GIVEN, {"urls": ("redis://:two@a:1/0", URLS[1])}),
        ((), frozenset(), {}),
        (("redis://c:1",), frozenset(), {}),
    ],
    ids=["the same", "one was added", "another password", "none given", "of the environment"],
)
def test_shards_may_have_been_added_and_have_new_passwords(
    urls: tuple[str, ...], given: frozenset[str], expected: dict[str, Any], in_tmp: Path
) -> None:
    folder = RunFolder.create(SHARED)
    found = again.changes(folder, with_values(NAMED, replay__urls=urls), given)
    assert found == expected
    assert not any(password in again.told(folder, found) for password in ("one@", "two@"))


@pytest.mark.parametrize("urls", [("redis://:one@c:1/0",), (*URLS, "redis://c:1"), URLS[1:]])
def test_other_servers_would_be_another_run(urls: tuple[str, ...], in_tmp: Path) -> None:
    folder = RunFolder.create(SHARED)
    with pytest.raises(ConfigError, match=r"--replay\.urls redis:") as refusal:
        again.changes(folder, with_values(NAMED, replay__urls=urls), GIVEN)
    assert "one@" not in str(refusal.value), "no password"


def test_embedded_shards_may_have_been_added(in_tmp: Path) -> None:
    folder = RunFolder.create(with_values(NAMED, replay__shards=3))
    given = frozenset({"replay.shards"})
    assert again.changes(folder, with_values(NAMED, replay__shards=2), given) == {}
    with pytest.raises(ConfigError, match=r"--replay\.shards 4 \(it has 3\)"):
        again.changes(folder, with_values(NAMED, replay__shards=4), given)

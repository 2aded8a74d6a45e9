"""`apexpert submit`: what becomes of the flags, and one line for what cannot be a job."""

import http.server
import shlex
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.fleet.errors import FleetError
from deploy.fleet.ray import jobs
from deploy.fleet.ray.jobs import Jobs, address_of_environment
from tests.helpers.runs.scripted_run import run_line

AT = ("submit", "--address", "http://head:8265", "--name", "r")


class RecordedJobs:
    """Notes what is submitted, and says how it ends."""

    submitted: list[tuple[str, str, dict[str, Any]]]
    addresses: list[str]
    end = ("SUCCEEDED", "")

    def __init__(self, address: str) -> None:
        self.addresses.append(address)

    def submit(self, command: str, job_id: str, **more: Any) -> None:
        self.submitted.append((command, job_id, more))

    def follow(self, job_id: str, show: Callable[[str], object]) -> tuple[str, str]:
        show(f"output of {job_id}\n")
        return self.end


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[RecordedJobs]:
    RecordedJobs.submitted, RecordedJobs.addresses = [], []
    monkeypatch.setattr(jobs, "Jobs", RecordedJobs)
    for name in jobs.OVERRIDING:
        monkeypatch.delenv(name, raising=False)
    return RecordedJobs


def test_the_flags_become_a_command_that_creates_or_resumes(
    recorded: type[RecordedJobs], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--preset", "laptop", "--game", "Pong", "--runs-dir", "/shared/my runs")
    code, out, err = run_line(capsys, *AT, "--", *flags)
    assert (code, err) == (0, "")
    [(command, job, more)] = recorded.submitted
    assert shlex.split(command) == ["apexpert", "train", "--resume-if-there", "--name", "r", *flags]
    assert job.startswith("r-")
    assert more["metadata"] == {"apexpert_run": "r"}
    assert more["variables"] == {"RAY_JOB_STOP_WAIT_TIME_S": "180"}, "its own 3 s are too short to save"
    assert more["working_dir"] == ""
    assert f"ray job logs --address http://head:8265 --follow {job}" in out
    assert f"ray job stop --address http://head:8265 {job}" in out
    assert "note:" not in out


def test_a_relative_folder_of_runs_is_told_of(
    recorded: type[RecordedJobs], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run_line(capsys, *AT, "--command", "/opt/venv/bin/python -m apexpert", "--", "--seed", "2")
    assert "note: --runs-dir is relative" in out
    assert recorded.submitted[0][0] == (
        "/opt/venv/bin/python -m apexpert train --resume-if-there --name r --seed 2"
    )


def test_the_users_own_modules_go_along(
    recorded: type[RecordedJobs], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (*AT, "--working-dir", str(in_tmp))
    code, _, err = run_line(capsys, *given)
    assert (code, recorded.submitted) == (2, [])
    assert "--runs-dir runs: with --working-dir it must be a full path" in err
    assert run_line(capsys, *given, "--", "--runs-dir", "/shared/runs")[0] == 0
    assert recorded.submitted[0][2]["working_dir"] == str(in_tmp)


def test_files_and_runs_of_the_cluster_are_not_looked_for_here(
    recorded: type[RecordedJobs], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_line(capsys, *AT, "--", "--config", "/there/pong.toml")[0] == 0
    assert run_line(capsys, *AT, "--", "--replay.urls", "@/there/urls")[0] == 0
    assert len(recorded.submitted) == 2


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--address", "http://head:8265"], "--name: needs a run's name"),
        (["--address", "http://head:8265", "--name", "a b"], "--name 'a b': needs a run's name"),
        (["--name", "r"], "--address: must be the cluster's dashboard"),
        (["--name", "r", "--address", "head:6379"], "--address head:6379: must be the cluster's dashboard"),
        ([*AT[1:], "--working-dir", "none"], "--working-dir none: is no folder"),
        ([*AT[1:], "--", "--name", "s"], "--name: submit gives it to apexpert train"),
        ([*AT[1:], "--", "--resume-if-there"], "--resume-if-there: submit gives it to apexpert train"),
        ([*AT[1:], "--", "--detach"], "--detach: not in a job: the job would end at once"),
        ([*AT[1:], "--", "--print-config"], "--print-config: not in a job"),
        (
            [*AT[1:], "--", "--replay.urls", "redis://:secret@h:1"],
            "--replay.urls: everybody sees a job's flags",
        ),
        ([*AT[1:], "--", "--learner.los", "x"], "--learner.los: unknown flag; did you mean --learner.loss?"),
        ([*AT[1:], "--", "--actors", "0"], "--actors 0: must be"),
        ([*AT[1:], "--preset", "laptop"], "--preset: unknown flag"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_submitted(
    words: list[str], problem: str, recorded: type[RecordedJobs], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_line(capsys, "submit", *words)
    assert (code, err.count("\n"), recorded.submitted) == (2, 1, [])
    assert err.startswith(f"apexpert: {problem}")
    assert "secret" not in err


def test_it_follows_the_job_to_its_end(
    recorded: type[RecordedJobs], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run_line(capsys, *AT, "--follow")
    job = recorded.submitted[0][1]
    assert code == 0
    assert f"output of {job}\njob {job}: SUCCEEDED\n" in out
    monkeypatch.setattr(recorded, "end", ("FAILED", "failed with exit code 2, last logs:\nmany lines"))
    code, _, err = run_line(capsys, *AT, "--follow")
    assert code == 1
    assert err == f"apexpert: job {recorded.submitted[1][1]} is FAILED: failed with exit code 2, last logs:\n"

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recorded, "follow", interrupted)
    code, out, _ = run_line(capsys, *AT, "--follow")
    assert code == 130
    assert f"job {recorded.submitted[2][1]} goes on" in out


def test_the_address_may_come_from_rays_own_variables(
    recorded: type[RecordedJobs], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert address_of_environment() == "", "a Ray to train on has no Jobs API"
    monkeypatch.setenv("RAY_ADDRESS", "http://one:8265")
    assert run_line(capsys, "submit", "--name", "r")[0] == 0
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://two")
    assert run_line(capsys, "submit", "--name", "r")[0] == 0
    assert recorded.addresses == ["http://one:8265", "https://two"]


def test_without_its_extra_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "NEEDED", ("numpy", "no_such_package"))
    with pytest.raises(
        FleetError, match=r"no_such_package is not installed: pip install 'apexpert\[cluster\]'"
    ):
        Jobs("http://127.0.0.1:1")


class StartingClient:
    """Ray's client of a cluster that has only just started."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)

    def submit_job(self, **_: Any) -> None:
        if answer := self.answers.pop(0):
            raise answer


def test_a_cluster_that_has_only_just_started_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.0)
    submitting, not_yet = (
        Jobs.__new__(Jobs),
        RuntimeError("status code 500: No available agent to submit job"),
    )
    submitting._address, what = "http://h", {"metadata": {}, "working_dir": "", "variables": {}}
    submitting._client = StartingClient(not_yet, not_yet, None)
    submitting.submit("true", "j", **what)
    assert submitting._client.answers == []
    submitting._client = StartingClient(RuntimeError("status code 400: another"), None)
    with pytest.raises(FleetError, match="--address http://h: status code 400: another"):
        submitting.submit("true", "j", **what)
    monkeypatch.setattr(jobs, "READY_SECONDS", -1.0)
    submitting._client = StartingClient(not_yet, None)
    with pytest.raises(FleetError, match="No available agent"):
        submitting.submit("true", "j", **what)


@pytest.fixture
def other_server() -> Iterator[str]:
    """The address of a web server that is no dashboard."""

    class Silent(http.server.BaseHTTPRequestHandler):
        """Refuses everything, and prints nothing."""

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Silent)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_address_without_a_dashboard_is_told_of(
    other_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "NEEDED", ())
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = run_line(capsys, "submit", "--name", "r", "--address", "http://127.0.0.1:1")
    assert (code, err.count("\n")) == (2, 1)
    assert "--address http://127.0.0.1:1: no Ray's dashboard answers there" in err
    code, _, err = run_line(capsys, "submit", "--name", "r", "--address", other_server)
    assert (code, err.count("\n")) == (2, 1)
    assert f"--address {other_server}: no Ray's dashboard, it answers 501" in err

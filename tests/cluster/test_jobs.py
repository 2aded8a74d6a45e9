"""Real Ray jobs: stopped while saving is slow, submitted again, twice at once, and with one's own modules."""

import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.fleet.ray.jobs import Jobs
from deploy.run.status import read_status
from tests.helpers.cluster.job_rays import JobRay, ray_with_jobs
from tests.helpers.deadline import patient, until
from tests.helpers.runs.catch_runs import flags, metric
from tests.helpers.runs.commands import APEXPERT, NAME, SHORT, Terminal
from tests.helpers.runs.processes import is_alive

pytestmark = pytest.mark.cluster

FLAGS = [
    *flags({section: values for section, values in SHORT.items() if section != "run"}),
    *("--preset", "laptop", "--seed", "1", "--total-env-steps", "1000000"),
]


@pytest.fixture(scope="module")
def job_ray() -> Iterator[JobRay]:
    """A Ray that takes jobs, as somebody else started it."""
    pytest.importorskip("aiohttp", reason="needs apexpert[cluster]")
    with ray_with_jobs() as job_ray:
        yield job_ray


def submit(terminal: Terminal, job_ray: JobRay, *more: str) -> str:
    """Submit the run of `terminal` as a user does; gives the job's id."""
    words = ["--address", job_ray.jobs, "--name", NAME, "--command", str(APEXPERT), *more]
    done = terminal.run("submit", *words, "--", *FLAGS, "--runs-dir", str(terminal.path / "runs"))
    assert done.returncode == 0, done.stderr
    return re.match(r"job (\S+) at ", done.stdout)[1]  # type: ignore[index]


def plainly(terminal: Terminal, job_ray: JobRay, job: str) -> None:
    """Submit it as `ray job submit` does: Ray kills the command 3 s after it has asked it to end."""
    words = ["train", "--resume-if-there", "--name", NAME, *FLAGS, "--runs-dir", str(terminal.path / "runs")]
    command = shlex.join([str(APEXPERT), *words])
    Jobs(job_ray.jobs).submit(command, job, metadata={}, working_dir="", variables={})


class Job:
    """A job as Ray tells of it."""

    def __init__(self, job_ray: JobRay, name: str) -> None:
        self.name, self._client = name, Jobs(job_ray.jobs)._client

    def stop(self) -> None:
        self._client.stop_job(self.name)

    def ends(self, seconds: float = 240) -> tuple[str, str]:
        """Its last status and its output."""
        over = ("SUCCEEDED", "FAILED", "STOPPED")
        until(lambda: self.status() in over, f"the end of {self.name}", seconds, pause=0.2)
        return self.status(), str(self._client.get_job_logs(self.name))

    def status(self) -> str:
        """One of Ray's words for how it is."""
        return str(self._client.get_job_status(self.name).value)


def follow(
    terminal: Terminal, job: Job, reached: Callable[[dict[str, Any]], bool], what: str
) -> dict[str, Any]:
    """The first status of the run for which `reached` holds; AssertionError when the job ends before."""

    def look() -> dict[str, Any] | None:
        if job.status() in ("FAILED", "STOPPED"):
            raise AssertionError(job.ends()[1])
        status = read_status(terminal.folder) if terminal.folder.config_path.exists() else {}
        return status if reached(status) else None

    found = until(look, what, 300, pause=0.2)
    assert found is not None
    return found


def learns(status: dict[str, Any], *, beyond: float = 0) -> bool:
    return status.get("state") == "running" and metric(status, "progress/updates") > beyond


def commands_of(terminal: Terminal) -> list[int]:
    """The processes of `apexpert train` for this terminal's run."""
    runs = str(terminal.path / "runs")
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if "--resume-if-there" in words and runs in words:
            found.append(process.info["pid"])
    return found


def has_ended(terminal: Terminal) -> bool:
    return read_status(terminal.folder)["state"] in ("stopped", "failed", "finished")


def saved_updates(terminal: Terminal) -> float:
    return terminal.folder.counts_of_newest_checkpoint().get("progress/updates", 0.0)


@pytest.mark.timeout(1800)
def test_a_job_that_is_stopped_during_a_slow_save_is_resumed_from_that_save(
    job_ray: JobRay, tmp_path: Path
) -> None:
    terminal = Terminal(tmp_path)
    plainly(terminal, job_ray, "first")
    job = Job(job_ray, "first")
    status = follow(terminal, job, learns, "updates")
    learner = status["learner"]["pid"]
    os.kill(learner, signal.SIGSTOP)  # It saves as slowly as this.
    try:
        job.stop()
        ended, printed = job.ends()
        assert ended == "STOPPED"
        assert f"on the Ray at {job_ray.address} (from $RAY_ADDRESS)" in printed
        until(lambda: not commands_of(terminal), "the command's death", 60)
        assert not has_ended(terminal), "the run goes on without its command, to save"
        before = saved_updates(terminal)
    finally:
        os.kill(learner, signal.SIGCONT)
    until(lambda: has_ended(terminal), "the run's end", 180)
    status = read_status(terminal.folder)
    assert status["state"] == "stopped", status
    assert saved_updates(terminal) == metric(status, "progress/updates") > before
    assert not is_alive(learner)

    again = Job(job_ray, submit(terminal, job_ray))
    status = follow(terminal, again, lambda now: learns(now, beyond=saved_updates(terminal)), "more updates")
    twice = Job(job_ray, submit(terminal, job_ray))
    ended, printed = twice.ends()
    assert ended == "FAILED"
    assert f"{NAME} is at work already" in printed
    assert "Traceback" not in printed

    again.stop()
    ended, printed = again.ends()
    assert ended == "STOPPED"
    assert f"{NAME} is there: resuming it" in printed
    # Submit gives the command the time to see the end.
    assert "resume it:" in printed
    assert read_status(terminal.folder)["state"] == "stopped"
    assert saved_updates(terminal) == metric(read_status(terminal.folder), "progress/updates")


@pytest.mark.timeout(1800)
def test_a_killed_commands_run_saves_and_is_stopped_from_any_machine(job_ray: JobRay, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    job = Job(job_ray, submit(terminal, job_ray))
    follow(terminal, job, learns, "updates")
    at = ("--ray-address", job_ray.address)
    listed = Terminal(tmp_path / "..").run("list", *at).stdout
    assert str(terminal.folder.path) in listed
    killed = time.monotonic()
    for pid in commands_of(terminal):
        os.kill(pid, signal.SIGKILL)
    assert job.ends()[0] == "FAILED"
    # A retry that comes at once waits for what the killed one has left.
    again = Job(job_ray, submit(terminal, job_ray))
    until(lambda: has_ended(terminal), "the end of the run that was left", 120)
    assert time.monotonic() - killed < patient(120)
    saved = saved_updates(terminal)
    assert saved > 0
    follow(terminal, again, lambda now: learns(now, beyond=saved), "more updates")
    stopped = terminal.run("stop", NAME, *at)
    assert stopped.returncode == 0, stopped.stderr
    assert f"{NAME}: stopped; its checkpoints are in {terminal.folder.path}/checkpoints" in stopped.stdout
    assert again.ends()[0] == "SUCCEEDED", "it was stopped from outside, as it may be"
    assert saved_updates(terminal) > saved


OWN = "from tests.helpers.catch import make\n"


@pytest.mark.timeout(1200)
def test_modules_of_ones_own_go_along_and_a_detached_job_is_refused(job_ray: JobRay, tmp_path: Path) -> None:
    terminal, modules = Terminal(tmp_path), tmp_path / "modules"
    modules.mkdir()
    (modules / "my_catch.py").write_text(OWN)
    words = ["--address", job_ray.jobs, "--name", NAME, "--command", str(APEXPERT)]
    words += ["--working-dir", str(modules), "--follow", "--", *FLAGS, "--runs-dir", str(tmp_path / "runs")]
    done = terminal.run(
        "submit", *words, "--environment.env", "my_catch:make", "--total-env-steps", "1200", seconds=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": SUCCEEDED" in done.stdout
    assert read_status(terminal.folder)["state"] == "finished"

    command = shlex.join([str(APEXPERT), "train", "--name", "detached", "--detach"])
    Jobs(job_ray.jobs).submit(command, "detached", metadata={}, working_dir="", variables={})
    ended, printed = Job(job_ray, "detached").ends()
    assert ended == "FAILED"
    assert "--detach: not in a Ray job" in printed

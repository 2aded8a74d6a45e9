"""`status`, `scale`, `stop` and `list` with --ray-address: through the supervisors, without any folder."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from deploy.fleet.ray import runs
from deploy.fleet.ray.cluster import NAMESPACE
from tests.helpers.runs.scripted_run import run_line, status

FOLDERS = ("/one/r", "/two/r", "/one/s")


class FakeSupervisor:
    """Answers as a supervisor does."""

    def __init__(self, name: str) -> None:
        self._status = status("running", run=name, game="pong")
        self.asked: list[Any] = []

    def status(self) -> dict[str, Any]:
        if self._status["state"] == "stopping":
            self._status["state"] = "stopped"
        return self._status

    def scale(self, num_actors: int) -> None:
        self._status["target_actors"] = num_actors

    def stop(self, awaited: bool = False) -> None:
        assert awaited, "or the supervisor would be gone before its last status is seen"
        self._status["state"] = "stopping"


@pytest.fixture
def at(shared_ray: str) -> Iterator[str]:
    """A Ray with three runs, two of them of the same name."""
    named = {f"supervisor:{path}": path.rpartition("/")[2] for path in FOLDERS}
    actors = [
        ray.remote(FakeSupervisor).options(name=name, namespace=NAMESPACE, num_cpus=0).remote(run)
        for name, run in named.items()
    ]
    other = ray.remote(FakeSupervisor).options(name="another", namespace=NAMESPACE, num_cpus=0).remote("x")
    yield shared_ray
    for actor in [*actors, other]:
        ray.kill(actor)


def test_runs_are_found_by_their_rays_alone(
    at: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    ray_of = ("--ray-address", at)
    code, out, _ = run_line(capsys, "list", *ray_of)
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        [name, "pong", "running", "6,000", "/", "10,000", "-20.50", path]
        for name, path in (("r", "/one/r"), ("r", "/two/r"), ("s", "/one/s"))
    ]

    code, _, err = run_line(capsys, "status", "r", *ray_of)
    assert (code, err.count("\n")) == (2, 1)
    assert "r: 2 runs on that Ray have this name; give one's folder: /one/r and /two/r" in err
    code, _, err = run_line(capsys, "stop", "t", *ray_of)
    assert code == 2
    assert f"no run 't' is at work on the Ray at {at}; at work there: r, r, s" in err

    assert run_line(capsys, "scale", "s", "--actors", "7", *ray_of)[1] == "s: 7 actors asked for\n"
    code, out, _ = run_line(capsys, "status", "/two/r", *ray_of)
    assert code == 0
    assert out.startswith("r: running, 6,000 of 10,000 env steps")
    assert json.loads(run_line(capsys, "status", "s", "--json", *ray_of)[1])["target_actors"] == 7

    code, out, _ = run_line(capsys, "stop", "s", *ray_of)
    assert (code, out) == (0, "s: stopping\ns: stopped; its checkpoints are in /one/s/checkpoints\n")
    code, out, _ = run_line(capsys, "status", "s", "--follow", *ray_of)
    assert code == 0, "a run that has ended is followed no more"


def test_what_needs_the_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--shards", "3"], ["--add-urls", "redis://h:1"]):
        code, _, err = run_line(capsys, "scale", "r", "--ray-address", "h:1", *words)
        assert code == 2
        assert "--shards, --add-urls: need the run's folder" in err
    code, _, err = run_line(capsys, "scale", "r", "--ray-address", "h:1", "--actors", "0")
    assert code == 2
    assert "--actors 0: must be 1 to" in err


def test_a_ray_without_runs(shared_ray: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_line(capsys, "list", "--ray-address", shared_ray) == (
        0, f"no runs at work on the Ray at {shared_ray}\n", "",
    )  # fmt: skip


@pytest.mark.parametrize(
    "command", [["list"], ["status", "r"], ["stop", "r"], ["scale", "r", "--actors", "2"]]
)
def test_an_address_at_which_nothing_answers_is_told_of(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run_line(capsys, *command, "--ray-address", "127.0.0.1:1")
    assert (code, err.count("\n")) == (2, 1)
    assert "--ray-address 127.0.0.1:1: nothing answers there" in err


def test_a_run_that_vanishes_while_it_stops_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        """A supervisor's handle whose calls find it dead."""

        def __getattr__(self, name: str) -> Any:
            return type("Method", (), {"remote": lambda *_: name})

    def get(method: str, **_: Any) -> Any:
        if method == "status":
            raise ray.exceptions.ActorDiedError

    monkeypatch.setattr(runs.ray, "get", get)
    with pytest.raises(runs.FleetError, match="r has ended, and how was not seen: see /one/r"):
        runs.RunOnRay("/one/r", Gone()).stop()

"""`apexpert bench`: how long it takes, and what it tells meanwhile."""

import inspect
import json
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.bench import actor, diagnostics, end_to_end, head, learner, weights
from deploy.bench.replay import replay
from deploy.cli.bench import QUICK, WHAT, BenchOptions, how
from deploy.cli.main import main
from deploy.run.config import Config, to_json, with_values
from deploy.run.presets import LAPTOP

MODULES = {
    "actor": actor, "replay": replay, "learner": learner, "head": head, "diagnostics": diagnostics,
    "weights": weights, "end-to-end": end_to_end,
}  # fmt: skip


@pytest.mark.parametrize("what", WHAT)
def test_every_benchmark_reports_and_has_a_quick_form(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, given = MODULES[what], []
    known = inspect.signature(module.run).parameters
    assert set(QUICK[what]) | {"report", "seconds"} <= set(known)

    def run(config: Config, *, report: Any, **options: Any) -> dict[str, Any]:
        given.append(options)
        report("half done")
        result = {"benchmark": what, "config": to_json(config)}
        return result | {"device": "", "precision": "", "batch_size": 1, "rows": []}

    monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr("deploy.cli.bench.with_checked_environment", lambda config: config)
    assert main(["bench", what, "--quick", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "half done\n", "on stderr: a program reads the result"
    assert json.loads(captured.out)["benchmark"] == what
    assert main(["bench", what, "--quick", "--seconds", "7"]) == 0
    assert given == [dict(QUICK[what]), QUICK[what] | {"seconds": 7.0}]


def test_flags_go_before_quick_and_defaults_are_whole() -> None:
    assert how("replay", BenchOptions()) == {"repeats": 3, "items": 1_000_000}
    assert how("end-to-end", BenchOptions()) == {"repeats": 3}
    assert how("head", BenchOptions()) == {}
    quick = how("replay", BenchOptions(quick=True, items=5_000, parts=("tail",)))
    assert quick == {"seconds": 1.0, "repeats": 1, "items": 5_000, "parts": ("tail",)}


class BenchedRun:
    """A run that inserts 1,000 items between two looks at it, each of which takes 2 s."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock
        self._inserted = iter(range(0, 10**6, 1_000))

    def status(self) -> dict[str, Any]:
        self._clock[0] += 2.0
        metrics = {"replay/inserted": float(next(self._inserted)), "replay/sampled": 0.0}
        return {"state": "running", "message": "", "metrics": metrics}

    def wait_finished(self, timeout: float) -> None:
        pass

    heartbeat = stop = shutdown = lambda self: None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    time = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda _: None)
    monkeypatch.setattr(end_to_end, "time", time)
    return now


def test_end_to_end_says_what_it_does_and_how_far_it_is(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    limit = {"limit": 10.0, "update_samples_per_s": 1.0, "cores": 2.0}
    monkeypatch.setattr(end_to_end.limits, "measure", lambda *_, **__: limit)
    monkeypatch.setattr("deploy.fleet.launch", lambda *_, **__: BenchedRun(clock))
    config = with_values(LAPTOP, replay__error_buffer=0)
    result = end_to_end.run(config, seconds=6.0, repeats=2, paddings=("same",), report=said.append)
    assert said[0] == "same padding, run 1 of 2: about 75 s"
    assert said[1:4] == ["starting a run", "warming up: 2,000 of 3,600 env steps", "measuring the run: 6 s"]
    assert said[4].startswith("same padding, run 1 of 2: agent_steps_per_s ")
    assert said[5] == "same padding, run 2 of 2: about 75 s"
    assert len(result["repeats"]["same"]) == 2
    assert not [key for key in result if key.endswith("_valid")]

"""What each benchmark says before and while it measures; the measuring itself is replaced."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from deploy.bench import actor, diagnostics, end_to_end, head, learner, limits, weights
from deploy.bench.actor import weights_pauses_ms
from deploy.cli.bench import QUICK
from deploy.run.config import Config
from deploy.run.presets import PRESETS
from tests.helpers.runs.catch_runs import catch_config

PARTS = {"env_steps_per_s": 1.0, "forward_states_per_s": 1.0, "update_samples_per_s": 1.0, "cores": 2.0}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return catch_config(tmp_path)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that takes time answers at once."""
    counters = SimpleNamespace(bytes=1, items=1)
    played = SimpleNamespace(step=lambda: None, drain=lambda: None, close=lambda: None)
    written = SimpleNamespace(counters=counters)
    for module in (actor, learner):
        monkeypatch.setattr(module, "open_shards", lambda _: nullcontext([]))
        monkeypatch.setattr(module, "make_actor", lambda *_: (played, written))
    monkeypatch.setattr(learner, "_filled_sampler", lambda *_: SimpleNamespace(sample=None))
    monkeypatch.setattr(learner, "_updates_per_s", lambda *_: 1.0)
    for name in ("calls_per_s", "env_steps_per_s", "forward_states_per_s", "update_samples_per_s"):
        monkeypatch.setattr(limits, name, lambda *_, **__: 1.0)
    for name in ("make_policy", "forward_pass"):
        monkeypatch.setattr(limits, name, lambda *_: lambda: None)
    monkeypatch.setattr(limits, "env_step", lambda _: nullcontext(lambda: None))
    monkeypatch.setattr(actor, "weights_pauses_ms", lambda _: ([1.0], [1.0]))
    step = SimpleNamespace(parameters=dict)
    monkeypatch.setattr(limits, "make_train_step", lambda *_: step)
    monkeypatch.setattr(weights, "measure_on_own_ray", lambda *_: (1.0, 1.0))
    costs = {"percent": 1.0}
    monkeypatch.setattr(diagnostics, "_measure", lambda *_: costs)
    row = {"forward_share": 0.5, "forward_backward_share": 0.5}
    monkeypatch.setattr(head, "_measure", lambda *_: row)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (actor, ["measuring an actor, its environments and its policy: 6 s"]),
        (learner, ["filling a replay with 2,000 transitions, then measuring a learner: 6 s"]),
        (
            weights,
            [
                "measuring updates, environments and forward passes by themselves: 6 s",
                "starting a Ray, then measuring requests and publications: 4 s",
            ],
        ),
    ],
    ids=["actor", "learner", "weights"],
)
def test_it_says_what_it_measures_and_for_how_long(module: Any, said: list[str], config: Config) -> None:
    heard: list[str] = []
    module.run(config, seconds=2.0, report=heard.append)
    assert heard == said


def test_diagnostics_tell_each_preset_when_it_is_measured(config: Config) -> None:
    heard: list[str] = []
    diagnostics.run(config, seconds=2.0, report=heard.append)
    told = [f"{place} of {len(PRESETS)}: {name}" for place, name in enumerate(PRESETS, 1)]
    assert [line.rpartition(": ")[0] for line in heard] == told


def test_the_head_is_announced_before_its_first_case_and_told_with_each(config: Config) -> None:
    heard: list[str] = []
    head.run(config, report=heard.append)
    assert heard[0] == "measuring 10 networks: 2 s each, or 6 slow passes"
    assert [line.partition(": ")[0] for line in heard[1:]] == [f"{place} of 10" for place in range(1, 11)]


def test_a_quick_run_is_expected_to_take_less_than_a_minute() -> None:
    quick = QUICK["end-to-end"]
    assert quick["repeats"] == len(quick["paddings"]) == 1
    assert end_to_end._expected_seconds(quick["seconds"], quick["limit_seconds"]) < 60.0


def test_the_ratio_of_an_actor_to_its_limit_is_of_each_round() -> None:
    """Of three rounds the machine is twice as slow in the second; each alone has the same ratio."""

    def round_(pace: float) -> tuple[actor.Speed, ...]:
        return tuple(actor.Speed(pace * wall, 10 * wall) for wall in (90.0, 200.0, 200.0))

    found = actor.figures([round_(1.0), round_(0.5), round_(1.0)])
    assert found == {
        "agent_steps_per_s": 90.0,
        "env_steps_per_s": 200.0,
        "forward_states_per_s": 200.0,
        "limit": pytest.approx(100.0),
        "ratio_of_limit": pytest.approx(0.9),
        "ratio_of_limit_processor": pytest.approx(0.9),
    }


def test_new_weights_are_timed_as_they_come_from_ray(config: Config) -> None:
    loaded: list[Any] = []
    policy = SimpleNamespace(network=torch.nn.Linear(2, 3), load=loaded.append)
    pauses, busy = weights_pauses_ms(policy)  # type: ignore[arg-type]
    assert len(pauses) == len(busy) == len(loaded) == actor.LOADS
    assert min(pauses) >= 0.0
    assert min(busy) >= 0.0
    assert [weights.version for weights in loaded] == list(range(actor.LOADS))
    assert not loaded[0].parameters.flags.writeable

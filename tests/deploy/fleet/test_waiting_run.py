"""What a starting run says that it waits for, from its parts to its status."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from deploy.fleet.reporting.waiting import LEARNER, RESTORING
from deploy.fleet.supervisor import Supervisor
from deploy.run.config import with_values
from deploy.run.presets import LAPTOP

MIN_SIZE, ACTORS = 2_500, 3


def message(learner: dict[str, Any]) -> str:
    """What a supervisor with such a learner publishes in its first turn."""
    published: list[str] = []
    run: Any = object.__new__(Supervisor)
    run._config = with_values(LAPTOP, replay__min_size=MIN_SIZE, run__detach=True)
    run._stop_asked, run._state, run._message, run._published = threading.Event(), "starting", "", 0.0
    run._fleet_state = SimpleNamespace(target=ACTORS)
    nothing = SimpleNamespace(step=lambda *_: [], report=lambda: None, new_dead=set())
    run._telemetry = SimpleNamespace(
        end_reached=str, add_episodes=lambda _: None, update=lambda *_: None, note=lambda _: None
    )
    run._new_shards = nothing
    run._begin_over_without_servers = lambda _: None

    def publish() -> None:
        published.append(run._message)
        run._stop_asked.set()

    run._publish_status = publish
    known = {"pid": 7, "ready": True, "outcome": "", "message": "", "metrics": {}} | learner
    slot = SimpleNamespace(step=lambda: None, mark_dead=lambda _: None, **known)
    assert run._supervise(
        SimpleNamespace(actors=nothing, learner=slot, evaluator=nothing, steering=nothing)
    ) == ("stopped", "")
    (said,) = published
    return said


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        ({"pid": None, "ready": False}, LEARNER),
        ({"ready": False}, RESTORING),
        ({}, f"waiting for the first env steps of {ACTORS} actors"),
        (
            {"metrics": {"replay/inserted": 1_200.0, "progress/env_steps": 1_200.0}},
            "warm-up: 1,200 of 2,500 transitions before the first update",
        ),
        ({"metrics": {"replay/inserted": 2_500.0, "progress/updates": 1.0}}, ""),
    ],
)
def test_a_starting_run_says_what_it_waits_for(learner: dict[str, Any], said: str) -> None:
    assert message(learner) == said

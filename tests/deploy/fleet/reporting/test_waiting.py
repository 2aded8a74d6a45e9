"""What a run says that it waits for, from its start to its first update."""

from typing import Any

import pytest

from deploy.fleet.reporting.waiting import LEARNER, RESTORING, waits_for


@pytest.mark.parametrize(
    ("learner", "metrics", "said"),
    [
        ({"learner_pid": None, "learner_ready": False}, {}, LEARNER),
        ({"learner_ready": False}, {}, RESTORING),
        ({}, {}, "waiting for the first env steps of 2 actors"),
        ({}, {"replay/inserted": 0.0}, "waiting for the first env steps of 2 actors"),
        ({"target": 1}, {}, "waiting for the first env steps of 1 actor"),
        ({}, {"replay/inserted": 1_200.0}, "warm-up: 1,200 of 5,000 transitions before the first update"),
        ({}, {"replay/inserted": 5_000.0}, ""),
        # A capacity in bytes, or a parked shard: fewer are stored than inserted.
        ({}, {"replay/inserted": 5_000.0, "replay/size": 2_500.0}, ""),
        # A run that learns, whatever its replay says.
        ({}, {"replay/inserted": 2_500.0, "replay/size": 2_500.0, "progress/updates": 1.0}, ""),
        ({}, {"replay/size": 0.0, "progress/updates": 9.0}, ""),
        # A learner that is restarted in the middle of a run.
        ({"learner_pid": None, "learner_ready": False}, {"replay/inserted": 9_000.0}, LEARNER),
    ],
)
def test_a_run_says_what_it_waits_for(learner: dict[str, Any], metrics: dict[str, float], said: str) -> None:
    given = {"learner_pid": 1, "learner_ready": True, "target": 2, "min_size": 5_000} | learner
    assert waits_for(metrics, **given) == said

"""The whole system learns: Ray processes, Redis servers, actor, sampler, learner, weights."""

import pytest

from deploy.monitor.metrics import read_metrics
from learner.checkpoint import CheckpointStore
from tests.helpers.deadline import PATIENCE, patient
from tests.helpers.runs.catch_rate import SETTINGS, THRESHOLD, evaluations
from tests.helpers.runs.catch_runs import metric


@pytest.mark.timeout(900 * PATIENCE)
def test_catch_is_learned_to_eight_tenths_of_the_optimum(start_run):
    """By greedy games of the best checkpoint; `helpers/runs/catch_rate` says how often it fails wrongly."""
    scores = []
    for seed in (1, 2):
        client, folder = start_run(**SETTINGS, run__seed=seed)
        status = client.wait_finished(patient(280))
        scores.append(max(evaluations(status, folder)))
        if scores[-1] >= THRESHOLD:
            break
    assert scores[-1] >= THRESHOLD, scores
    total = SETTINGS["run__total_env_steps"]
    assert total <= metric(status, "replay/inserted") < total + 8 * 16
    # What the limiter is for: every item was paid for, none twice.
    assert abs(metric(status, "replay/samples_per_insert") / 8.0 - 1.0) < 0.01
    returns = [
        r["episode/return_mean_100"]
        for r in read_metrics(folder.metrics_path)
        if "episode/return_mean_100" in r
    ]
    assert returns[0] < 0.0 < returns[-1], "it began by missing"
    assert metric(status, "episode/return_mean_100_greedy") > 0.0
    checkpoint = CheckpointStore(folder.checkpoints).load_newest()
    assert checkpoint is not None
    assert metric(status, "evaluation/env_steps") == checkpoint.document["env_steps"], "the last one too"
    assert CheckpointStore(folder.checkpoints).best() is not None
    assert checkpoint.document["env_steps"] == metric(status, "replay/inserted")

"""The whole system learns: Ray processes, Redis servers, actor, sampler, learner, weights."""

from deploy.monitor.metrics import read_metrics
from learner.checkpoint import CheckpointStore
from tests.helpers.catch_rate import SETTINGS, THRESHOLD
from tests.helpers.deadline import patient
from tests.helpers.runs import metric


def test_catch_is_learned_to_eight_tenths_of_the_optimum(start_run):
    """By greedy games of the last checkpoint; `tests.helpers.catch_rate` says how often it fails wrongly."""
    client, folder = start_run(**SETTINGS)
    status = client.wait_finished(patient(280))
    assert status["state"] == "finished", status["message"]
    assert metric(status, "evaluation/return_mean") >= THRESHOLD, status["metrics"]
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

"""The whole system learns: Ray processes, Redis servers, actor, sampler, learner, weights."""

from deploy.monitor.metrics import read_metrics
from learner.checkpoint import CheckpointStore
from tests.helpers.runs import metric


def test_catch_is_learned_to_eight_tenths_of_the_optimum(start_run):
    client, folder = start_run(run__total_env_steps=6_000, evaluation__every_env_steps=2_000)
    status = client.wait_finished(280)
    assert status["state"] == "finished", status["message"]
    assert metric(status, "episode/return_mean_100") >= 0.8, status["metrics"]
    assert 6_000 <= metric(status, "replay/inserted") < 6_000 + 8 * 16
    # What the limiter is for: every item was paid for, none twice.
    assert abs(metric(status, "replay/samples_per_insert") / 8.0 - 1.0) < 0.01
    returns = [
        r["episode/return_mean_100"]
        for r in read_metrics(folder.metrics_path)
        if "episode/return_mean_100" in r
    ]
    assert returns[0] < 0.0 < 0.8 <= returns[-1], "it began by missing"
    assert metric(status, "episode/return_mean_100_greedy") >= 0.8
    checkpoint = CheckpointStore(folder.checkpoints).load_newest()
    assert checkpoint is not None
    assert metric(status, "evaluation/env_steps") == checkpoint.document["env_steps"], "the last one too"
    assert -1.0 <= metric(status, "evaluation/return_mean") <= 1.0
    assert CheckpointStore(folder.checkpoints).best() is not None
    assert checkpoint.document["env_steps"] == metric(status, "replay/inserted")

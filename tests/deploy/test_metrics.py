import json

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deploy.monitor.metrics import MetricsSink, read_metrics


def test_metrics_and_events_hold_the_same_names_and_values(tmp_path):
    sink = MetricsSink(tmp_path)
    sink.write({"learner/loss": 0.5, "learner/q_mean": float("nan")}, env_steps=100)
    sink.write({"learner/loss": 0.25}, env_steps=200)
    sink.close()
    records = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert [(r["env_steps"], r["learner/loss"]) for r in records] == [(100, 0.5), (200, 0.25)]
    assert "learner/q_mean" not in records[0]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["tensors"] == ["learner/loss"]
    assert [e.step for e in events.Tensors("learner/loss")] == [100, 200]


def test_a_resumed_run_appends(tmp_path):
    for step in (1, 2):
        sink = MetricsSink(tmp_path)
        sink.write({"a": step}, env_steps=step)
        sink.close()
    assert [r["a"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_last_line_cut_off_by_a_crash_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"a": 1}) + '\n{"a": 2, "b')
    assert list(read_metrics(path)) == [{"a": 1}]

import errno
import json
import os

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from deploy.fleet.reporting.telemetry import settings
from deploy.monitor import metrics
from deploy.monitor.metrics import MetricsSink, read_metrics
from deploy.run.config import with_values
from deploy.run.presets import LAPTOP


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
    assert events.Tags()["scalars"] == ["learner/loss"]
    assert [(e.step, e.value) for e in events.Scalars("learner/loss")] == [(100, 0.5), (200, 0.25)]


def test_tensorboard_compares_runs_by_their_settings(tmp_path):
    config = with_values(LAPTOP, run__seed=7, replay__urls=("redis://:secret@a",), environment__game="krull")
    sink = MetricsSink(tmp_path, settings=settings(config))
    sink.write({"learner/loss": 0.5}, env_steps=100)
    sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    started = plugin_data_pb2.HParamsPluginData.FromString(
        events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    ).session_start_info.hparams
    assert started["run.seed"].number_value == 7
    assert started["environment.game"].string_value == "krull"
    assert started["replay.prioritized"].bool_value
    assert not {"replay.urls", "run.name"} & set(started)
    compared = plugin_data_pb2.HParamsPluginData.FromString(
        events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    ).experiment
    assert {info.name for info in compared.hparam_infos} == set(started)
    assert [info.name.tag for info in compared.metric_infos] == list(metrics.COMPARED)
    assert b"secret" not in b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())


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


class FullDisk:
    """`os.write` on a disk with `room` bytes."""

    def __init__(self, monkeypatch):
        self.room = 0
        write = os.write

        def limited(descriptor, data):
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = write(descriptor, bytes(data)[: self.room])
            self.room -= written
            return written

        monkeypatch.setattr(metrics.os, "write", limited)


def test_what_a_full_disk_refuses_is_written_in_whole_lines_once_there_is_room(tmp_path, monkeypatch):
    notes = []
    sink = MetricsSink(tmp_path, notes.append)
    disk = FullDisk(monkeypatch)
    for step, room in enumerate((0, 25, 0, 10**6, 10**6)):
        disk.room = room
        sink.write({"a": step}, env_steps=step)
    sink.close()
    assert [r["a"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert notes == [
        "metrics.jsonl cannot be written: No space left on device; it is tried again",
        "metrics.jsonl can be written again",
    ]


def test_what_waits_for_room_is_bounded_and_the_newest_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "MOST_UNWRITTEN_BYTES", 400)
    sink = MetricsSink(tmp_path, lambda text: None)
    disk = FullDisk(monkeypatch)
    for step in range(50):
        sink.write({"a": step}, env_steps=step)
    disk.room = 10**6
    sink.close()
    kept = [r["a"] for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert 3 <= len(kept) < 15
    assert kept == list(range(50))[-len(kept) :]


def test_events_go_on_in_another_file_after_one_that_could_not_be_written(tmp_path, monkeypatch):
    sink = MetricsSink(tmp_path)
    sink.write({"a": 1}, env_steps=1)

    def refuse():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sink._events, "flush", refuse)
    sink.write({"a": 2}, env_steps=2)
    sink.write({"a": 3}, env_steps=3)
    sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {e.step for e in events.Scalars("a")} >= {1, 3}
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2

"""Diagnoses in metrics.jsonl and TensorBoard: once each, at their own env steps, with a picture."""

import json
from types import SimpleNamespace

import imageio.v3 as imageio
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from deploy.bench import diagnostics as bench
from deploy.monitor.events import CELL_PIXELS, correlation_image
from deploy.monitor.metrics import MetricsSink, read_metrics
from deploy.run.config import with_values
from deploy.run.presets import LAPTOP
from learner.diagnostics.files import save_arrays

KERNEL = np.array([[4.0, 6.0, -2.0], [6.0, 9.0, 0.0], [-2.0, 0.0, 1.0]], np.float32)


def diagnosis(update, env_steps, rank):
    return {
        "diagnostics/update": float(update),
        "diagnostics/env_steps": float(env_steps),
        "diagnostics/entk_rank": rank,
    }


def test_a_diagnosis_is_one_record_and_one_picture(tmp_path):
    save_arrays(tmp_path, 10, {"entk": KERNEL})
    sink = MetricsSink(tmp_path)
    sink.write({"learner/loss": 0.5}, env_steps=90)
    for env_steps in (100, 110):  # The learner's latest diagnosis is reported until there is another.
        sink.write({"learner/loss": 0.25, **diagnosis(10, 95, 7.0)}, env_steps=env_steps)
    sink.write({"learner/loss": 0.125, **diagnosis(20, 115, 8.0)}, env_steps=120)  # Its file is gone.
    sink.close()
    records = [{k: v for k, v in r.items() if k != "time"} for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert records == [
        {"env_steps": 90, "learner/loss": 0.5},
        {"env_steps": 95, **diagnosis(10, 95, 7.0)},
        {"env_steps": 100, "learner/loss": 0.25},
        {"env_steps": 110, "learner/loss": 0.25},
        {"env_steps": 115, **diagnosis(20, 115, 8.0)},
        {"env_steps": 120, "learner/loss": 0.125},
    ]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1, "TensorBoard reads one file after the other"
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    steps = [(e.step, e.value) for e in events.Scalars("diagnostics/entk_rank")]
    assert [step for step, _ in steps] == [95, 115]
    (picture,) = events.Images("diagnostics/entk")
    assert (picture.step, picture.width, picture.height) == (95, 3 * CELL_PIXELS, 3 * CELL_PIXELS)
    image = imageio.imread(picture.encoded_image_string, extension=".png")
    assert np.array_equal(image, correlation_image(KERNEL))


def test_a_broken_file_of_arrays_stops_nothing(tmp_path):
    save_arrays(tmp_path, 10, {"entk": KERNEL}).write_bytes(b"PK")
    sink = MetricsSink(tmp_path)
    sink.write({"learner/loss": 0.5, **diagnosis(10, 95, 7.0)}, env_steps=100)
    sink.close()
    assert len(list(read_metrics(tmp_path / "metrics.jsonl"))) == 2


def test_the_pictures_colours():
    image = correlation_image(KERNEL)
    cells = image[::CELL_PIXELS, ::CELL_PIXELS].astype(int)
    red, white = [255, 0, 0], [255, 255, 255]
    assert [cells[i, i].tolist() for i in range(3)] == [red] * 3
    assert cells[0, 1].tolist() == red, "6 / (2 * 3): the same direction"
    assert cells[0, 2].tolist() == [0, 0, 255], "-2 / (2 * 1): opposite ones"
    assert cells[1, 2].tolist() == white
    assert (
        correlation_image(np.zeros((2, 2), np.float32))[::CELL_PIXELS, ::CELL_PIXELS].tolist()
        == [[white] * 2] * 2
    )
    half = correlation_image(np.array([[1.0, 0.5], [0.5, 1.0]], np.float32))
    assert half[0, CELL_PIXELS].tolist() == [255, 128, 128]


def test_the_benchmark_relates_a_diagnosis_to_an_update():
    config = with_values(
        LAPTOP,
        learner__device="cpu",
        learner__cpus=1,
        network__expert_hidden_units=8,
        learner__batch_size=8,
    )
    spec = SimpleNamespace(num_actions=3, frame_shape=(44, 44))
    spec.observation_shape = lambda stack: (stack, *spec.frame_shape)
    found = bench._measure(config, spec, 0.01)
    period = config.learner.diagnostics_period
    assert found["period"] == period
    per_update = found["seconds"] / period
    share = per_update / (found["update_seconds"] + per_update)
    assert found["percent"] == pytest.approx(100 * share)
    assert found["percent"] > 0
    assert json.dumps(found)

"""The replay by itself: writers, a sampler and servers, without Ray or torch."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import apexpert
from apexpert import ReplayConfig, ReplaySampler, ReplayWriter
from replay.errors import NotEnoughData, SignatureMismatch, WriterStopped
from replay.shards.shard import Shard
from replay.types import SegmentIdentity
from tests.helpers.deadline import until
from tests.helpers.shards.commands import reserve

SHAPES = {"frame_shape": (8, 9), "num_actions": 3, "stack": 2}
RULES = ReplayConfig(min_size=20, capacity=500, n_step=2, segment_steps=8, reward_clip=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service") / "replay"


@pytest.fixture(scope="module")
def urls(folder: Path):
    with apexpert.serve_replay(folder, shards=2, memory_bytes=2**27) as urls:
        yield urls


def frame(number: int) -> np.ndarray:
    return np.full((8, 9), number % 256, np.uint8)


def play(writer: ReplayWriter, steps: int, first: int = 0) -> None:
    """Frames that are numbered, rewards that are the number of the step."""
    writer.reset(frame(first))
    for step in range(first, first + steps):
        writer.append(step % 3, float(step), frame(step + 1), terminated=False, truncated=False)


def test_what_is_written_is_what_is_drawn_and_the_ratio_is_kept(urls) -> None:
    names = {"run": "ratio", "config": RULES, **SHAPES}
    with ReplaySampler(urls, batch_size=10, samples_per_insert=2.0, **names) as sampler:
        with pytest.raises(NotEnoughData):
            sampler.sample()
        stop = threading.Event()
        with ReplayWriter(urls, should_stop=stop.is_set, **names) as writer:
            writing = threading.Thread(target=play, args=(writer, 400))
            writing.start()
            drawn = 0
            while writing.is_alive() or sampler.can_sample():
                sampler.ingest()
                while sampler.can_sample():
                    batch = sampler.sample()
                    drawn += len(batch.action)
                    sampler.update_priorities(batch, np.ones(10))
                assert drawn <= 2.0 * 400
            writing.join()
            writer.flush(wait=False)
        sampler.ingest()
        assert sampler.size == 400
        assert sampler.metrics()["replay/inserted"] == 400
        # Each row is the step that its newest frame numbers: n = 2, gamma 0.99, nothing clipped.
        batch = sampler.sample() if sampler.can_sample() else batch
        assert batch.observation.shape == (10, 2, 8, 9)
        whole = batch.discount == np.float32(0.99**2)
        assert whole.any()
        step = np.round((batch.reward[whole] - 0.99) / 1.99).astype(int)
        assert np.array_equal(step % 3, batch.action[whole])
        assert np.array_equal(step % 256, batch.observation[whole, 1, 0, 0])
        assert np.array_equal((step + 2) % 256, batch.next_observation[whole, 1, 0, 0])


def test_a_writer_without_a_sampler_waits_and_can_be_told_to_stop(urls) -> None:
    stop = threading.Event()
    writer = ReplayWriter(urls, run="alone", config=RULES, should_stop=stop.is_set, **SHAPES)
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(WriterStopped):
        play(writer, 10_000)
    writer.flush(wait=False)
    writer.close()
    with ReplaySampler(
        urls, run="alone", config=RULES, batch_size=4, samples_per_insert=1.0, **SHAPES
    ) as sampler:
        assert sampler.size > 0, "what it had in hand is stored all the same"


def test_what_dead_writers_reserved_is_taken_back(urls) -> None:
    dead, next_one = SegmentIdentity(0, 0, 5), SegmentIdentity(0, 1, 0)
    shard = Shard(urls[0], run="dead", index=0)
    with ReplaySampler(
        urls, run="dead", config=RULES, batch_size=10, samples_per_insert=2.0, **SHAPES
    ) as sampler:

        def waiting() -> list[SegmentIdentity]:
            sampler.ingest()
            return [ticket.identity for ticket in shard.tickets().outstanding]

        reserve(shard, dead, 8)
        assert waiting() == waiting() == [dead]
        reserve(shard, next_one, 8)
        until(lambda: waiting() == [next_one], "the older incarnation's ticket is gone")
        sampler.mark_dead(0, 1)
        until(lambda: waiting() == [], "the ticket of the one marked dead is gone")
    shard.close()


def test_a_sampler_finds_what_was_stored_before(tmp_path: Path) -> None:
    names = {"run": "again", "config": RULES, **SHAPES}
    kept = tmp_path / "kept"
    with (
        apexpert.serve_replay(kept, shards=1, memory_bytes=2**27) as urls,
        ReplayWriter(urls, waits=False, **names) as writer,
    ):
        writer.reset(frame(0))
        writer.append(0, 1.0, frame(1), terminated=True, truncated=False)
    with apexpert.serve_replay(kept, shards=1, memory_bytes=2**27) as urls:
        with ReplaySampler(urls, batch_size=1, samples_per_insert=1.0, **names) as sampler:
            assert sampler.size == 1
        with pytest.raises(SignatureMismatch):
            ReplayWriter(urls, **names | {"frame_shape": (9, 9)}, incarnation=1)


def test_neither_ray_nor_torch_is_needed() -> None:
    """As in an environment that has neither: importing them fails."""
    code = (
        "import sys\n"
        "for name in ('torch', 'ray', 'gymnasium', 'ale_py'): sys.modules[name] = None\n"
        "import apexpert\n"
        "apexpert.ReplayWriter, apexpert.ReplaySampler, apexpert.serve_replay, apexpert.Batch\n"
        "apexpert.ReplayConfig, apexpert.Segment, apexpert.ApexpertError\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

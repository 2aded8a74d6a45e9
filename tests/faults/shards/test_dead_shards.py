"""Shards that do not answer: killed, gone for good, frozen, slow, added; real servers and writers.

What each fault costs is in docs/faults.md.
"""

import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from replay.errors import NotEnoughData, WriterStopped
from replay.sampler import Sampler
from replay.shards.shard import Shard
from replay.types import Batch
from tests.helpers.deadline import patient, until
from tests.helpers.replay.samplers import Run, located, new_run
from tests.helpers.shards.faulty_servers import (
    FaultyServer,
    Scribe,
    check_accounts,
    faulty_run,
    faulty_servers,
    ingest_until,
    quiet,
    said,
    shards_of,
)


def drawn_from(run: Run, sampler: Sampler, batch: Batch) -> set[int]:
    run.check(sampler, batch)
    return {run.shard_of[identity] for identity, _ in located(sampler, batch)}


def train(run: Run, sampler: Sampler, updates: int = 4) -> set[int]:
    """Draw and set priorities; returns the shards that were drawn from."""
    shards = set()
    for _ in range(updates):
        batch = sampler.sample()
        shards |= drawn_from(run, sampler, batch)
        sampler.update_priorities(batch.leaf, batch.generation, np.abs(np.sin(batch.leaf * 0.7)) + 0.01)
    return shards


def check_distribution(sampler: Sampler, batch: Batch) -> None:
    """Probabilities and weights are over what can be drawn now, and nothing else."""
    masses = sampler.table.index.masses()
    assert int((masses > 0).sum()) == sampler.size
    np.testing.assert_allclose(batch.probability, masses[batch.leaf] / masses.sum(), rtol=1e-9)
    weight = (sampler.size * batch.probability) ** -sampler.config.importance_exponent
    np.testing.assert_allclose(batch.importance_weight, weight / weight.max(), rtol=1e-5)


def place_segments(run: Run, count: int = 3, steps: int = 60) -> None:
    """Known segments in every shard."""
    for shard in range(len(run.urls)):
        for part in range(count):
            run.fill(shard, steps, actor=10 * shard + part)


@pytest.mark.parametrize("store_bytes", [None, 0])
def test_a_killed_shard_is_parked_and_comes_back_as_it_was(tmp_path: Path, store_bytes: int | None) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        place_segments(run)
        sampler = run.sampler(store_bytes=store_bytes)
        quiet(sampler)
        assert train(run, sampler) == {0, 1}
        before, last = sampler.table.index.masses().copy(), sampler.sample()
        servers[1].kill()
        if store_bytes == 0:  # then a draw may be the first to notice
            assert drawn_from(run, sampler, sampler.sample()) == {0}
        quiet(sampler)
        assert (sampler.size, sampler.metrics()["replay/parked"]) == (180, 180)
        assert sampler.metrics()["replay/parked_shards"] == 1
        batch = sampler.sample()
        assert drawn_from(run, sampler, batch) == {0}
        check_distribution(sampler, batch)
        # An update that was on its way reaches items that are parked, and does not let them be drawn.
        sampler.update_priorities(last.leaf, last.generation, np.full(32, 100.0))
        assert drawn_from(run, sampler, sampler.sample()) == {0}
        check_accounts(run, sampler, run.segments, lost=0, parked=180)
        servers[1].start()
        ingest_until(sampler, lambda: sampler.size == 360, "the segments that were parked")
        before[last.leaf] = 10.0
        np.testing.assert_allclose(sampler.table.index.masses(), before)
        assert train(run, sampler) == {0, 1}
        check_accounts(run, sampler, run.segments, lost=0, parked=0, parked_shards=0, missing=0)


def test_writers_and_sampler_go_on_while_a_shard_is_killed_again_and_again(tmp_path: Path) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers, segment_steps=8)
        sampler = run.sampler()
        scribes = [Scribe(run, 1500, actor=actor, pause=0.01) for actor in range(2)]
        with scribes[0].writing(), scribes[1].writing():
            for turn in range(4):
                server = servers[turn % 2]
                size = sampler.inserted
                ingest_until(sampler, lambda size=size: sampler.inserted > size + 100, "more of both")
                server.kill()
                size = sampler.inserted
                ingest_until(
                    sampler,
                    lambda size=size: sampler.inserted > size + 100 or all(s.done for s in scribes),
                    "more of the other",
                )
                batch = sampler.sample()
                run.check(sampler, batch)
                check_distribution(sampler, batch)
                server.start()
            ingest_until(sampler, lambda: all(scribe.done for scribe in scribes), "all segments", 60.0)
        acknowledged = [identity for scribe in scribes for identity in scribe.acknowledged]
        ingest_until(sampler, lambda: not sampler.metrics()["replay/parked_shards"], "both shards")
        check_accounts(run, sampler, acknowledged, lost=0, unread=0, parked=0, inserted=3000, size=3000)


def test_a_shard_that_is_gone_for_good_is_done_without(tmp_path: Path) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers, capacity=400)
        place_segments(run)
        sampler = run.sampler()
        quiet(sampler)
        servers[1].kill()
        scribe = Scribe(run, 900, actor=50)
        with scribe.writing():
            ingest_until(sampler, lambda: scribe.done, "everything to the other shard")
        quiet(sampler)
        run.shard_of.update(dict.fromkeys(scribe.acknowledged, 0))
        assert train(run, sampler) == {0}
        acknowledged = [*run.segments]
        # What was parked was the oldest at some time, and has left.
        check_accounts(run, sampler, acknowledged, parked=0, lost=0, parked_shards=1)
        began = time.monotonic()
        for _ in range(100):
            sampler.ingest()
        assert time.monotonic() - began < patient(10.0), "one that waits each time takes 40 s"
        assert scribe.writer.counters.retries < 10


def test_without_any_shard_it_waits_and_says_so(tmp_path: Path) -> None:
    with faulty_servers(tmp_path, 1) as servers:
        run = faulty_run(servers)
        place_segments(run)
        sampler = run.sampler(store_bytes=0)
        quiet(sampler)
        servers[0].kill()
        with pytest.raises(NotEnoughData):
            sampler.sample()
        assert sampler.ingest() == 0
        assert not sampler.can_sample()
        assert sampler.metrics()["replay/parked"] == 180
        servers[0].start()
        ingest_until(sampler, sampler.can_sample, "the shard")
        train(run, sampler)


def test_a_frozen_shard_costs_one_wait_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        place_segments(run)
        sampler = run.sampler()
        quiet(sampler)
        scribe = Scribe(run, 600, actor=50)
        servers[0].freeze()
        began = time.monotonic()
        sampler.ingest()
        assert 0.3 < time.monotonic() - began < patient(10.0)
        assert shows_as_parked(sampler, caplog)
        began = time.monotonic()
        for _ in range(100):
            sampler.ingest()
        train(run, sampler)
        assert time.monotonic() - began < patient(10.0), "one that waits each time takes 40 s"
        with scribe.writing():
            ingest_until(sampler, lambda: scribe.done, "all segments in the other shard")
            assert scribe.writer.counters.retries <= 3
        assert servers[1].client.exists(f"apexpert:{{{run.name}:1}}:log")
        servers[0].thaw()
        ingest_until(sampler, lambda: not sampler.metrics()["replay/parked_shards"], "the shard")
        check_accounts(run, sampler, run.segments, lost=0, parked=0, unread=0, size=960)


def shows_as_parked(sampler: Sampler, caplog: pytest.LogCaptureFixture) -> bool:
    """Half of 360 items and one of two shards, as docs/faults.md names them, and a warning."""
    metrics = sampler.metrics()
    parked = (metrics["replay/size"], metrics["replay/parked"], metrics["replay/parked_shards"])
    return parked == (180, 180, 1) and said(
        caplog, "replay.shards.availability", "shard 0 ", "cannot be reached for", "; the others continue"
    )


class SlowLine:
    """A line to a server that delays everything that is sent."""

    def __init__(self, path: Path, server: FaultyServer) -> None:
        self.seconds = 0.0
        self._server, self._door = server, socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        self._door.listen(64)
        self.url = f"unix://{path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._door.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._server.socket))
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 20):
                time.sleep(self.seconds)
                target.sendall(data)
        except OSError:
            pass
        finally:
            source.close()
            target.close()


def test_a_slow_shard_is_used_while_it_is_fast_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with faulty_servers(tmp_path) as servers:
        line = SlowLine(tmp_path / "slow", servers[0])
        run = new_run([line.url, servers[1].url])
        run.shards = shards_of(run, 0.6)
        place_segments(run)
        sampler = run.sampler(store_bytes=0)
        line.seconds = 0.02
        quiet(sampler)
        assert train(run, sampler) == {0, 1}
        assert sampler.metrics()["replay/parked_shards"] == 0
        line.seconds = 1.0
        sampler.ingest()
        assert shows_as_parked(sampler, caplog)
        assert train(run, sampler) == {1}
        line.seconds = 0.0
        ingest_until(sampler, lambda: sampler.size == 360, "the shard")
        assert train(run, sampler) == {0, 1}
        check_accounts(run, sampler, run.segments, lost=0)


def test_a_shard_is_added_while_the_run_goes_on(tmp_path: Path) -> None:
    with faulty_servers(tmp_path, 3) as servers:
        run = faulty_run(servers[:2])
        sampler, scribe = run.sampler(), Scribe(run, 900)
        scribe.write(20)
        ingest_until(sampler, lambda: sampler.inserted > 100, "some of it")
        new = [Shard(servers[2].url, run=run.name, index=2, retry_seconds=0.4) for _ in range(2)]
        with pytest.raises(ValueError, match="number 2, not 3"):
            sampler.add_shard(Shard(servers[2].url, run=run.name, index=3))
        sampler.add_shard(new[0])
        scribe.writer.add_shard(new[1])
        with scribe.writing():
            ingest_until(sampler, lambda: scribe.done, "all of it")
        check_accounts(run, sampler, run.segments, size=900)
        shards = sampler.table.slots["shard"][sampler.table.in_order()]
        assert set(shards.tolist()) == {0, 1, 2}
        document, arrays = sampler.state()
        for kept in (3, 2, 3):  # also fewer shards than in the checkpoint, and more
            run.urls = [server.url for server in servers[:kept]]
            run.shards = shards_of(run)
            restored = run.sampler()
            report = restored.restore(document, arrays)
            assert report.exact == (kept == 3)
            check_accounts(run, restored, run.segments)
            assert restored.size + int(restored.metrics()["replay/lost"]) == 900
            document, arrays = restored.state()
        assert restored.size == 900  # the third shard's are back


def test_a_stopping_writer_does_not_wait_for_dead_shards(tmp_path: Path) -> None:
    with faulty_servers(tmp_path) as servers:
        run = faulty_run(servers)
        scribe = Scribe(run, 40)
        for server in servers:
            server.kill()
        with scribe.writing():
            until(lambda: scribe.writer.counters.retries > 1, "attempts")
        assert scribe.acknowledged == []
        with pytest.raises(WriterStopped):
            scribe.write(wait=True)

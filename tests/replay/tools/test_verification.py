"""Everything that can be wrong with a stored run is found, named, and nothing else is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import redis

from replay.segments.codec import encode
from replay.tools.inventory import checkpoint_masses
from replay.tools.stored_shard import StoredShard
from replay.tools.verification import WRONG, verify
from replay.types import SegmentIdentity
from tests.helpers.replay.samplers import Run, ingest_all
from tests.helpers.replay.stored_runs import everything, filled, stored_shards
from tests.helpers.shards.servers import shared_urls


@pytest.fixture(scope="module")
def urls() -> list[str]:
    return shared_urls()[:2]


@pytest.fixture
def run(urls: list[str]) -> Run:
    return filled(urls)


@pytest.fixture
def client(urls: list[str]) -> Any:
    with redis.Redis.from_url(urls[0]) as client:
        yield client


def test_a_whole_run_is_found_whole_and_left_alone(run: Run, urls: list[str]) -> None:
    told: list[tuple[int, int]] = []
    before = everything(urls)
    found = verify(stored_shards(run), run=run.name, progress=lambda *counts: told.append(counts))
    assert not found.wrong
    assert found.segments == len(run.segments)
    assert found.items == sum(map(len, run.items.values()))
    assert told[-1] == (len(run.segments), len(run.segments))
    assert everything(urls) == before


def key(run: Run, name: object) -> str:
    return f"apexpert:{{{run.name}:0}}:{name}"


def flip(run: Run, client: Any) -> None:
    """Flip one bit in the frames of a segment."""
    name = key(run, f"seg:{first(run)}")
    data = bytearray(client.get(name))
    data[-5] ^= 16
    client.set(name, bytes(data))


def first(run: Run) -> SegmentIdentity:
    return next(identity for identity, shard in run.shard_of.items() if shard == 0)


def other_run(run: Run, client: Any) -> None:
    """A segment of another run under this run's key."""
    segment = replace(run.segments[first(run)], identity=SegmentIdentity(77, 0, 0))
    data = encode(segment, "another", run.signature)
    run.shards[0].writing.commit(segment.identity, data, segment.num_items, segment.num_steps)


def nan_priorities(run: Run, client: Any) -> None:
    raw = np.full(run.segments[first(run)].num_items, np.nan, np.float32)
    segment = replace(run.segments[first(run)], identity=SegmentIdentity(77, 0, 0), priorities=raw)
    data = encode(segment, run.name, run.signature)
    run.shards[0].writing.commit(segment.identity, data, segment.num_items, segment.num_steps)


def wrong_count(run: Run, client: Any) -> None:
    segment = replace(run.segments[first(run)], identity=SegmentIdentity(77, 0, 0))
    data = encode(segment, run.name, run.signature)
    run.shards[0].writing.commit(segment.identity, data, segment.num_items + 1, segment.num_steps)


FAULTS: dict[str, tuple[str, Callable[[Run, Any], object]]] = {
    "a flipped bit": ("corrupt", flip),
    "another run's segment": ("run", other_run),
    "a wrong count in the log": ("stray", wrong_count),
    "a log entry of somebody else": ("stray", lambda run, client: client.xadd(key(run, "log"), {"a": "b"})),
    "a segment that is gone": ("missing", lambda run, client: client.unlink(key(run, f"seg:{first(run)}"))),
    "a segment that no log names": ("orphans", lambda run, client: client.set(key(run, "seg:9.9.9"), b"x")),
    "a key of somebody else": ("unknown_keys", lambda run, client: client.set(key(run, "seg:01.2.3"), b"x")),
    "no signature": ("no_signature", lambda run, client: client.unlink(key(run, "meta"))),
    "priorities that are NaN": ("bad_priorities", nan_priorities),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_once_and_nothing_else(run: Run, client: Any, name: str) -> None:
    kind, break_it = FAULTS[name]
    break_it(run, client)
    found = verify(stored_shards(run), run=run.name)
    assert found.wrong == {kind: 1}, found.examples
    assert found.examples[kind]
    assert kind in WRONG


def test_priorities_of_a_checkpoint(run: Run) -> None:
    sampler = run.sampler()
    ingest_all(sampler)
    masses = checkpoint_masses(sampler.state()[1])
    assert not verify(stored_shards(run), run=run.name, masses=masses).wrong
    one, other = list(masses)[:2]
    masses[one] = np.append(masses[one], 1.0)
    masses[other] = masses[other].copy()
    masses[other][0] = np.inf
    found = verify(stored_shards(run), run=run.name, masses=masses)
    assert found.wrong == {"wrong_masses": 1, "bad_masses": 1}


class Evicting(StoredShard):
    """Evicts some segments right before they are fetched, as a live run's owner may."""

    def fetch(self, *given: Any) -> list[bytes | None]:
        link, entries = self.new_pipeline(), self.read_log("0-0", 3)
        link.answer(self.owning.deletion([entry[:2] for entry in entries]))
        link.close()
        return super().fetch(*given)


def test_what_is_evicted_meanwhile_is_no_fault(run: Run) -> None:
    shards = [
        Evicting(url, run=run.name, index=i, retry_seconds=5.0) if i == 0 else stored_shards(run)[i]
        for i, url in enumerate(run.urls)
    ]
    found = verify(shards, run=run.name)
    assert not found.wrong
    assert found.evicted == 3
    assert found.segments == len(run.segments) - 3


def test_a_copy_is_no_fault(run: Run) -> None:
    run.write([run.segments[first(run)]], 1)
    found = verify(stored_shards(run), run=run.name)
    assert not found.wrong
    assert found.duplicates == 1


def test_a_copy_counts_where_the_first_entry_has_no_segment(run: Run, client: Any) -> None:
    run.write([run.segments[first(run)]], 1)
    client.unlink(key(run, f"seg:{first(run)}"))
    found = verify(stored_shards(run), run=run.name)
    assert found.wrong == {"missing": 1}
    assert (found.segments, found.duplicates) == (len(run.segments), 0)

"""What is stored, read from outside, against what was written; and how uneven draws are, by hand."""

import numpy as np
import pytest
import redis

from replay.shards.records import LogEntry
from replay.tools.inventory import HEADER_BYTES, checkpoint_masses, take_inventory
from replay.tools.mass_summary import summarise_masses
from replay.types import SegmentIdentity
from tests.helpers.replay.samplers import ingest_all, new_run
from tests.helpers.replay.stored_runs import everything, filled, stored_shards
from tests.helpers.shards.commands import unlink
from tests.helpers.shards.servers import shared_urls


@pytest.fixture(scope="module")
def urls() -> list[str]:
    return shared_urls()[:2]


def test_it_counts_what_was_written_and_nothing_of_another_run(urls: list[str]) -> None:
    run, other = filled(urls), filled(urls)
    before = everything(urls)
    for one in (run, other):
        inventory = take_inventory(stored_shards(one))
        assert set(inventory.identities()) == set(one.segments)
        assert inventory.items == sum(segment.num_items for segment in one.segments.values())
        assert (inventory.duplicates, inventory.missing, inventory.unreadable) == (0, 0, 0)
        for row, identity in zip(inventory.segments, inventory.identities(), strict=True):
            segment = one.segments[identity]
            assert row["shard"] == one.shard_of[identity]
            assert (row["num_items"], row["num_steps"]) == (segment.num_items, segment.num_steps)
            assert row["weights_version"] == segment.weights_version
    assert everything(urls) == before


def test_a_deleted_run_leaves_the_others_as_they_are(urls: list[str]) -> None:
    run, other = filled(urls), filled(urls)
    prefix = f"apexpert:{{{run.name}:".encode()
    others = {key: value for key, value in everything(urls).items() if not key[1].startswith(prefix)}
    held = len(everything(urls)) - len(others)
    assert sum(shard.delete() for shard in stored_shards(run)) == held > len(run.segments)
    assert everything(urls) == others
    assert take_inventory(stored_shards(run)).items == 0
    assert set(take_inventory(stored_shards(other)).identities()) == set(other.segments)


def test_keys_that_are_no_text_are_deleted_too(urls: list[str]) -> None:
    run = filled(urls)
    with redis.Redis.from_url(urls[0]) as client:
        client.set(f"apexpert:{{{run.name}:0}}:".encode() + b"\xff\xfe", b"x")
    shard = stored_shards(run)[0]
    assert "\ufffd\ufffd" in shard.keys().others
    shard.delete()
    assert shard.keys() == (set(), [])


def test_copies_gone_and_damaged_ones_are_told(urls: list[str]) -> None:
    run = filled(urls)
    names = list(run.segments)
    run.write([run.segments[names[0]]], 1 - run.shard_of[names[0]])
    unlink(run.shards[run.shard_of[names[1]]], [names[1]])
    with redis.Redis.from_url(urls[run.shard_of[names[2]]]) as client:
        prefix = f"apexpert:{{{run.name}:{run.shard_of[names[2]]}}}"
        data = client.get(f"{prefix}:seg:{names[2]}")
        client.set(f"{prefix}:seg:{names[2]}", data[:30] + b"\x00\x01" + data[32:])
        client.xadd(f"{prefix}:log", {"x": 1})
    inventory = take_inventory(stored_shards(run))
    assert (inventory.duplicates, inventory.missing, inventory.unreadable) == (1, 1, 2)
    versions = dict(zip(inventory.identities(), inventory.segments["weights_version"], strict=True))
    assert names[1] not in versions
    assert versions[names[2]] == -1


def test_a_copy_counts_where_the_first_entry_has_no_segment(urls: list[str]) -> None:
    run = filled(urls)
    name = next(name for name, shard in run.shard_of.items() if shard == 0)
    run.write([run.segments[name], run.segments[name]], 1)
    unlink(run.shards[0], [name])
    inventory = take_inventory(stored_shards(run))
    assert set(inventory.identities()) == set(run.segments)
    assert (inventory.duplicates, inventory.missing) == (1, 1)


def test_a_very_long_front_is_read_too(urls: list[str]) -> None:
    run = new_run(urls, segment_steps=600)
    (segment,) = run.fill(0, 600, actor=0, end=0.0)
    assert segment.num_items * 11 > HEADER_BYTES
    inventory = take_inventory(stored_shards(run))
    assert inventory.unreadable == 0
    assert inventory.items == 600


def test_masses_of_a_checkpoint_by_segment(urls: list[str]) -> None:
    run = filled(urls)
    sampler = run.sampler()
    ingest_all(sampler)
    batch = sampler.sample()
    sampler.update_priorities(batch.leaf, batch.generation, np.linspace(0.1, 4, 32))
    masses = checkpoint_masses(sampler.state()[1])
    assert set(masses) == set(run.segments)
    for slot in sampler.table.in_order().tolist():
        leaves = sampler.table.leaves(slot)[: sampler.table.slots["num_items"][slot]]
        assert np.array_equal(masses[sampler.table.identity(slot)], sampler.table.index.mass(leaves))


def test_put_keeps_log_ids(urls: list[str]) -> None:
    run = new_run(urls)
    shard = stored_shards(run)[0]
    segment = run.fill(1, 20, actor=0)[0]
    entry = LogEntry("1700000000000-7", segment.identity, segment.num_items, segment.num_steps, 3)
    shard.put([entry], [b"abc"])
    assert shard.read_log("0-0", 5) == [entry]
    assert shard.keys().segments == {segment.identity}
    assert shard.exist([segment.identity, segment.identity._replace(seq=99)]) == [True, False]
    assert shard.fetch([segment.identity]) == [b"abc"]


def test_put_adds_the_entry_before_its_segment(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a transaction that a cut file ends in, the first commands may run: docs/decisions/0010."""
    sent: list[str] = []

    def execute(pipe: redis.client.Pipeline) -> list[object]:
        sent.extend(str(arguments[0]) for arguments, _ in pipe.command_stack)
        return []

    monkeypatch.setattr(redis.client.Pipeline, "execute", execute)
    entry = LogEntry("1700000000000-7", SegmentIdentity(0, 0, 0), 1, 1, 3)
    stored_shards(new_run(urls))[0].put([entry, entry], [b"abc", b"abc"])
    assert sent == ["XADD", "SET", "XADD", "SET"]


def test_effective_sample_size_by_hand() -> None:
    even = summarise_masses(np.full(50, 3.0))
    assert even.effective_sample_size == pytest.approx(50)
    assert even.counts == [50]
    assert even.top_share == pytest.approx(1 / 50)
    # Masses 3 and 1, 1, 1: P = 1/2, 1/6, 1/6, 1/6; sum of squares 1/4 + 3/36 = 1/3.
    uneven = summarise_masses(np.array([1.0, 3.0, 1.0, 1.0]))
    assert uneven.effective_sample_size == pytest.approx(3)
    assert uneven.quantiles["0.5"] == 1.0
    assert sum(uneven.counts) == 4
    assert (uneven.counts[0], uneven.counts[-1]) == (3, 1)
    assert uneven.edges[0] == 1.0
    assert uneven.edges[-1] == 3.0
    with pytest.raises(ValueError, match="no items"):
        summarise_masses(np.empty(0))


def test_the_histogram_loses_nobody() -> None:
    summary = summarise_masses(np.random.default_rng(0).lognormal(size=10_000))
    assert sum(summary.counts) == summary.items == 10_000

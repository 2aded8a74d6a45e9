"""One flipped bit in what a real server holds, and draws that read it by byte ranges (no frame store).

Header and columns are read and checked when a segment comes in, the blocks of frames by each draw that needs
them. So a flipped bit in a block is found by the first draw that reads it; one before the blocks is of no
consequence to a segment that is in; and of a segment that is not in yet every bit counts.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from replay.segments.codec import decode_header, encode
from replay.types import SegmentIdentity
from tests.helpers.replay.samplers import Run, new_run
from tests.helpers.replay.segments import cuts_start
from tests.helpers.replay.streams import random_stream
from tests.helpers.shards.contents import held
from tests.helpers.shards.faulty_servers import check_accounts
from tests.helpers.shards.servers import shared_urls

STEPS = 16
"""Of a segment: three blocks of random frames."""
SEGMENTS = 720


@pytest.fixture
def run() -> Iterator[Run]:
    """A run of two shards with more segments than an encoded one has bytes."""
    run = new_run(shared_urls()[:2], segment_steps=STEPS, prioritized=False)
    segments = run.record(random_stream(3, STEPS * SEGMENTS, end=0.0))
    for shard in range(2):
        run.write(segments[shard::2], shard)
    yield run
    for one in run.shards:
        one.client.unlink(*one.client.scan_iter(f"apexpert:{{{run.name}:*", count=10_000))


def layout(run: Run, identity: SegmentIdentity) -> tuple[int, int]:
    """First byte of a segment's blocks, and its bytes in all."""
    encoded = encode(run.segments[identity], run.name, run.signature)
    return cuts_start(decode_header(encoded)), len(encoded)


def flip(run: Run, identity: SegmentIdentity, byte: int, bit: int) -> None:
    """Flip a bit of a stored segment, in the server."""
    shard = run.shards[run.shard_of[identity]]
    key, place = shard.segment_key(identity), 8 * byte + bit
    shard.client.setbit(key, place, not shard.client.getbit(key, place))


def flip_in_every_byte(run: Run) -> tuple[set[SegmentIdentity], set[SegmentIdentity]]:
    """A bit of another byte in each segment, until every byte has had one.

    Returns the segments with one before the blocks, and those with one in a block.
    """
    random = np.random.default_rng(20)
    sizes = {identity: layout(run, identity) for identity in run.segments}
    assert max(size for _, size in sizes.values()) <= SEGMENTS
    front: set[SegmentIdentity] = set()
    blocks: set[SegmentIdentity] = set()
    for byte, (identity, (start, size)) in enumerate(sizes.items()):
        if byte < size:
            flip(run, identity, byte, int(random.integers(8)))
            (front if byte < start else blocks).add(identity)
    assert len(front) > 300
    assert len(blocks) > 100
    return front, blocks


def num_items(run: Run, identities: set[SegmentIdentity]) -> int:
    return sum(len(run.items[identity]) for identity in identities)


def test_flipped_after_it_was_read(run: Run) -> None:
    """Every block is drawn from: each damaged one is found, and nothing else is refused."""
    everything = num_items(run, set(run.segments))
    sampler = run.sampler(store_bytes=0, batch_size=everything)
    sampler.rebuild()
    _, blocks = flip_in_every_byte(run)
    batch = sampler.sample()
    run.check(sampler, batch)
    assert held(sampler) == set(run.segments) - blocks
    assert sampler.metrics()["replay/frame_store_misses"] == everything
    lost = num_items(run, blocks)
    counted = {"rejected_indexed": len(blocks), "rejected": len(blocks), "missing": 0, "lost": lost}
    check_accounts(run, sampler, run.segments, **counted)
    run.check(sampler, sampler.sample())
    check_accounts(run, sampler, run.segments, **counted)


def test_flipped_before_it_was_read(run: Run) -> None:
    front, blocks = flip_in_every_byte(run)
    damaged = front | blocks
    sampler = run.sampler(store_bytes=0, batch_size=num_items(run, set(run.segments) - damaged))
    sampler.rebuild()
    assert held(sampler) == set(run.segments) - damaged
    run.check(sampler, sampler.sample())
    counted = {"rejected_corrupt": len(damaged), "rejected": len(damaged), "rejected_indexed": 0}
    check_accounts(run, sampler, run.segments, lost=num_items(run, damaged), **counted)


def test_flipped_between_draws(run: Run) -> None:
    """One at a time, anywhere in a segment, in half of the segments; batches as a learner draws them."""
    sampler = run.sampler(store_bytes=0)
    sampler.rebuild()
    random = np.random.default_rng(21)
    identities = [identity for identity in run.segments if random.random() < 0.5]
    damaged = set()
    for identity in identities:
        start, size = layout(run, identity)
        byte = int(random.integers(size))
        flip(run, identity, byte, int(random.integers(8)))
        damaged |= {identity} if byte >= start else set()
        run.check(sampler, sampler.sample())
    for _ in range(300):  # until each was touched
        if not damaged & held(sampler):
            break
        run.check(sampler, sampler.sample())
    found = set(run.segments) - held(sampler)
    assert found <= damaged
    assert len(found) > 0.9 * len(damaged)
    check_accounts(run, sampler, run.segments, lost=num_items(run, found), rejected_indexed=len(found))

"""Runs with known contents on real servers, and what a sampler must answer about them."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from replay.config import ReplayConfig
from replay.items.frame_store import HostFrameStore
from replay.sampler import Sampler
from replay.segments.builder import SegmentBuilder
from replay.segments.codec import encode
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.types import Batch, Segment, SegmentIdentity, Signature
from tests.helpers.replay.brute_force import BruteForceItem, RecordedStep, brute_force_items
from tests.helpers.replay.streams import FRAME_SHAPE, build_segments, random_stream
from tests.helpers.shards.servers import fresh_run


@contextmanager
def servers(folder: Path, shards: int, maxmemory: int = 512 * 1024**2) -> Iterator[EmbeddedServers]:
    """Embedded servers for a test module."""
    with EmbeddedServers(folder, shards=shards, append_fsync="everysec", maxmemory=maxmemory) as started:
        yield started


@dataclass
class Run:
    """One run's shards, and for every segment written there its items by brute force."""

    urls: Sequence[str]
    signature: Signature
    config: ReplayConfig
    name: str = field(default_factory=fresh_run)
    items: dict[SegmentIdentity, list[BruteForceItem]] = field(default_factory=dict)
    segments: dict[SegmentIdentity, Segment] = field(default_factory=dict)
    shard_of: dict[SegmentIdentity, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shards = self.shards_again()

    def shards_again(self) -> list[Shard]:
        """Further connections to the run's shards."""
        return [Shard(url, run=self.name, index=i, retry_seconds=5.0) for i, url in enumerate(self.urls)]

    def record(
        self,
        stream: Sequence[RecordedStep],
        *,
        actor: int = 0,
        env_slot: int = 0,
        num_slots: int = 1,
        data: Signature | None = None,
    ) -> list[Segment]:
        """A stream's segments, not written yet; `data` is the writer's signature where it is another one."""
        rules = self.config
        numbers = itertools.count()
        builder = SegmentBuilder(
            data or self.signature,
            actor=actor,
            incarnation=env_slot,  # numbers of its own for every slot
            env_slot=env_slot,
            num_slots=num_slots,
            segment_steps=rules.segment_steps,
            next_seq=lambda: next(numbers),
        )
        segments = build_segments(builder, stream)
        self.expect(stream, segments)
        return segments

    def expect(self, stream: Sequence[RecordedStep], segments: Sequence[Segment]) -> None:
        """Note what the segments of one slot, in order, must hold: its stream's items by brute force."""
        rules = self.config
        expected = brute_force_items(
            stream,
            stack=self.signature.stack,
            n_step=self.signature.n_step,
            gamma=rules.gamma,
            reward_clip=rules.reward_clip,
            life_loss_terminates=rules.life_loss_terminates,
        )
        starts = np.cumsum([0, *(segment.num_items for segment in segments)])
        assert starts[-1] == len(expected)
        for segment, start in zip(segments, starts, strict=False):
            assert segment.first_step == expected[start].step
            self.segments[segment.identity] = segment
            self.items[segment.identity] = expected[start : start + segment.num_items]

    def write(self, segments: Iterable[Segment], shard: int, data: Signature | None = None) -> None:
        """Commit segments to one shard."""
        for segment in segments:
            encoded = encode(segment, self.name, data or self.signature)
            self.shards[shard].writing.commit(segment.identity, encoded, segment.num_items, segment.num_steps)
            self.shard_of.setdefault(segment.identity, shard)

    def fill(self, shard: int, steps: int, *, actor: int, seed: int = 0, **chances: Any) -> list[Segment]:
        """Record a random stream and commit it to one shard."""
        stream = random_stream(1000 * seed + actor, steps, frame_shape=self.signature.frame_shape, **chances)
        segments = self.record(stream, actor=actor)
        self.write(segments, shard)
        return segments

    def sampler(self, *, store_bytes: int | None = None, **changes: Any) -> Sampler:
        """A sampler of this run: batches of 32 and a limiter out of the way, unless told otherwise."""
        options: dict[str, Any] = {
            "run": self.name,
            "signature": self.signature,
            "batch_size": 32,
            "samples_per_insert": 8.0,
            "seed": 7,
        }
        if store_bytes is not None:
            options["frame_store"] = HostFrameStore(self.signature.frame_shape, store_bytes)
        return Sampler(self.config, self.shards, **(options | changes))

    def check(self, sampler: Sampler, batch: Batch) -> None:
        """Every row of a batch is exactly the transition that the brute force makes of the stream."""
        self.check_rows(located(sampler, batch), batch)

    def check_rows(self, places: Sequence[tuple[SegmentIdentity, int]], batch: Batch) -> None:
        """The same for a batch of which `located` told the places when it was drawn."""
        for i, (identity, place) in enumerate(places):
            item = self.items[identity][place]
            assert np.array_equal(batch.observation[i], _planes(item.observation))
            assert np.array_equal(batch.next_observation[i], _planes(item.next_observation))
            assert batch.action[i] == item.action
            assert batch.reward[i].tobytes() == item.reward.tobytes()
            assert batch.discount[i].tobytes() == item.discount.tobytes()
            assert batch.weights_version[i] == self.segments[identity].weights_version


def _planes(frames: np.ndarray) -> np.ndarray:
    """Frames (S, H, W) or (S, C, H, W) as planes one after the other."""
    return np.concatenate(list(frames)) if frames.ndim == 4 else frames


def ingest_all(sampler: Sampler) -> int:
    """Ingest until nothing comes; the number of items added."""
    added = 0
    while some := sampler.ingest():
        added += some
    return added


def located(sampler: Sampler, batch: Batch) -> list[tuple[SegmentIdentity, int]]:
    """Find the items of a batch: their segments and their places in these."""
    table = sampler.table
    slots = table.leaf_slots[batch.leaf].tolist()
    assert (table.slots["generation"][slots] == batch.generation).all()
    places = batch.leaf - table.slots["first_leaf"][slots]
    return [(table.identity(slot), int(place)) for slot, place in zip(slots, places, strict=True)]


def replay_config(**changes: Any) -> ReplayConfig:
    """Small numbers, and a limiter that is never in the way."""
    values: dict[str, Any] = {
        "capacity": 100_000,
        "min_size": 1,
        "frame_store_bytes": 64 * 1024**2,
        "segment_steps": 16,
        "error_buffer": 1e15,
    }
    return ReplayConfig(**(values | changes))


def small_signature(config: ReplayConfig, stack: int = 4) -> Signature:
    """Tiny frames and four actions."""
    return Signature(frame_shape=FRAME_SHAPE, stack=stack, n_step=config.n_step, num_actions=4)


def new_run(urls: Sequence[str], **changes: Any) -> Run:
    """An empty run with small frames."""
    config = replay_config(**changes)
    return Run(urls, small_signature(config), config)


def same_batches(one: Batch, other: Batch) -> bool:
    """Whether two batches are equal in every bit."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in Batch.__dataclass_fields__]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)

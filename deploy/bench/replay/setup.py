"""Shared by the parts of the replay benchmark: filled servers, samplers and the brute-force check."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.bench.errors import BenchmarkError
from deploy.bench.replay.local_replay import NEVER_LIMITED, RUN, UNLIMITED
from deploy.bench.replay.recorded import Recording
from deploy.run.config import Config
from replay.items.frame_store import HostFrameStore
from replay.sampler import Sampler
from replay.segments.codec import decode_header, encode
from replay.segments.header import encode_header
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.types import Batch, Segment, SegmentIdentity, Signature
from replay.writer import Writer


@dataclass
class Setup:
    """One run of the benchmark: what it measures, and the totals it collects."""

    config: Config
    recordings: Mapping[str, Recording]
    items: int
    """Transitions in the full replay; other sizes follow from it."""
    seconds: float
    """Length of each timed stretch."""
    report: Callable[[str], None]
    commands: dict[str, Counter[str]] = field(default_factory=dict)
    """By part: calls and microseconds of the servers' commands, as `name calls` and `name usec`."""
    drawn: int = 0
    checked: int = 0
    """Transitions compared with brute force."""
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    """Chooses what is checked."""

    @property
    def signature(self) -> Signature:
        """The signature that all recordings share."""
        return next(iter(self.recordings.values())).signature

    def segments(self, pass_number: int, games: tuple[str, ...] = ()) -> list[tuple[Segment, Segment]]:
        """Return all segments of some games (default: all) under new identities, with the recorded ones.

        Actor is the game's number and incarnation the pass, so that an identity names what was recorded.
        """
        return [
            (replace(segment, identity=SegmentIdentity(number, pass_number, segment.identity.seq)), segment)
            for number, (game, recording) in enumerate(self.recordings.items())
            if not games or game in games
            for segment in recording.segments
        ]

    @contextlib.contextmanager
    def servers(self, part: str) -> Iterator["Servers"]:
        """Open fresh embedded servers with append-only files, whose writers never wait for allowance."""
        replay = self.config.replay
        with tempfile.TemporaryDirectory() as folder:
            embedded = EmbeddedServers(
                Path(folder) / "replay",
                shards=replay.shards,
                append_fsync=replay.append_fsync,
                maxmemory=replay.shard_memory_bytes,
            )
            urls = embedded.start()
            servers = Servers(self, urls, Path(folder))
            try:
                yield servers
            finally:
                # Before the servers stop, which keep these counts in memory only.
                servers.count_commands(self.commands.setdefault(part, Counter()))
                servers.close()
                embedded.stop()

    def check(self, sampler: Sampler, batch: Batch) -> None:
        """Compare a batch, bit for bit, with the recordings; raise BenchmarkError."""
        recordings, table = list(self.recordings.values()), sampler.table
        slots = table.leaf_slots[batch.leaf]
        places = batch.leaf - table.slots["first_leaf"][slots]
        for row, (slot, place) in enumerate(zip(slots.tolist(), places.tolist(), strict=True)):
            identity = table.identity(slot)
            expected = recordings[identity.actor].expected(identity.seq, place)
            if not all(
                np.array_equal(getattr(batch, name)[row], value) for name, value in expected._asdict().items()
            ):
                raise BenchmarkError(f"item {place} of segment {identity} is not what was recorded")
        masses = table.index.masses()
        probability = masses[batch.leaf] / masses.sum()
        # Leaves that start no item have mass 0: those with a mass are the N items.
        weight = (np.count_nonzero(masses) * probability) ** -self.config.replay.importance_exponent
        if not (
            np.allclose(batch.probability, probability, rtol=1e-9)
            and np.allclose(batch.importance_weight, weight / weight.max(), rtol=1e-5)
        ):
            raise BenchmarkError("probabilities or importance weights are not those of the priorities")
        self.checked += len(batch.leaf)


class Servers:
    """The servers of one measurement and their shards."""

    def __init__(self, setup: Setup, urls: list[str], folder: Path) -> None:
        self._setup, self.urls, self._folder = setup, urls, folder
        self.shards = [Shard(url, run=RUN, index=index) for index, url in enumerate(urls)]
        for shard in self.shards:
            shard.owning.set_allowed(UNLIMITED)

    def close(self) -> None:
        """Close the connections."""
        for shard in self.shards:
            shard.close()

    def writer(self) -> Writer:
        """Return a production writer."""
        return Writer(self.shards, run=RUN, signature=self._setup.signature)

    def sampler(self, *, capacity: int, batch_size: int = 256, store_bytes: int | None = None) -> Sampler:
        """Return a production sampler; with `store_bytes` None it has the configured frame store."""
        signature = self._setup.signature
        config = replace(
            self._setup.config.replay,
            capacity=capacity,
            min_size=1,
            error_buffer=NEVER_LIMITED,
            prioritized=True,
        )
        return Sampler(
            config,
            self.shards,
            run=RUN,
            signature=signature,
            batch_size=batch_size,
            samples_per_insert=8.0,
            seed=self._setup.config.run.seed,
            frame_store=None if store_bytes is None else HostFrameStore(signature.frame_shape, store_bytes),
        )

    def fill(self, items: int, games: tuple[str, ...] = ()) -> int:
        """Commit at least `items` items of some games (default: all) in equal parts; return their number.

        Segments are compressed once and written again under other identities, bypassing the writer.
        """
        encoded: dict[int, bytes] = {}
        signature, filled, pass_number = self._setup.signature, 0, 0
        while filled < items:
            for place, (segment, recorded) in enumerate(self._setup.segments(pass_number, games)):
                if filled >= items:
                    break
                # By `id`: a segment holds arrays, so it has no hash.
                if id(recorded) not in encoded:
                    encoded[id(recorded)] = encode(recorded, RUN, signature)
                data = _renamed(encoded[id(recorded)], segment, signature)
                shard = self.shards[place % len(self.shards)]
                shard.writing.commit(segment.identity, data, segment.num_items, segment.num_steps)
                filled += segment.num_items
            pass_number += 1
        return filled

    def used_bytes(self) -> int:
        """Return the memory of all servers, all overheads included."""
        return sum(shard.administration.memory()[0] for shard in self.shards)

    def disk_bytes(self) -> int:
        """Return the bytes of all append-only files."""
        return sum(path.stat().st_size for path in self._folder.rglob("append*") if path.is_file())

    def count_commands(self, into: Counter[str]) -> None:
        """Add the commands that the servers have run since they started."""
        for shard in self.shards:
            for name, (calls, microseconds) in shard.administration.command_stats().items():
                into[f"{name} calls"] += calls
                into[f"{name} usec"] += microseconds


def set_priorities(sampler: Sampler, seed: int) -> None:
    """Give every item its own priority, as unevenly distributed as losses are."""
    table = sampler.table
    leaves = np.flatnonzero(table.index.masses())
    generations: NDArray[np.int64] = table.slots["generation"][table.leaf_slots[leaves]]
    sampler.update_priorities(
        leaves, generations, np.random.default_rng(seed).exponential(size=len(leaves)) ** 3
    )


def _renamed(encoded: bytes, segment: Segment, signature: Signature) -> bytes:
    """Return an encoded segment under the identity of `segment`, without compressing its blocks again."""
    # The header's checksum covers the identity; blocks have their own, so their bytes stay valid.
    header = decode_header(encoded)
    start, stop, _, crcs = header.blocks.T.tolist()
    sizes = [end - begin for begin, end in zip(start, stop, strict=True)]
    return encode_header(segment, RUN, signature, sizes, crcs) + encoded[start[0] :]

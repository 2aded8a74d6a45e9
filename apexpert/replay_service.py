"""The replay by itself, for other programs: servers, writers and one sampler, without Ray or torch.

Writers and the sampler may be processes anywhere that reaches the servers. The sampler owns the replay: it
says how much may be written (the ratio of samples to inserts), evicts, and takes priorities back.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replay.config import ReplayConfig
from replay.sampler import Sampler
from replay.segments.builder import SegmentBuilder
from replay.servers.embedded import EmbeddedServers
from replay.shards.connect import connect_shards
from replay.shards.shard import Shard
from replay.types import Batch, FrameShape, Segment, Signature
from replay.writer import Writer

__all__ = ["ReplaySampler", "ReplayWriter", "serve_replay"]

RUN = "replay"


@contextlib.contextmanager
def serve_replay(
    folder: Path | str, *, shards: int = 2, memory_bytes: int = 4 * 1024**3, listen: str | None = None
) -> Iterator[tuple[str, ...]]:
    """Run embedded Redis servers with their files in `folder`; gives their URLs, passwords included.

    They end with the `with` block or this process, and a later call on the same folder finds what was stored.
    `memory_bytes` is a server's; `listen` is an address of this machine for writers elsewhere, else they are
    reached on this machine alone (docs/security.md). Raises ServerError.
    """
    with EmbeddedServers(
        folder, shards=shards, append_fsync="everysec", maxmemory=memory_bytes, listen=listen
    ) as servers:
        yield tuple(servers.urls)


class ReplayWriter:
    """Turns one stream of env steps into segments and stores them; for one thread. `with` flushes and closes.

    `writer` numbers the writers of a replay, 0 and up, each number at work once at a time; `incarnation` is
    larger each time that the same number starts again, since both name what is stored. One that `waits`
    stores no more than the sampler allows, by its ratio of samples to inserts; without, as to collect a data
    set with no sampler at work, it stores at once.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        frame_shape: FrameShape,
        num_actions: int,
        writer: int = 0,
        incarnation: int = 0,
        config: ReplayConfig | None = None,
        stack: int = 4,
        run: str = RUN,
        waits: bool = True,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Raises ShardError when a server cannot be used, SignatureMismatch when its data is another."""
        rules = config or ReplayConfig()
        signature = Signature(frame_shape, stack, rules.n_step, num_actions)
        with contextlib.ExitStack() as resources:
            shards = _connected(resources, urls, run)
            for shard in shards:
                shard.check_meta(signature, writes=True)
            self._writer = Writer(
                shards, run=run, signature=signature, first_shard=writer, should_stop=should_stop
            )
            resources.callback(self._writer.close)
            # Nothing failed, so the connections stay open beyond the `with`.
            self._resources = resources.pop_all()
        self._builder = SegmentBuilder(
            signature,
            actor=writer,
            incarnation=incarnation,
            env_slot=0,
            num_slots=1,
            segment_steps=rules.segment_steps,
            next_seq=count().__next__,
        )
        self._unwritten: list[Segment] = []
        self._waits = waits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self.flush()
        finally:
            self.close()

    def reset(self, frame: NDArray[np.uint8]) -> None:
        """Begin an episode with its first frame, uint8 of `frame_shape`."""
        self._builder.reset(frame)

    def append(
        self,
        action: int,
        reward: float,
        next_frame: NDArray[np.uint8],
        *,
        terminated: bool,
        truncated: bool,
        life_lost: bool = False,
    ) -> None:
        """Take in one env step; stores a segment when it is full, and waits until the sampler allows that.

        Raises ValueError for a step that cannot be stored, WriterStopped when told to stop while it waits:
        `flush` writes what is in hand.
        """
        step = (action, reward, next_frame, terminated, truncated, life_lost)
        self._unwritten += self._builder.add(*step)
        self._write(self._waits)

    def flush(self, *, wait: bool | None = None) -> None:
        """Store every open step; `wait` False does so at once. Raises WriterStopped, ShardError."""
        self._unwritten += self._builder.drain()
        self._write(self._waits if wait is None else wait)

    def close(self) -> None:
        """Close the connections; open steps are lost, `flush` stores them."""
        self._resources.close()

    def _write(self, wait: bool) -> None:
        while self._unwritten:
            self._writer.write(self._unwritten[0], wait=wait)
            # Removed only after the commit: WriterStopped leaves the segment for `flush`.
            del self._unwritten[0]


class ReplaySampler:
    """The one sampler and owner of a replay; for one thread. `with` lets it go, and keeps the data.

    Between calls nothing happens: whoever samples rarely calls `ingest` meanwhile, as it is what lets the
    writers go on.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        frame_shape: FrameShape,
        num_actions: int,
        batch_size: int,
        samples_per_insert: float,
        config: ReplayConfig | None = None,
        stack: int = 4,
        run: str = RUN,
        seed: int = 0,
    ) -> None:
        """Raises ShardError; what is stored already is indexed first."""
        rules = config or ReplayConfig()
        with contextlib.ExitStack() as resources:
            self._sampler = Sampler(
                rules,
                _connected(resources, urls, run),
                run=run,
                signature=Signature(frame_shape, stack, rules.n_step, num_actions),
                batch_size=batch_size,
                samples_per_insert=samples_per_insert,
                seed=seed,
            )
            # Closed before the connections, by which it lets the shards go.
            resources.callback(self._sampler.close)
            self._sampler.rebuild()
            self._resources = resources.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ingest(self) -> int:
        """Index what was stored meanwhile, evict, allow the writers more; returns the items added."""
        return self._sampler.ingest()

    def mark_dead(self, writer: int, incarnation: int = 0) -> None:
        """Note that an incarnation of a writer never writes again; `ingest` takes back what it reserved.

        Not needed once the same number is at work again: its next incarnation shows that the last one ended.
        """
        self._sampler.mark_dead([(writer, incarnation)])

    def can_sample(self) -> bool:
        """Whether a batch may be drawn now, by the ratio of samples to inserts."""
        return self._sampler.can_sample()

    def sample(self) -> Batch:
        """Draw a batch in proportion to priority; raises NotEnoughData when `can_sample()` is false."""
        return self._sampler.sample()

    def update_priorities(self, batch: Batch, priorities: ArrayLike) -> None:
        """Give the items of a batch (B,) new raw priorities, such as absolute TD errors."""
        self._sampler.update_priorities(batch.leaf, batch.generation, priorities)

    @property
    def size(self) -> int:
        """Items that can be drawn now."""
        return self._sampler.size

    def metrics(self) -> dict[str, float]:
        """Counters and sizes, by the names that a run's metrics have (`replay/...`)."""
        return self._sampler.metrics()

    def close(self) -> None:
        """Let the shards go and close the connections."""
        self._resources.close()


def _connected(resources: contextlib.ExitStack, urls: Sequence[str], run: str) -> list[Shard]:
    """The shards at these URLs, closed with `resources`."""
    shards = connect_shards(urls, run=run)
    for shard in shards:
        resources.callback(shard.close)
    return shards

"""Where the learner's batches come from: draws them from a replay when they are earned, one ahead."""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import ArrayLike, NDArray

from apexpert.backoff import Backoff
from learner.config import LearnerConfig
from learner.telemetry import SpeedWindow
from replay.errors import NotEnoughData
from replay.items.counters import Counters
from replay.sampler import RestoreReport
from replay.shards.shard import Shard
from replay.types import Batch

LOOK_SECONDS = (0.05, 0.2)
"""While there is enough to draw, shortest and longest time from one look for new segments to the next."""
LOOK_EASE = 50
"""In between, so many times what the last look took: its round trips cost most of it where little is new."""
WAIT_SECONDS = (0.001, 0.020)
"""First and longest wait when nothing may be drawn; it doubles in between."""


class Replay(Protocol):
    """Methods that a learner needs of the replay's owner, which is `replay.sampler.Sampler`."""

    @property
    def inserted(self) -> int:
        """Items ever inserted: the run's env steps."""

    @property
    def sampled(self) -> int:
        """Items ever drawn."""

    @property
    def counters(self) -> Counters:
        """Counts since the run began; `unearned` items pay for no samples."""

    @property
    def has_nothing(self) -> bool:
        """Whether there are no items, not even in shards that do not answer."""

    def ingest(self) -> int:
        """Index what is new; returns the items added."""

    def can_sample(self) -> bool:
        """Whether the limiter allows a batch."""

    def sample(self) -> Batch:
        """Draw a batch; raises NotEnoughData when all there was turned out to be gone."""

    def update_priorities(self, leaf: ArrayLike, generation: ArrayLike, priorities: ArrayLike) -> None:
        """Give items (B,) new raw priorities (B,)."""

    def mark_dead(self, incarnations: set[tuple[int, int]]) -> None:
        """Note (actor, incarnation) pairs that never write again."""

    def add_shard(self, shard: Shard) -> None:
        """Use one more shard."""

    def rebuild(self) -> int:
        """Index all that is stored, for a run without a checkpoint; returns the items kept."""

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Collect all that a bit-identical continuation needs: JSON-able values and arrays."""

    def restore(self, document: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> RestoreReport:
        """Take a state back."""

    def metrics(self) -> dict[str, float]:
        """Counters and sizes under the run's metric names."""


class BatchSource:
    """Draws what was earned: `config.batch_size` items for each `config.update_period` items inserted.

    In lockstep never more than that; else the replay's limiter says how far ahead, up to what the whole run
    earns. `mark_dead` and `add_shard` belong to all threads, everything else to the learner's.
    """

    def __init__(
        self,
        config: LearnerConfig,
        replay: Replay,
        *,
        min_size: int,
        total_env_steps: int,
        lockstep: bool = False,
    ) -> None:
        """`min_size`: items inserted before the first batch, as the replay's limiter has it."""
        self.replay, self.lockstep = replay, lockstep
        self._config, self._min_size, self._total = config, min_size, total_env_steps
        self.ahead: Batch | None = None
        """The batch that was drawn while the last update was computed."""
        self.speed = SpeedWindow()
        self._in_flight: tuple[Batch, NDArray[Any]] | None = None
        self._next_ingest = 0.0
        self._waits = Backoff(*WAIT_SECONDS)
        self._lock = threading.Lock()
        self._dead: set[tuple[int, int]] = set()
        self._new_shards: list[Shard] = []

    @property
    def finished(self) -> bool:
        """Whether all env steps are in and the samples have caught up with them, to within one batch.

        True as well when nothing is left that could ever be sampled.
        """
        inserted = self.replay.inserted
        done = inserted >= self._total and (not self._earned(inserted) or self.replay.has_nothing)
        # A batch drawn ahead counts as sampled already, and is still to be learned from.
        return done and self.ahead is None

    @property
    def progress(self) -> float:
        """Share of the run's env steps that are inserted, 0 to 1 (and above, by the last segments)."""
        return self.replay.inserted / self._total

    def next(self, all_learned: Callable[[], object] = lambda: None) -> Batch | None:
        """The batch drawn ahead, else a new one; None when none may be drawn yet.

        In lockstep `all_learned` is called before a look for items that are not earned yet.
        """
        if self.ahead is None:
            self.send_priorities()
            # In lockstep the actor writes nothing until weights know of its last segment.
            if self.lockstep and not self._may_draw():
                all_learned()
            self._ingest()
            return self._draw()
        batch, self.ahead = self.ahead, None
        return batch

    def draw_ahead(self) -> Batch | None:
        """Draw the next batch while an update is computed, whose priorities it cannot know yet."""
        if self._config.updates_in_flight and not self.lockstep:
            self.send_priorities()
            self._ingest()
            self.ahead = self._draw()
        return self.ahead

    def learned(self, batch: Batch, priorities: NDArray[Any]) -> None:
        """Take an update's priorities (B,), to be sent with the next look at the replay."""
        self._in_flight = (batch, priorities)
        self._waits.reset()
        self.speed.count(updates=1)

    def send_priorities(self) -> None:
        """Send the last update's priorities to the replay, unless already sent."""
        if self._in_flight is not None:
            (batch, priorities), self._in_flight = self._in_flight, None
            self.replay.update_priorities(batch.leaf, batch.generation, priorities)

    def wait(self) -> None:
        """Sleep a little because nothing may be drawn, longer each time in a row."""
        start = time.monotonic()
        time.sleep(self._waits.next())
        self.speed.count(waited=time.monotonic() - start)

    def mark_dead(self, incarnations: set[tuple[int, int]]) -> None:
        """Give back the allowance of dead (actor, incarnation) pairs at the next look."""
        with self._lock:
            self._dead |= incarnations

    def add_shard(self, shard: Shard) -> None:
        """Use one more shard from the next look on; its index must be the next one."""
        with self._lock:
            self._new_shards.append(shard)

    def _earned(self, inserted: int) -> bool:
        """Whether `inserted` items pay for one more batch at the exact ratio (in whole numbers)."""
        # Multiplied out, because a ratio such as 8 / 3 is not exact in floats.
        paid = inserted - self._min_size - self.replay.counters.unearned
        samples = self.replay.sampled + self._config.batch_size
        return samples * self._config.update_period <= paid * self._config.batch_size

    def _may_draw(self) -> bool:
        """The limiter's word, and never more than the whole run earns (in lockstep: than was earned)."""
        inserted = self.replay.inserted
        if not self.lockstep:
            # By its buffer, the limiter alone would allow samples that the whole run does not earn.
            inserted = max(inserted, self._total)
        return self._earned(inserted) and self.replay.can_sample()

    def _draw(self) -> Batch | None:
        """A batch if one may be drawn; None as well when all that was indexed turned out to be gone."""
        try:
            return self.replay.sample() if self._may_draw() else None
        except NotEnoughData:
            return None

    def _ingest(self) -> None:
        # In lockstep all earned batches are drawn before a look, so that timing changes no draw.
        if self._may_draw() and (self.lockstep or time.monotonic() < self._next_ingest):
            return
        with self._lock:
            dead, self._dead = self._dead, set()
            new_shards, self._new_shards = self._new_shards, []
        if dead:
            self.replay.mark_dead(dead)
        for shard in new_shards:
            self.replay.add_shard(shard)
        begun = time.monotonic()
        if arrived := self.replay.ingest():
            self._waits.reset()
            self.speed.count(arrived=arrived)
        ended = time.monotonic()
        self._next_ingest = ended + seconds_to_next_look(ended - begun)


def seconds_to_next_look(took: float) -> float:
    """How long to leave the shards alone after a look that took so many seconds."""
    shortest, longest = LOOK_SECONDS
    return min(max(LOOK_EASE * took, shortest), longest)

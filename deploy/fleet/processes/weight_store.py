"""Weights from the learner to the actors: one Ray actor that holds the newest version.

Each publication is one `ray.put` owned by the store, so that weights outlive the learner; an actor reads the
flat array from the shared memory of its node. An actor requests the newest weights and continues acting; it
picks up the answer, and then the array, at the first vector step that finds them there. It therefore acts
with the weights that were the newest at its last request, one broadcast ago. After a write that waited for
the learner, it requests them anew and gives the answer a moment.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from actors.config import MOST_ACTORS
from deploy.fleet.reporting.log import log_to

if TYPE_CHECKING:
    from models.arrays import Weights

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 30.0
RENEWAL_SECONDS = 0.1
"""How long `StoredWeights.renew` waits for each answer and each array: they take a few milliseconds."""


class FlatWeights(NamedTuple):
    """One publication on its way from the learner; like `models.arrays.Weights`, without torch."""

    version: int
    parameters: NDArray[np.float32]
    """(P,)"""
    env_steps: int
    updates: int


@dataclass(frozen=True)
class Published:
    """The store's answer: like FlatWeights, with a reference to the flat array."""

    version: int
    env_steps: int
    updates: int
    parameters: list[Any]
    """Object reference to the float32 (P,) array; in a list, so that Ray does not fetch it on the way."""
    published_at: float
    """Seconds since the epoch, by the clock of the learner's node."""


class WeightStore:
    """Holds the newest weights; a Ray actor (`create_weight_store`) whose methods are calls over Ray."""

    def __init__(self, log: Path) -> None:
        log_to(log, "weights")
        self._newest: Published | None = None
        self._changed = asyncio.Event()

    async def publish(self, version: int, env_steps: int, updates: int, parameters: np.ndarray) -> bool:
        """Store new weights; return False and change nothing if `version` is not above the newest."""
        if self._newest is not None and version <= self._newest.version:
            logger.warning("version %d refused: %d is there already", version, self._newest.version)
            return False
        self._newest = Published(version, env_steps, updates, [ray.put(parameters)], time.time())
        # Wake all that wait for this version; the next version gets a new event.
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    async def until_it_ends(self) -> None:
        """Never return: a caller learns from the error that the store is gone."""
        await asyncio.Event().wait()

    async def version(self) -> int:
        """Return the newest version; -1 before the first."""
        return -1 if self._newest is None else self._newest.version

    async def newest_above(self, version: int) -> Published | None:
        """Return the newest weights if they are above `version`, else None, without waiting."""
        return self._newest if self._newest is not None and self._newest.version > version else None

    async def newer_than(self, version: int) -> Published | None:
        """Return the newest weights as soon as they are above `version`; None if that takes over 30 s."""
        while self._newest is None or self._newest.version <= version:
            try:
                await asyncio.wait_for(self._changed.wait(), ANSWER_SECONDS)
            except TimeoutError:
                return None
        return self._newest


def create_weight_store(place: Any, log: Path) -> Any:
    """Start a store with Ray's scheduling strategy `place`, logging to the run's log; return its handle."""
    # Every actor may have one request pending, a coroutine here; the learner's calls must fit beside them.
    remote = ray.remote(WeightStore).options(
        num_cpus=0, max_concurrency=2 * MOST_ACTORS, scheduling_strategy=place
    )
    return remote.remote(log)


class StoredWeights:
    """An actor's view of the store (`WeightsSource`); raises RayActorError when the store is gone."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._version = -1
        self._question: Any = None
        self._coming: Published | None = None
        """Answered; its array may still be on its way to this node."""

    def ask(self) -> None:
        """Request the newest weights, unless an answer is on its way, without waiting."""
        if self._question is None and self._coming is None:
            self._question = self._store.newest_above.remote(self._version)

    def take(self, wait: bool = False) -> "Weights | None":
        """Return the requested weights if they have arrived and are newer than the last returned, else None.

        With `wait`, request any newer weights, and wait up to a second each for the answer and for the array.
        """
        if wait and self._question is None and self._coming is None:
            self._question = self._store.newer_than.remote(self._version)
        return self._take_within(1.0 if wait else 0.0)

    def renew(self) -> "Weights | None":
        """Request the newest weights anew, and return them if they come within RENEWAL_SECONDS.

        An earlier request is finished first, because a slow store might never answer if each call
        dropped it; weights that it brings are returned when nothing newer comes in time.
        """
        earlier = self._take_within(RENEWAL_SECONDS)
        if self._question is not None or self._coming is not None:
            return earlier
        self.ask()
        return self._take_within(RENEWAL_SECONDS) or earlier

    def _take_within(self, seconds: float) -> "Weights | None":
        # Imported here, because the supervisor, which also imports this module, needs no torch.
        from models.arrays import Weights

        if self._question is not None and _is_here(self._question, seconds):
            self._coming, self._question = ray.get(self._question), None
        if self._coming is None or not _is_here(self._coming.parameters[0], seconds):
            return None
        came, self._coming = self._coming, None
        self._version = came.version
        # Read-only, in the node's shared memory for as long as somebody holds the array.
        parameters = ray.get(came.parameters[0])
        return Weights(came.version, parameters, came.env_steps, came.updates, came.published_at)


def _is_here(reference: Any, seconds: float) -> bool:
    """Whether an object is on this node, or arrives within `seconds`; the node is asked to fetch it."""
    ready, _ = ray.wait([reference], timeout=seconds, fetch_local=True)
    return bool(ready)


class WeightPublisher:
    """Publishes the learner's weights to the store; at most one publication is under way."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._pending: Any = None

    def newest_version(self) -> int:
        """Return the store's version; a restarted learner numbers its weights above it."""
        return int(ray.get(self._store.version.remote()))

    def publish(self, weights: FlatWeights) -> None:
        """Publish weights; waits only if the previous publication has not arrived yet."""
        if self._pending is not None:
            ray.get(self._pending)
        self._pending = self._store.publish.remote(
            weights.version, weights.env_steps, weights.updates, weights.parameters
        )

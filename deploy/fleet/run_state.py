"""The fleet's records in the run's folder: target, incarnations, and the Ray that the run started."""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from actors.config import ActorRange, Actors
from deploy.fleet.ray.cluster import LocalRay
from deploy.run.errors import RunBusy
from deploy.run.folder import FLEET, RAY, RunFolder

logger = logging.getLogger(__name__)

LOCK_SECONDS = 20.0


class FleetState:
    """Target and incarnations, written to disk before anything acts on them."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        document = folder.read_json(FLEET, {})
        self._target = int(document.get("target_actors", 0))
        # Folders of earlier versions have the number alone.
        self._asked: Actors = document.get("actors", self._target)
        following = document.get("next_incarnation", {})
        self._next = {int(actor_slot): int(n) for actor_slot, n in following.items()}
        # `scale` sets the target in a thread of Ray's: the older of two documents must not be saved last.
        self._changing = threading.Lock()

    @property
    def asked(self) -> Actors:
        """What was asked for, as by `--actors`; 0 before anything was."""
        return self._asked

    def ask(self, actors: Actors) -> None:
        """Note what is asked for; within a range, the target is for the run to choose."""
        self._asked = actors
        wanted = ActorRange.parse(actors)
        # Not a default for a range: how many cores are free is for the supervisor to see.
        self.target = self._target if wanted.is_elastic else wanted.least

    @property
    def target(self) -> int:
        """Number of actors that the run shall have now; 0 for a range before the first choice within it."""
        return self._target

    @target.setter
    def target(self, num_actors: int) -> None:
        # It applies even if it cannot be written, and is written with the next incarnation.
        with self._changing, contextlib.suppress(OSError):
            self._target = num_actors
            self._save()

    def next_incarnation(self, actor_slot: int) -> int:
        """Return a number this actor slot never had; raise OSError when it cannot be written to disk."""
        with self._changing:
            incarnation = self._next.get(actor_slot, 0)
            self._next[actor_slot] = incarnation + 1
            try:
                self._save()
            except OSError:
                self._next[actor_slot] = incarnation
                raise
            return incarnation

    def dead_incarnations(self, alive: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
        """Return every (actor slot, incarnation) that was ever started and is not in `alive`."""
        started = {(actor_slot, n) for actor_slot, count in self._next.items() for n in range(count)}
        return started - set(alive)

    def _save(self) -> None:
        document = {"target_actors": self._target, "actors": self._asked, "next_incarnation": self._next}
        self._folder.write_json(FLEET, document)


def save_ray(folder: RunFolder, local: LocalRay | None, address: str) -> None:
    """Record the Ray that the run uses; `local` is one that it started for itself."""
    record = None if local is None else dataclasses.asdict(local)
    document = {"address": address, "local": record, "path": str(folder.path.resolve())}
    folder.write_json(RAY, folder.marked(document), mode=0o600)


def load_ray(folder: RunFolder) -> tuple[str, LocalRay | None]:
    """Return what `save_ray` recorded in this folder; an empty address if the run was never on any Ray.

    A record that came with a copy describes the original's Ray, which this folder must leave alone.
    """
    document = folder.read_json(RAY, {})
    if not folder.is_own(document):
        return "", None
    return document.get("address", ""), LocalRay.parse(document.get("local"))


def forget_ray(folder: RunFolder, only: LocalRay | None = None) -> None:
    """Remove the record: the run is on no Ray any more. With `only`, leave the record of any other Ray."""
    if only is None or load_ray(folder)[1] == only:
        (folder.path / RAY).unlink(missing_ok=True)


def restore_ray(folder: RunFolder, record: dict[str, Any] | None) -> None:
    """Put back an earlier record: a run that is at work already needs its own."""
    if record is None:
        forget_ray(folder)
        return
    with contextlib.suppress(OSError):  # A full disk: why the run does not start is worth more.
        folder.write_json(RAY, record, mode=0o600)


def hold(folder: RunFolder, *, patient: Callable[[], bool] = lambda: False) -> contextlib.ExitStack:
    """Take the run's lock, which a supervisor that has just died may hold for a moment; raise RunBusy.

    `patient`: whether to wait without an end. A supervisor that comes back on another node may find the
    previous one at work, on a node that is cut off. That one ends when it has noticed.
    """
    stack, deadline = contextlib.ExitStack(), time.monotonic() + LOCK_SECONDS
    waited = False
    while True:
        try:
            stack.enter_context(folder.lock())
            return stack
        except RunBusy:
            late = time.monotonic() > deadline
            if late and not (waited or patient()):
                raise
            if late and not waited:
                waited = True
                logger.warning("the previous supervisor is still at work, on a node that is cut off: waiting")
            time.sleep(0.1)

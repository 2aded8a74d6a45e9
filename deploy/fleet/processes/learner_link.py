"""The Ray actor's side of the learner's own process: starts it, calls it, and receives its publications.

The two communicate over a private pair of sockets. When this side's process ends, for whatever reason, the
other side sees the end of the connection, saves a checkpoint and ends by itself.
"""

import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np

from deploy.fleet.errors import LearnerDied
from deploy.fleet.processes.role import Assignment, Report
from deploy.fleet.processes.weight_store import FlatWeights
from deploy.run import import_path

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 30.0


class LearnerLink:
    """Runs the learner's process while entered; `call` and `wait` may be used by any thread."""

    def __init__(
        self,
        assignment: Assignment,
        dead: set[tuple[int, int]],
        newest_version: int,
        publish: Callable[[FlatWeights], None],
    ) -> None:
        """`publish` is called in a separate thread; if it is slow, it gets only the newest weights."""
        # The parent of a Ray worker is the raylet, whose end the learner's process has to know of.
        self._first = (assignment, dead, newest_version, os.getppid())
        self._publish = publish
        self._numbers = itertools.count()
        self._calls: dict[int, Future[Any]] = {}
        self._end: Future[str] = Future()
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._newest: FlatWeights | None = None
        self.last_report: Report | None = None
        """The process's last report on itself, sent when it ends; None before."""

    def __enter__(self) -> Self:
        self._connection = _start_process(self._first[0].folder)
        self._connection.send(self._first)
        for work in (self._read, self._publish_newest):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        with self._changed:
            self._changed.notify_all()

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what the process's `LearnerProcess` method returns; raise LearnerDied or TimeoutError."""
        answer: Future[Any] = Future()
        # Under the lock: a call noted after `_read` has failed all others would wait in vain.
        with self._lock:
            if self._end.done():
                raise LearnerDied("the learner's process has ended")
            number = next(self._numbers)
            self._calls[number] = answer
            try:
                self._connection.send((number, method, arguments))
            except OSError as error:
                raise LearnerDied("the learner's process has ended") from error
        return answer.result(ANSWER_SECONDS)

    def wait(self) -> str:
        """Return how the learner ended, once it has; raise its own error, or LearnerDied if it sent none."""
        return self._end.result()

    def _read(self) -> None:
        error: BaseException | None = None
        outcome = ""
        try:
            while not outcome and error is None:
                kind, *rest = self._connection.recv()
                if kind == "answer":
                    self._calls.pop(rest[0]).set_result(rest[1])
                elif kind == "weights":
                    parameters = np.frombuffer(self._connection.recv_bytes(), np.float32)
                    self._take(FlatWeights(rest[0], parameters, rest[1], rest[2]))
                else:
                    outcome, error, self.last_report = rest
        except (EOFError, OSError):
            error = LearnerDied("its process died")
        except Exception as unreadable:  # Unpickling may raise anything, and `wait` must return.
            error = LearnerDied(f"its last word cannot be read: {unreadable}")
        with self._lock:
            if error is None:
                self._end.set_result(outcome)
            else:
                self._end.set_exception(error)
            calls, self._calls = self._calls, {}
        for call in calls.values():
            call.set_exception(LearnerDied("the learner's process has ended"))
        self._take(None)

    def _take(self, weights: FlatWeights | None) -> None:
        with self._changed:
            self._newest = weights or self._newest
            self._changed.notify_all()

    def _publish_newest(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._end.done())
                weights, self._newest = self._newest, None
            if weights is None:
                return
            try:
                self._publish(weights)
            except Exception:  # The supervisor notices when the weight store is gone, and starts over.
                logger.exception("version %d cannot be published", weights.version)


def _start_process(folder: str) -> Connection:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [
            sys.executable,
            # -P keeps modules of the current folder, which is the user's, from shadowing ours.
            "-P",
            "-m",
            "deploy.fleet.processes.learner_process",
            folder,
            str(theirs.fileno()),
        ]
        # The process leaves its parent at once: Ray kills the children of a worker that ends.
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            check=True,
            env=os.environ | {"PYTHONPATH": import_path.python_path()},
        )
    return Connection(ours.detach())

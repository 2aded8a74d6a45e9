"""Writes a run's numbers to metrics.jsonl and TensorBoard events, under the same names."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deploy.monitor.bands import GREEDY, RETURN
from deploy.monitor.events import Events, correlation_image
from deploy.run.folder import METRICS
from learner.diagnostics.files import read_arrays

logger = logging.getLogger(__name__)

DIAGNOSTICS = "diagnostics/"
COMPARED = (GREEDY.metric, RETURN, "evaluation/return_mean")
"""Metrics beside the settings on TensorBoard's HPARAMS page."""

MOST_UNWRITTEN_BYTES = 64 * 2**20
"""Maximum size of records that wait for disk space: some ten hours of a run's."""


class MetricsSink:
    """Appends metrics to `metrics.jsonl` and to TensorBoard events in `tensorboard/`, both below `folder`.

    Each run has one writer, the supervisor. A resumed run continues the same files. Metrics of diagnoses are
    not repeated with the others: each diagnosis is one record, at its own env steps, and an image.

    Nothing here raises when the disk is full or gone: `note` is called once, records wait, and metrics.jsonl
    gets all of them, in whole lines, as soon as there is room. TensorBoard's events then have a gap.
    """

    def __init__(
        self,
        folder: Path,
        note: Callable[[str], object] = logger.warning,
        settings: Mapping[str, bool | float | str] = MappingProxyType({}),
    ) -> None:
        """`settings`: what TensorBoard compares this run with others by."""
        self._folder, self._note, self._settings = folder, note, settings
        self._lines = UnfailingFile(folder / METRICS, note)
        self._events: Events | None = None
        self._diagnosed: float | None = None

    def write(self, metrics: Mapping[str, float], *, env_steps: int) -> None:
        """Record one value for each name at `env_steps`; values that are not finite are left out."""
        diagnosis = {name: value for name, value in metrics.items() if name.startswith(DIAGNOSTICS)}
        # The learner repeats its latest diagnosis in every report.
        if diagnosis and diagnosis["diagnostics/update"] != self._diagnosed:
            self._diagnosed = diagnosis["diagnostics/update"]
            self._record(diagnosis, int(diagnosis["diagnostics/env_steps"]))
            self._draw(int(self._diagnosed), int(diagnosis["diagnostics/env_steps"]))
        others = {name: value for name, value in metrics.items() if name not in diagnosis}
        self._record(others, env_steps)

    def _record(self, metrics: Mapping[str, float], env_steps: int) -> None:
        now = time.time()
        # JSON has no NaN and no infinity.
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._lines.write(json.dumps({"time": round(now, 3), "env_steps": env_steps, **finite}) + "\n")

        def add(events: Events) -> None:
            for name, value in finite.items():
                events.add_scalar(name, value, env_steps, wall_time=now)

        self._with_events(add)

    def _draw(self, update: int, env_steps: int) -> None:
        """Draw the empirical NTK of a diagnosis, if its file exists, as a picture for TensorBoard."""
        kernel = read_arrays(self._folder, update).get("entk")
        if kernel is not None:
            image, now = correlation_image(kernel), time.time()
            self._with_events(lambda e: e.add_image("diagnostics/entk", image, env_steps, wall_time=now))

    def _with_events(self, add: Callable[[Events], object]) -> None:
        """Add to TensorBoard's file; after a failed write the file is torn and is replaced by a new one."""
        try:
            self._events = self._events or self._new_events()
            add(self._events)
            # TensorBoard writes in a thread: only a flush waits for it and raises its error.
            self._events.flush()
        except OSError as error:
            logger.warning("TensorBoard events cannot be written: %s", error.strerror)
            self._events = None

    def _new_events(self) -> Events:
        """Open new events, or raise OSError: a folder that is gone or renamed is not recreated for them."""
        self._folder.stat()
        events = Events(self._folder / "tensorboard")
        if self._settings:
            events.add_settings(self._settings, COMPARED, wall_time=time.time())
        return events

    def close(self) -> None:
        """Flush and close both files."""
        self._lines.close()
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()


class UnfailingFile:
    """A file to append to; text that a full disk refuses waits and is written, in order, once possible."""

    def __init__(self, path: Path, note: Callable[[str], object]) -> None:
        self._path, self._note = path, note
        self._descriptor: int | None = None
        self._unwritten = bytearray()
        self._refused = False
        # End a line that a crash has cut off: text appended to it would be lost with it.
        self.write("\n" if _ends_in_a_torn_line(path) else "")

    def write(self, text: str) -> None:
        """Append as soon as possible; when too much waits, the text that has waited longest is dropped."""
        self._unwritten += text.encode()
        try:
            self._append()
        except OSError as error:
            if not self._refused:
                self._note(f"{self._path.name} cannot be written: {error.strerror}; it is tried again")
            self._refused = True
        else:
            if self._refused:
                self._note(f"{self._path.name} can be written again")
            self._refused = False
        if len(self._unwritten) > MOST_UNWRITTEN_BYTES:
            # Drop the older half, in whole lines.
            del self._unwritten[: self._unwritten.index(b"\n", MOST_UNWRITTEN_BYTES // 2) + 1]

    def close(self) -> None:
        """Try waiting text once more, and close the file."""
        with contextlib.suppress(OSError):
            self._append()
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _append(self) -> None:
        if self._descriptor is None:
            # Opened here, not in `__init__`, so that a failure is tried again like a refused write.
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        while self._unwritten:
            # On a disk that is getting full, os.write may write only a part.
            del self._unwritten[: os.write(self._descriptor, self._unwritten)]


def _ends_in_a_torn_line(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # There is no file yet, or it is empty.
        return False


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a metrics.jsonl; a last line cut off by a crash is skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record

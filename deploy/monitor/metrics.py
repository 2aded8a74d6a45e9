"""Where a run's numbers go: metrics.jsonl and TensorBoard events, under the same names."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.monitor.events import Events, correlation_image
from learner.diagnosis_files import read_arrays

DIAGNOSTICS = "diagnostics/"


class MetricsSink:
    """Appends metrics to `metrics.jsonl` and to TensorBoard events in `tensorboard/`, both below `folder`.

    One writer a run: the supervisor. A resumed run goes on in the same files. Metrics of diagnoses are not
    repeated with the others: each diagnosis is one record of its own, at its own env steps, and an image.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._folder = folder
        self._events = Events(folder / "tensorboard")
        self._diagnosed: float | None = None

    def write(self, metrics: Mapping[str, float], *, env_steps: int) -> None:
        """Record one value for each name at `env_steps`; values that are not finite are left out."""
        diagnosis = {name: value for name, value in metrics.items() if name.startswith(DIAGNOSTICS)}
        if diagnosis and diagnosis["diagnostics/update"] != self._diagnosed:
            self._diagnosed = diagnosis["diagnostics/update"]
            self._record(diagnosis, int(diagnosis["diagnostics/env_steps"]))
            self._draw(int(self._diagnosed), int(diagnosis["diagnostics/env_steps"]))
        others = {name: value for name, value in metrics.items() if name not in diagnosis}
        self._record(others, env_steps)

    def _record(self, metrics: Mapping[str, float], env_steps: int) -> None:
        now = time.time()
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._lines.write(json.dumps({"time": round(now, 3), "env_steps": env_steps, **finite}) + "\n")
        self._lines.flush()
        for name, value in finite.items():
            self._events.add_scalar(name, value, env_steps, wall_time=now)
        self._events.flush()

    def _draw(self, update: int, env_steps: int) -> None:
        """The empirical NTK of a diagnosis, if its file is there, as a picture for TensorBoard."""
        kernel = read_arrays(self._folder, update).get("entk")
        if kernel is not None:
            image = correlation_image(kernel)
            self._events.add_image("diagnostics/entk", image, env_steps, wall_time=time.time())
            self._events.flush()

    def close(self) -> None:
        """Flush and close both files."""
        self._lines.close()
        self._events.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut off by a crash is passed over."""
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

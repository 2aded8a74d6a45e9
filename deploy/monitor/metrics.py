"""Where a run's numbers go: metrics.jsonl and TensorBoard events, under the same names."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboard.summary import Writer


class MetricsSink:
    """Appends metrics to `metrics.jsonl` and to TensorBoard events in `tensorboard/`, both below `folder`.

    One writer a run: the supervisor. A resumed run goes on in the same files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._events = Writer(str(folder / "tensorboard"))

    def write(self, metrics: Mapping[str, float], *, env_steps: int) -> None:
        """Record one value for each name at `env_steps`; values that are not finite are left out."""
        now = time.time()
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._lines.write(json.dumps({"time": round(now, 3), "env_steps": env_steps, **finite}) + "\n")
        self._lines.flush()
        for name, value in finite.items():
            self._events.add_scalar(name, value, env_steps, wall_time=now)
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

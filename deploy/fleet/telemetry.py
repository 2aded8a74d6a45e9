"""What the supervisor tells about a run: metrics under their agreed names, status.json, and notes."""

import logging
import os
import statistics
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from deploy.checks import hide_password
from deploy.config import Config
from deploy.monitor.metrics import MetricsSink
from deploy.run_folder import FINAL_STATES, RunFolder

logger = logging.getLogger(__name__)

EPISODES = 100
NOTES = 20
SINK_SECONDS = 5.0


class Telemetry:
    """Collects the run's numbers and writes them; one per supervisor, goes on from the status before."""

    def __init__(self, config: Config, folder: RunFolder, ray_address: str) -> None:
        self._config, self._folder, self._ray_address = config, folder, ray_address
        before = folder.read_json("status.json", None) or {}
        self.before: dict[str, float] = before.get("metrics", {})
        """The metrics of the status before: of another command, or of a supervisor that died."""
        # What is shown until the learner has restored: the checkpoint's counts, and what adds up.
        kept = {name: x for name, x in self.before.items() if name.startswith(("progress/", "episode/"))}
        self._known = kept | folder.counts_of_newest_checkpoint()
        if "progress/env_steps" in self._known:
            self._known |= self._num_frames(self._known)
        self._seconds_before = self.before.get("progress/seconds", 0.0)
        self._started = time.monotonic()
        self._count = int(self.before.get("episode/count", 0))
        self._episodes = deque(map(tuple, before.get("episodes", [])), maxlen=EPISODES)
        self._notes: deque[str] = deque(maxlen=NOTES)
        self._sink = MetricsSink(folder.path, self.note)
        self._refused = False
        self._sink_due = time.monotonic()
        self._metrics: dict[str, float] = {}

    def note(self, text: str) -> None:
        """Tell people about an event: in the log and among the status's notes."""
        logger.info(text)
        self._notes.append(f"{time.strftime('%H:%M:%S')} {hide_password(text)}")

    def add_episodes(self, episodes: Iterable[tuple[float, int]]) -> None:
        """Episodes that ended: raw return and length in env steps."""
        for episode in episodes:
            self._episodes.append(episode)
            self._count += 1

    def update(
        self,
        learner: Mapping[str, float],
        actors: Iterable[Mapping[str, float]],
        *,
        target: int,
        alive: int,
        restarts: int,
    ) -> None:
        """Merge what the roles report into the run's metrics, and write them every few seconds."""
        actors = list(actors)
        own = {
            "progress/seconds": self._seconds_before + time.monotonic() - self._started,
            "speed/actor_steps_per_s": sum(steps_per_s(metrics) for metrics in actors),
            "actors/alive": float(alive),
            "actors/target": float(target),
            "actors/restarts": float(restarts),
        }
        if actors:
            lags = [weights_lag(learner, metrics) for metrics in actors]
            if known := [lag for lag in lags if lag is not None]:
                own["actors/weights_lag"] = statistics.fmean(known)
            own["actors/waiting_share"] = statistics.fmean(waiting_share(metrics) for metrics in actors)
        if "progress/env_steps" in learner:
            own |= self._num_frames(learner)
        if self._episodes:
            own["episode/return_mean_100"] = statistics.fmean(episode[0] for episode in self._episodes)
            own["episode/length_mean_100"] = statistics.fmean(episode[1] for episode in self._episodes)
        if self._count:
            own["episode/count"] = float(self._count)
        self._metrics.update({**learner, **own})
        if learner and time.monotonic() >= self._sink_due:
            self.write()

    def write(self, more: Mapping[str, float] | None = None) -> None:
        """Append the metrics, or only `more`, to metrics.jsonl and TensorBoard.

        Nothing is written before the learner has said where the run is.
        """
        if more is not None:
            self._metrics.update(more)
        if "progress/env_steps" not in self._metrics:
            return
        env_steps = int(self._metrics["progress/env_steps"])
        self._sink.write(self._metrics if more is None else more, env_steps=env_steps)
        if more is None:
            self._sink_due = time.monotonic() + SINK_SECONDS

    def publish(
        self, state: str, message: str, target: int, actors: list[dict[str, Any]], learner: dict[str, Any]
    ) -> dict[str, Any]:
        """Write status.json and give the same."""
        # A run that ended before its learner had restored is where it was.
        known = self.before | self._known if state in FINAL_STATES else self._known
        status = {
            "run": self._folder.name,
            "state": state,
            "message": hide_password(message),
            "time": time.time(),
            "pid": os.getpid(),
            "ray_address": self._ray_address,
            "target_actors": target,
            "actors": actors,
            "learner": learner,
            "metrics": known | self._metrics,
            "total_env_steps": self._config.run.total_env_steps,
            "notes": list(self._notes),
            "episodes": list(self._episodes),
        }
        self._write_status(self._folder.marked(status))
        return status

    def _write_status(self, status: dict[str, Any]) -> None:
        """status.json is written every second: one that a full disk refuses is no reason to end a run."""
        try:
            self._folder.write_json("status.json", status)
        except OSError as error:
            if not self._refused:
                self.note(f"status.json cannot be written: {error.strerror}; it is tried again")
            self._refused = True
        else:
            self._refused = False

    def _num_frames(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {"progress/num_frames": metrics["progress/env_steps"] * self._config.environment.frame_skip}

    def close(self) -> None:
        """Flush and close the files."""
        self._sink.close()


def steps_per_s(metrics: Mapping[str, float]) -> float:
    """Env steps a second of one actor, from what it reports."""
    return metrics.get("speed/actor_steps_per_s", 0.0)


def weights_lag(learner: Mapping[str, float], actor: Mapping[str, float]) -> float | None:
    """Versions that an actor's weights are behind the learner's; None before both have any."""
    newest, own = learner.get("learner/weights_version", -1.0), actor.get("actors/weights_version", -1.0)
    return max(0.0, newest - own) if min(newest, own) >= 0 else None


def waiting_share(metrics: Mapping[str, float]) -> float:
    """Share of its time that an actor waited, from what it reports."""
    return metrics.get("actors/waiting_share", 0.0)

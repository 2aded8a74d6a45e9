"""The supervisor's reports on a run: metrics under their agreed names, status.json, and notes."""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from actors.episodes import Episode
from deploy.fleet.reporting.actor_metrics import TOTALS, FleetReport, Growing, fleet_metrics
from deploy.fleet.reporting.checkpoint_age import CheckpointAge
from deploy.fleet.reporting.ends import end_reached
from deploy.fleet.reporting.episode_log import EpisodeLog
from deploy.fleet.reporting.recent_episodes import RecentEpisodes
from deploy.monitor.metrics import MetricsSink
from deploy.run.config import Config, hide_password, leaves
from deploy.run.folder import STATUS, RunFolder
from deploy.run.states import FINAL_STATES

logger = logging.getLogger(__name__)

HERE_ALONE = (
    *("run.name", "run.runs_dir", "run.ray_address", "run.detach", "run.checkpoints_to"),
    *("replay.urls", "replay.urls_file", "replay.folder"),
)
"""Settings that say where a run is, not what it does; URLs can hold passwords."""

NOTES = 20
SINK_SECONDS = 5.0
RETRY_SECONDS = 0.5
OF_ONE_LEARNER = ("replay/frame_store_misses",)
"""Counters that no checkpoint holds: a learner that starts begins them at 0."""


def settings(config: Config) -> dict[str, bool | float | str]:
    """Return what distinguishes a run from others: every setting but those of its place."""
    return {path: value for path, value in leaves(config).items() if path not in HERE_ALONE}


class Telemetry:
    """Collects the run's numbers and writes them; one per supervisor, continuing from the last status."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        ray_address: str,
        export: Callable[[Mapping[str, float]], object] = lambda metrics: None,
    ) -> None:
        """`export` is called with the run's metrics at every status."""
        self._config, self._folder, self._ray_address, self._export = config, folder, ray_address, export
        before = folder.read_json(STATUS, None) or {}
        self.before: dict[str, float] = before.get("metrics", {})
        """The metrics of the last status, of another command or of a supervisor that died."""
        # Shown until the learner has restored: the checkpoint's counts, and what accumulates.
        kept = {name: x for name, x in self.before.items() if name.startswith(("progress/", "episode/"))}
        kept |= {name: x for name, x in self.before.items() if name in TOTALS}
        self._growing = {name: Growing(self.before.get(name, 0.0)) for name in OF_ONE_LEARNER}
        self._known = kept | folder.counts_of_newest_checkpoint()
        if "progress/env_steps" in self._known:
            self._known |= self._num_frames(self._known)
        self._seconds_before = self.before.get("progress/seconds", 0.0)
        self._started = time.monotonic()
        # Counted by the supervisor alone: a learner's checkpoint does not know it.
        self._count = int(self.before.get("episode/count", 0))
        self._episodes = RecentEpisodes(before.get("episodes", []))
        self._notes: deque[str] = deque(maxlen=NOTES)
        self._sink = MetricsSink(folder.path, self.note, settings(config))
        self._episode_log = EpisodeLog(folder, self.note)
        self._checkpoint_age = CheckpointAge(folder)
        self._refused = False
        self._sink_due = time.monotonic()
        self._metrics: dict[str, float] = {}

    def note(self, text: str) -> None:
        """Report an event, in the log and among the status's notes."""
        logger.info(text)
        self._notes.append(f"{time.strftime('%H:%M:%S')} {hide_password(text)}")

    def add_episodes(self, episodes: Iterable[Episode]) -> None:
        """Add episodes that have ended."""
        for episode in episodes:
            self._episodes.add(episode)
            self._episode_log.add(episode)
            self._count += 1

    def update(self, learner: Mapping[str, float], fleet: FleetReport) -> None:
        """Merge the roles' reports into the run's metrics, and write them every few seconds."""
        own = {
            "progress/seconds": self._seconds,
            # Its metrics last longer than a learner does.
            "learner/ready": float(bool(learner)),
            "learner/checkpoint_age_s": self._checkpoint_age.seconds(),
            **fleet_metrics(fleet, self.before),
            **self._episodes.metrics(),
            **{name: self._growing[name].add(learner[name]) for name in OF_ONE_LEARNER if name in learner},
        }
        if "progress/env_steps" in learner:
            own |= self._num_frames(learner)
        if self._count:
            own["episode/count"] = float(self._count)
        self._metrics.update({**learner, **own})
        self._episode_log.update(learner)
        if learner and time.monotonic() >= self._sink_due:
            self.write()

    @property
    def _seconds(self) -> float:
        """Time of all legs."""
        return self._seconds_before + time.monotonic() - self._started

    def end_reached(self) -> str:
        """Return which end of the run is reached before its last env step; empty for none."""
        return end_reached(self._config, self._seconds, self._episodes.greedy_return())

    def write(self, more: Mapping[str, float] | None = None) -> None:
        """Append the metrics, or only `more`, to metrics.jsonl and TensorBoard.

        Nothing is written before the learner has reported where the run is.
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
        """Write status.json and return its content."""
        # A run that ended before its learner had restored is still where it was.
        known = self.before | self._known if state in FINAL_STATES else self._known
        status = {
            "run": self._folder.name,
            "game": self._config.game_name,
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
            "episodes": self._episodes.rows(),
        }
        self._write_status(self._folder.marked(status))
        self._export(known | self._metrics)
        return status

    def insist(self, publish: Callable[[], object], seconds: Callable[[], float]) -> None:
        """Call `publish` until status.json is written, for at most `seconds()`, which may change."""
        began = time.monotonic()
        publish()
        while self._refused and time.monotonic() - began < seconds():
            time.sleep(RETRY_SECONDS)
            publish()

    def _write_status(self, status: dict[str, Any]) -> None:
        """Write status.json, as happens every second: one that a full disk refuses must not end a run."""
        try:
            self._folder.write_json(STATUS, status)
        except OSError as error:
            if not self._refused:
                self.note(f"status.json cannot be written: {error.strerror}; it is tried again")
            self._refused = True
        else:
            self._refused = False

    def _num_frames(self, metrics: Mapping[str, float]) -> dict[str, float]:
        frames = metrics["progress/env_steps"] * self._config.environment.frames_per_env_step
        return {"progress/num_frames": frames}

    def close(self) -> None:
        """Flush and close the files."""
        self._episode_log.close(self._known.get("progress/env_steps", 0.0))
        self._sink.close()

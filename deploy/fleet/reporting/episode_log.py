"""Writes `episodes.jsonl`, one line per episode of the run, and `legs.json`, where each start began."""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from actors.episodes import Episode
from deploy.monitor.metrics import UnfailingFile
from deploy.run.folder import LEGS, RunFolder

NOW, RESTORED = "progress/env_steps", "progress/restored_env_steps"


class EpisodeLog:
    """Log of a supervisor's episodes; its start is a leg of the run: 0 for `train`, one more a `resume`.

    A leg begins when its learner first reports where it is. Until then episodes wait: an episode is recorded
    at the env steps that the learner has counted when it is written, a second or two after its last step.
    Episodes that a full disk refuses wait as well, and nothing here raises for lack of room.
    """

    def __init__(self, folder: RunFolder, note: Callable[[str], object]) -> None:
        self._folder = folder
        self._legs: list[dict[str, Any]] = folder.read_json(LEGS, [])
        self._leg = len(self._legs)
        self._file = UnfailingFile(folder.episodes_path, note)
        self._waiting: list[Episode] = []
        self._env_steps: int | None = None
        self._noted = False

    def add(self, episode: Episode) -> None:
        """Add an episode that has ended; the next `update` writes it."""
        self._waiting.append(episode)

    def update(self, learner: Mapping[str, float]) -> None:
        """Write ended episodes at the learner's env steps; its first report begins the leg."""
        if NOW in learner:
            if self._env_steps is None:
                self._legs.append({"env_steps": int(learner.get(RESTORED, 0)), "time": round(time.time(), 3)})
            # A learner restarted after its death begins at its checkpoint and catches up with the fleet.
            self._env_steps = max(self._env_steps or 0, int(learner[NOW]))
        if self._env_steps is not None:
            self._note_leg()
            self._write(self._env_steps)

    def close(self, env_steps: float) -> None:
        """Write what still waits, at `env_steps` if the learner never reported any, and close the file."""
        self._write(int(env_steps) if self._env_steps is None else self._env_steps)
        self._file.close()

    def _note_leg(self) -> None:
        if not self._noted:
            with contextlib.suppress(OSError):  # A full disk: tried again with the next episodes.
                self._folder.write_json(LEGS, self._legs)
                self._noted = True

    def _write(self, env_steps: int) -> None:
        ended, self._waiting = self._waiting, []
        self._file.write("".join(self._lines(ended, env_steps)))

    def _lines(self, episodes: Iterable[Episode], env_steps: int) -> Iterable[str]:
        for episode in episodes:
            record = {
                "env_steps": env_steps,
                "return": episode.return_,
                "length": episode.length,
                "actor_slot": episode.actor_slot,
                "env_slot": episode.env_slot,
                "epsilon": episode.epsilon,
                "leg": self._leg,
            }
            yield json.dumps(record) + "\n"

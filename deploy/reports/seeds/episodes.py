"""A run's episodes as `episodes.jsonl` has them, and which of them count."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from apexpert.errors import ApexpertError
from deploy.monitor.metrics import read_metrics
from deploy.run.config import Config
from deploy.run.folder import LEGS, RunFolder
from deploy.run.states import FINAL_STATES

FLEET = "fleet.json"
"""Where the fleet notes how many incarnations each actor slot has had."""


class NoEpisodes(ApexpertError):
    """A run has no record of its episodes; the message is one line."""


class EpisodeRecord(NamedTuple):
    """One line of `episodes.jsonl`."""

    env_steps: int
    """Of the fleet, at its end."""
    return_: float
    length: int
    leg: int
    """Which start of the run it was played in, 0 the first."""


class CutEpisodes(NamedTuple):
    """Episodes that began and did not end, or not on record."""

    by_resume: int
    """Open when their actor ended, and the run went on: a resume, or an actor that was replaced or let go."""
    by_end: int
    """Open when the run ended, or open now."""


@dataclass(frozen=True)
class RunEpisodes:
    """What a run has played."""

    kept: list[EpisodeRecord]
    dropped: int
    """Episodes beyond the checkpoint that a later leg went back to: played by a network that is gone."""
    cut: CutEpisodes
    first_env_steps: int
    """Where the record begins; more than 0 in a run that an older version began."""
    env_steps: int
    """How far the run is."""
    ended: bool
    """Whether the run is in a final state."""


def read_run_episodes(folder: RunFolder, config: Config) -> RunEpisodes:
    """The episodes of a run; NoEpisodes for one of an older version, or before its first episode's end."""
    records = read_episodes(folder.episodes_path)
    if not records:
        why = "no episode has ended yet" if folder.episodes_path.exists() else "made by an older version"
        raise NoEpisodes(f"{folder.name} has no episodes in {folder.episodes_path}: {why}")
    starts = [int(leg["env_steps"]) for leg in folder.read_json(LEGS, [])]
    kept = keep(records, starts)
    status: dict[str, Any] = folder.read_json("status.json", None) or {}
    told = int(status.get("metrics", {}).get("progress/env_steps", 0))
    return RunEpisodes(
        kept=kept,
        dropped=len(records) - len(kept),
        cut=count_cut(folder.read_json(FLEET, {}), config, legs=max(1, len(starts))),
        first_env_steps=starts[0] if starts else 0,
        env_steps=max([told, *(record.env_steps for record in kept)]),
        ended=status.get("state") in FINAL_STATES,
    )


def read_episodes(path: Path) -> list[EpisodeRecord]:
    """The whole lines of an `episodes.jsonl`, in order; lines that a crash has cut off are passed over."""
    found = []
    for line in read_metrics(path):
        try:
            found.append(
                EpisodeRecord(
                    int(line["env_steps"]), float(line["return"]), int(line["length"]), int(line["leg"])
                )
            )
        except (KeyError, TypeError, ValueError):
            continue
    return found


def keep(records: Sequence[EpisodeRecord], starts: Sequence[int]) -> list[EpisodeRecord]:
    """Leave out what ended beyond the start of a later leg; `starts` are the legs' env steps."""

    def survives(record: EpisodeRecord) -> bool:
        return all(record.env_steps <= start for start in starts[record.leg + 1 :])

    return [record for record in records if survives(record)]


def count_cut(fleet: dict[str, Any], config: Config, legs: int) -> CutEpisodes:
    """How many episodes were open when their environments were closed: one an env slot.

    An environment begins its next episode as soon as one has ended, so every incarnation of an actor that
    ever acted (`fleet` counts them) leaves one in each of its env slots. Without that record each leg is
    taken to have had the configured actors.
    """
    num_envs, target = config.actors.envs_per_actor, config.actors.num_actors
    target = int(fleet.get("target_actors", target))
    started = fleet.get("next_incarnation", {})
    incarnations = sum(started.values()) if started else legs * target
    last = sum(int(slot) < target for slot in started) if started else target
    return CutEpisodes(by_resume=(incarnations - last) * num_envs, by_end=last * num_envs)

"""A run's episodes from `episodes.jsonl`, and which of them count."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from apexpert.errors import ApexpertError
from deploy.monitor.metrics import read_metrics
from deploy.run.config import Config
from deploy.run.folder import FLEET, LEGS, STATUS, RunFolder
from deploy.run.states import FINAL_STATES

"""Where the fleet records how many incarnations each actor slot has had."""


class NoEpisodes(ApexpertError):
    """A run has no record of its episodes; the message is one line."""


class EpisodeRecord(NamedTuple):
    """One line of `episodes.jsonl`."""

    env_steps: int
    """Env steps of the fleet at the episode's end."""
    return_: float
    length: int
    leg: int
    """Which start of the run it was played in, 0 for the first."""
    epsilon: float | None = None
    """Of its last step; None where an older version has not recorded it."""


class CutEpisodes(NamedTuple):
    """Episodes that began and did not end, or whose end is not on record."""

    by_resume: int
    """Open when their actor ended while the run continued: a resume, or an actor replaced or dismissed."""
    by_end: int
    """Open when the run ended, or open now."""


@dataclass(frozen=True)
class RunEpisodes:
    """The episodes of a run."""

    kept: list[EpisodeRecord]
    dropped: int
    """Episodes beyond the checkpoint that a later leg returned to: played by a network that is gone."""
    cut: CutEpisodes
    first_env_steps: int
    """Where the record begins; more than 0 in a run that an older version began."""
    env_steps: int
    """How far the run is."""
    ended: bool
    """Whether the run is in a final state."""


def read_run_episodes(folder: RunFolder, config: Config) -> RunEpisodes:
    """Read a run's episodes; NoEpisodes for a run of an older version, or before its first episode's end."""
    records = read_episodes(folder.episodes_path)
    if not records:
        why = "no episode has ended yet" if folder.episodes_path.exists() else "made by an older version"
        raise NoEpisodes(f"{folder.name} has no episodes in {folder.episodes_path}: {why}")
    starts = [int(leg["env_steps"]) for leg in folder.read_json(LEGS, [])]
    kept = keep(records, starts)
    status: dict[str, Any] = folder.read_json(STATUS, None) or {}
    told = int(status.get("metrics", {}).get("progress/env_steps", 0))
    return RunEpisodes(
        kept=kept,
        dropped=len(records) - len(kept),
        cut=count_cut(folder.read_json(FLEET, {}), config, legs=max(1, len(starts))),
        first_env_steps=starts[0] if starts else 0,
        # status.json may be missing, or older than the newest episode.
        env_steps=max([told, *(record.env_steps for record in kept)]),
        ended=status.get("state") in FINAL_STATES,
    )


def read_episodes(path: Path) -> list[EpisodeRecord]:
    """Return the whole lines of an `episodes.jsonl`, in order; lines that a crash has cut off are skipped."""
    found = []
    for line in read_metrics(path):
        try:
            found.append(
                EpisodeRecord(
                    int(line["env_steps"]),
                    float(line["return"]),
                    int(line["length"]),
                    int(line["leg"]),
                    line.get("epsilon"),
                )
            )
        except (KeyError, TypeError, ValueError):
            continue
    return found


def keep(records: Sequence[EpisodeRecord], starts: Sequence[int]) -> list[EpisodeRecord]:
    """Drop episodes that ended beyond the start of a later leg; `starts` are the legs' env steps."""

    def survives(record: EpisodeRecord) -> bool:
        # All later legs, not only the next: any of them may have gone back further.
        return all(record.env_steps <= start for start in starts[record.leg + 1 :])

    return [record for record in records if survives(record)]


def count_cut(fleet: dict[str, Any], config: Config, legs: int) -> CutEpisodes:
    """Count the episodes that were open when their environments were closed: one per env slot.

    An environment begins its next episode as soon as one has ended, so every incarnation of an actor that
    ever acted (`fleet` counts them) leaves one in each of its env slots. Without that record each leg is
    assumed to have had the configured actors.
    """
    num_envs, target = config.actors.envs_per_actor, config.actors.range.least
    target = int(fleet.get("target_actors", target))
    started = fleet.get("next_incarnation", {})
    incarnations = sum(started.values()) if started else legs * target
    last = sum(int(slot) < target for slot in started) if started else target
    return CutEpisodes(by_resume=(incarnations - last) * num_envs, by_end=last * num_envs)

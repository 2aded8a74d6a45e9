"""`apexpert train --resume-if-there`: create the run of a name, or resume it; for what is retried."""

import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.cli.errors import UsageError
from deploy.cli.parsing import expand_short, flag_value
from deploy.cli.run.config_file import ConfigFile
from deploy.cli.run.idle_flags import given_fields
from deploy.cli.run.summary import show
from deploy.run.config import Config, ConfigError, flag_of, hide_password, leaves, paths_in
from deploy.run.folder import CONFIG, RunFolder, remove_half_made
from deploy.run.locks import being_made
from deploy.run.status import read_status

RESUMED = {
    "run.total_env_steps": "total_env_steps",
    "run.max_hours": "max_hours",
    "run.until_return": "until_return",
    "actors.num_actors": "num_actors",
}
"""Fields that `resume` may change, and its names for them."""
OF_THE_COMMAND = ("run.name", "run.runs_dir", "run.ray_address", "run.detach", "replay.urls_file")
"""Fields that say where and how the command runs, not what is trained."""
ABANDONED_SECONDS, STOPPING_SECONDS = 15.0, 180.0
"""After 10 s without its command a run stops by itself; it may drain for 10 s and save for 120 s."""
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class AgainOptions:
    """Start a run, or resume it."""

    resume_if_there: bool = False
    """Create the run of --name, or resume it if it is there: for commands that are retried. The same flags
    are fine again, those that `apexpert resume` has may differ, any other is refused."""


def there(config: Config) -> RunFolder | None:
    """Return the folder of the run of that name, or None; remove what a killed command left of one.

    Raises UsageError without a name, RunBusy while another command makes the folder.
    """
    if not config.run.name:
        raise UsageError("--resume-if-there: needs --name NAME, by which a retry finds the run")
    folder = RunFolder(Path(config.run.runs_dir) / config.run.name)
    if not folder.path.exists():
        return None
    with being_made(folder.path):
        if (folder.path / CONFIG).is_file():
            return folder
        remove_half_made(folder.path)
        return None


def given_in(argv: Sequence[str]) -> frozenset[str]:
    """Return the fields that the command line sets, by a flag or by the file of --config."""
    path = flag_value(expand_short(argv), "--config")
    return given_fields(argv) | (paths_in(ConfigFile.read(Path(path)).sections) if path else frozenset())


def changes(folder: RunFolder, asked: Config, given: Container[str]) -> dict[str, Any]:
    """Return what to resume the run with, by `resume`'s names; nothing for the flags it was made with.

    A field that is not `given` keeps the run's value if `resume` may change it. Raises ConfigError that names
    every other field that differs: it would be another run.
    """
    saved, wanted = leaves(folder.load_config()), leaves(asked)
    differ = [path for path in wanted if wanted[path] != saved[path] and path not in OF_THE_COMMAND]
    others = [path for path in differ if path not in RESUMED and not _grown(path, wanted, saved, given)]
    if others:
        named = (f"{flag_of(p)} {show(p, wanted[p])} (it has {show(p, saved[p])})" for p in others)
        raise ConfigError(
            f"--resume-if-there: run {folder.name} is there with other settings: {', '.join(named)}; give its"
            f" own, or another --name; {folder.command('resume')} resumes it as it is"
        )
    found = {RESUMED[path]: wanted[path] for path in differ if path in RESUMED and path in given}
    if "replay.urls" in given and "replay.urls" in differ:
        # The shards that were added while it learned come after those that it was made with.
        found["urls"] = wanted["replay.urls"] + saved["replay.urls"][len(wanted["replay.urls"]) :]
    return found


def told(folder: RunFolder, changed: Mapping[str, Any]) -> str:
    """Return the line that says what is resumed, and with which changes; no passwords."""
    flags = {name: flag_of(path) for path, name in RESUMED.items()} | {"urls": "--replay.urls"}
    words = [
        f"{flags[name]} {' '.join(value) if isinstance(value, tuple) else value}"
        for name, value in changed.items()
    ]
    line = f"{folder.name} is there: resuming it"
    return hide_password(f"{line} with {' '.join(words)}" if words else line)


def _grown(path: str, wanted: Mapping[str, Any], saved: Mapping[str, Any], given: Container[str]) -> bool:
    """Whether the field differs because shards were added while the run learned, or have new passwords."""
    if path == "replay.shards":
        return bool(saved[path] > wanted[path])
    if path != "replay.urls":
        return False
    # $APEXPERT_REDIS_URLS, or its absence, is no setting of the run: `resume` decides what it means.
    names = [[hide_password(url) for url in urls[path]] for urls in (wanted, saved)]
    return path not in given or (bool(names[0]) and names[0] == names[1][: len(names[0])])


def is_finished(folder: RunFolder, changed: Mapping[str, Any]) -> bool:
    """Whether the run has reached its end, which none of the changes puts off."""
    status, total = read_status(folder), folder.load_config().run.total_env_steps
    early = bool(status.get("message")) and status["metrics"].get("progress/env_steps", 0) < total
    longer = changed.get("total_env_steps", 0) > total
    other_end = early and not changed.keys().isdisjoint({"max_hours", "until_return"})
    return status["state"] == "finished" and not longer and not other_end


def wait_until_left(folder: RunFolder) -> None:
    """Wait for the end of a run that is stopping, or whose command is gone, which it notices within seconds.

    Returns for a run that stays at work, too: resuming it is refused in one line.
    """
    began, said = time.monotonic(), False
    detached = folder.load_config().run.detach
    while folder.is_at_work():
        stopping = read_status(folder)["state"] == "stopping"
        # Nobody's heartbeat keeps a detached run at work.
        patience = STOPPING_SECONDS if stopping else 0.0 if detached else ABANDONED_SECONDS
        if time.monotonic() - began > patience:
            return
        if not said:
            print(f"{folder.name}: at work; waiting in case it is about to stop", flush=True)
        said = True
        time.sleep(LOOK_SECONDS)

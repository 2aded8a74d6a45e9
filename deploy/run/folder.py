"""A run's folder: configuration, metadata, status, metrics, log, checkpoints, videos and replay.

All JSON in it is written atomically (apexpert/durable.py), so that a crash leaves the old document or the new
one, never half of one.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from apexpert import durable
from apexpert.errors import one_line
from deploy.run.checks import near_matches, without_passwords
from deploy.run.config import Config, ConfigError, from_json, to_json, with_values
from deploy.run.errors import RunError, RunExists, RunNotFound
from deploy.run.identity import FILE, Identity, drawn_for, noted_in
from deploy.run.locks import LockedFolder, being_made, is_locked
from deploy.run.metadata import collect
from learner.checkpoint_names import DOCUMENT, newest_first
from replay.servers.hard_links import unshare

CONFIG, METADATA = "config.json", "metadata.json"
"""The configuration, and with what the run was made."""
STATUS, METRICS, EPISODES, LOG = "status.json", "metrics.jsonl", "episodes.jsonl", "log.txt"
"""Records of the run: its last status, a line for each report and each episode, and its log."""
FLEET = "fleet.json"
"""How many actors were asked for, and the incarnation that each actor slot has next."""
RAY = "ray.json"
"""The Ray that the run is on, and `path`: where the folder was when it was put there."""
LEGS = "legs.json"
"""A record for each start of the run, in order: `env_steps` of the checkpoint that it went on from."""


class RunFolder(LockedFolder):
    """Paths and small state files of one run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if not _is_utf8(self.path):
            # Neither Ray nor the files of a run can name such a folder.
            raise RunError(f"{self.path}: not a path in UTF-8; choose another folder (--runs-dir)")
        self.config_path = self.path / CONFIG
        self.urls_path = self.path / "redis-urls"
        self.metadata_path = self.path / METADATA
        self.status_path = self.path / STATUS
        self.metrics_path = self.path / METRICS
        self.episodes_path = self.path / EPISODES
        self.log_path = self.path / LOG
        self.videos = self.path / "videos"
        self.networks = self.path / "networks"
        self.first_weights = self.path / "first-weights.safetensors"
        self.replay = self.path / "replay"
        self.tensorboard = self.path / "tensorboard"
        self._made_above: list[Path] = []

    @property
    def identity(self) -> Identity | None:
        """Identity that tells this folder from its copies; None for a copy, or for a folder of before."""
        noted = noted_in(self.path)
        return noted if noted is not None and noted.fits(self.path) else None

    def settle(self, identity: Identity) -> None:
        """Note the folder's identity: a copy becomes a folder of its own."""
        if identity != self.identity:
            self.write_json(FILE, identity.document)

    def drawn_identity(self) -> Identity:
        """Its identity, or a new one for a folder that has none."""
        return self.identity or drawn_for(self.path)

    def marked(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record of something that lives, such as a process, which counts in this folder only."""
        identity = self.identity
        return record | {"folder": None if identity is None else identity.document}

    def is_own(self, record: dict[str, Any]) -> bool:
        """Whether a record was `marked` in this folder, and did not come with a copy."""
        identity = self.identity
        return identity is not None and record.get("folder") == identity.document

    @classmethod
    def create(cls, config: Config) -> Self:
        """Make the folder of a new run, with its config and metadata; an empty `run.name` is made up.

        Raises RunExists when the name is taken, RunError when the folder cannot be made, OSError when it
        cannot be written; then none is left.
        """
        runs_dir = cls(Path(config.run.runs_dir)).path
        made_above = [above for above in (runs_dir, *runs_dir.parents) if not above.exists()]
        with contextlib.ExitStack() as undo:
            with _making(runs_dir, config):
                folder = cls(_make_folder(config))
                folder._made_above = made_above
                # Neither a new run nor `resume` could use what is half made.
                undo.callback(folder.unmake)
                folder._fill(with_values(config, run__name=folder.name))
            undo.pop_all()
        return folder

    def unmake(self) -> None:
        """Remove the folder of a new run that is refused, and the folders that `create` made for it."""
        shutil.rmtree(self.path, ignore_errors=True)
        for above in self._made_above:
            with contextlib.suppress(OSError):  # Another run is in it by now.
                above.rmdir()

    def _fill(self, config: Config) -> None:
        self.settle(drawn_for(self.path))
        for part in (self.checkpoints, self.videos, self.replay, self.tensorboard):
            part.mkdir()
        self.write_json(METADATA, collect())
        # The configuration last: only a folder that has one counts as a run.
        self.save_config(config)

    @classmethod
    def open(cls, name_or_path: str, runs_dir: str | Path = "runs") -> Self:
        """The folder of an existing run, given by name under `runs_dir` or by path; else RunNotFound."""
        for path in (Path(runs_dir) / name_or_path, Path(name_or_path)):
            if name_or_path and (path / CONFIG).is_file():
                return cls(path)
        names = [folder.name for folder in list_runs(runs_dir)]
        known = f"; runs there: {', '.join(names[-5:])}" if names else "; there are no runs there"
        hint = near_matches(name_or_path, names) or known
        raise RunNotFound(
            f"no run {name_or_path!r} under {runs_dir} (--runs-dir) and no run folder of that path{hint}"
        )

    def load_config(self) -> Config:
        """The saved configuration; RunError when the file is broken or does not fit this version."""
        try:
            config = from_json(json.loads(self.config_path.read_text(encoding="utf-8")))
            if config.replay.urls_file:
                # Only this machine's: whoever needs the servers reads it again, and says what is wrong.
                with contextlib.suppress(OSError, ValueError):
                    urls = tuple(Path(config.replay.urls_file).read_text(encoding="utf-8").split())
                    config = with_values(config, replay__urls=urls or config.replay.urls)
            if not self.urls_path.exists():
                return config
            return with_values(config, replay__urls=tuple(self.urls_path.read_text(encoding="utf-8").split()))
        except ConfigError as error:
            raise RunError(f"{self.config_path}: {error}", path=self.config_path) from None
        except (OSError, ValueError) as error:
            why = f"{self.config_path}: cannot be read: {one_line(error)}"
            raise RunError(why, path=self.config_path) from None

    def save_config(self, config: Config) -> None:
        """Write config.json atomically; URLs with passwords stand in a file that only its owner may read."""
        shown = without_passwords(config)
        if shown != config and not config.replay.urls_file:
            # First: config.json alone has *** in place of the passwords.
            durable.replace(self.urls_path, "\n".join((*config.replay.urls, "")).encode(), 0o600)
        self.write_json(CONFIG, to_json(shown), mode=0o600)
        if shown == config or config.replay.urls_file:
            # Last: until here config.json may be the one that has ***.
            self.urls_path.unlink(missing_ok=True)

    def read_json(self, name: str, default: Any) -> Any:
        """The document of that file name, or `default` when there is none; RunError when it is not JSON."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return default
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read: {one_line(error)}", path=path) from None

    def write_json(self, name: str, document: Any, *, mode: int = 0o644) -> None:
        """Replace that file's document atomically; it is on disk when this returns."""
        durable.replace(self.path / name, json.dumps(document, indent=1, allow_nan=False).encode(), mode)

    def unshare(self) -> None:
        """Give the folder files of its own to append to, where it shares them with a copy by hard links.

        Called with the lock held; the servers see to the replay's files. Raises OSError.
        """
        files = (*self.path.iterdir(), self.checkpoints / ".lock")
        # A lock in use stays: with a new file in its place, somebody else could lock that one.
        unshare(path for path in files if not is_locked(path))

    def refusal_to_write(self, folder: Path | None = None) -> str:
        """Why nothing can be written into this folder of the run (its own by default); empty if it can."""
        path = folder or self.path
        try:
            with tempfile.TemporaryFile(dir=path):
                return ""
        except OSError as error:
            return f"{path}: {error.strerror}"

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint with the most updates, by its name; its content is not looked at."""
        return next(iter(self._checkpoints()), None)

    def counts_of_newest_checkpoint(self) -> dict[str, float]:
        """Env steps and updates of the newest readable checkpoint, as metrics; nothing without one.

        To be shown only: nothing is verified.
        """
        for path in self._checkpoints():
            try:
                document = json.loads((path / DOCUMENT).read_bytes())
                counts = {"progress/env_steps": document["env_steps"], "progress/updates": document["update"]}
                return {name: float(value) for name, value in counts.items()}
            except (OSError, ValueError, KeyError, TypeError):
                continue  # Whoever resumes passes over it as well, and says why.
        return {}

    def _checkpoints(self) -> list[Path]:
        return newest_first(self.checkpoints)


def remove_half_made(path: Path) -> None:
    """Remove what a `create` that was killed has left at `path`: a folder without configuration.

    Leaves a folder alone in which there is anything that `create` does not write. Nobody else may be at it:
    see `being_made`.
    """
    made = {FILE, METADATA, "redis-urls"}
    files = [file.name for file in path.rglob("*") if not file.is_dir()]
    if path.is_dir() and all(name in made or name.startswith(durable.TEMPORARY) for name in files):
        shutil.rmtree(path)


@contextlib.contextmanager
def _making(runs_dir: Path, config: Config) -> Iterator[None]:
    """Keep others from taking the folder of a named run for half made while it is being made."""
    with contextlib.ExitStack() as stack:
        if config.run.name:
            try:
                stack.enter_context(being_made(runs_dir / config.run.name))
            except OSError as error:
                raise RunError(f"--runs-dir {config.run.runs_dir}: {error.strerror or error}") from None
        yield


def _is_utf8(path: Path) -> bool:
    return os.fsencode(path) == str(path).encode(errors="replace")


def list_runs(runs_dir: str | Path) -> list[RunFolder]:
    """The runs under `runs_dir`, oldest first; nothing when there is no such folder."""
    found = [RunFolder(path.parent) for path in Path(runs_dir).glob(f"*/{CONFIG}") if _is_utf8(path)]
    return sorted(found, key=lambda folder: (_created(folder), folder.name))


def _created(folder: RunFolder) -> float:
    """Return when the run was created, in Unix seconds; 0 if that cannot be read."""
    # Not by a file's time: `resume` and added shards write config.json again.
    try:
        return datetime.fromisoformat(folder.read_json(METADATA, {})["created"]).timestamp()
    except (RunError, KeyError, TypeError, ValueError):
        return 0.0


def _make_folder(config: Config) -> Path:
    """The new folder, of the name asked for or of one made up; whoever is first in making it has the name.

    Raises RunExists and RunError.
    """
    runs_dir = RunFolder(Path(config.run.runs_dir)).path
    for name in [config.run.name] if config.run.name else _free_names(config):
        try:
            (runs_dir / name).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"--runs-dir {config.run.runs_dir}: {error.strerror or error}") from None
        return runs_dir / name
    raise RunExists(
        f"--name {name}: {runs_dir / name} is there already; choose another name,"
        f" or resume it by: apexpert resume {name}"
    )


def _free_names(config: Config) -> Iterator[str]:
    """`preset-game-date-time`, then with a number behind it: runs may start in the same second."""
    game = "".join(c if c.isalnum() or c in "_-" else "-" for c in config.game_name)
    stem = f"{config.run.preset or 'run'}-{game}-{time.strftime('%Y%m%d-%H%M%S')}".strip("-")
    yield stem
    yield from (f"{stem}-{number}" for number in range(2, 1000))

"""Checkpoints on disk: whole or not there at all.

A checkpoint is a folder `update-000012345` of three files: `tensors.safetensors`, `document.json` and
`manifest.json` (size and SHA-256 of the other two). It is written under a temporary name, synced and renamed:
a crash leaves either no folder or a whole one; whatever happens to the bytes later is found by the manifest.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from apexpert import durable
from apexpert.durable import TEMPORARY
from learner.checkpoint_files import (
    MANIFEST,
    TENSORS,
    to_json,
    verify,
    write_files,
)
from learner.checkpoint_names import DOCUMENT, NAME, name_of, newest_first, number_of
from learner.errors import CheckpointError
from models.config import NetworkConfig, with_current_names

logger = logging.getLogger(__name__)

BEST = "best.json"
LOCK, MARKING = ".lock", ".best.lock"


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, read into memory."""

    path: Path
    update: int
    document: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    """On the CPU, with their saved dtypes."""
    written: float
    """When, in seconds since 1970, by this machine's clock."""

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """The tensors called `prefix/<name>` by that name."""
        return {name: tensor.numpy() for name, tensor in network_tensors(self.tensors, prefix).items()}

    def expect_network(
        self, network: NetworkConfig, observation_shape: tuple[int, int, int], num_actions: int
    ) -> None:
        """Raises CheckpointError when it is of another network than this one.

        A field that is younger than the checkpoint counts as its default, which is what there was before;
        how weights began is no matter of those that it has.
        """
        saved = asdict(NetworkConfig()) | with_current_names(self.document["network"])
        saved["initializer"] = network.initializer
        ours = (asdict(network), list(observation_shape), num_actions)
        theirs = (saved, *(self.document[key] for key in ("observation_shape", "num_actions")))
        if ours != theirs:
            raise CheckpointError(
                f"{self.path.name} is of another network: it has {theirs}, the run asks for {ours}"
            )


class CheckpointStore:
    """The checkpoints of one run. One process saves; any number may load and mark the best."""

    def __init__(self, folder: Path, keep: int = 3, *, note: Callable[[str], None] = logger.warning) -> None:
        """`keep` newest ones stay; `note` gets lines to log, such as of a broken checkpoint."""
        self.folder, self._note = folder, note
        self._keep = max(keep, 1)
        self._broken: set[str] = set()

    def hold(self, seconds: float = 150.0) -> IO[str]:
        """Be the one process that saves, until the file is closed; waits while another one still is.

        Raises CheckpointError when that takes longer than `seconds`.
        """
        self.folder.mkdir(exist_ok=True)
        # Opened without truncating: until the lock is held, the number in the file is its holder's.
        file = (self.folder / LOCK).open("a+")
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise CheckpointError(f"process {file.read()} still works on {self.folder}") from None
                time.sleep(0.1)
        with contextlib.suppress(OSError):  # On a full disk the lock is held all the same.
            file.truncate(0)
            os.write(file.fileno(), str(os.getpid()).encode())
        return file

    def save(
        self, update: int, tensors: Mapping[str, torch.Tensor | NDArray[Any]], document: dict[str, Any]
    ) -> Path:
        """Writes a checkpoint durably and removes those no longer kept; raises OSError when it cannot.

        So it does when the run's folder is gone, or renamed: one made anew would hold nothing but this.
        """
        self.folder.mkdir(exist_ok=True)
        target = self.folder / name_of(update)
        temporary = self.folder / f"{TEMPORARY}{target.name}.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            write_files(temporary, update, tensors, document)
            self._put_in_place(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._broken.discard(target.name)
        self._prune(target)
        return target

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, or None; broken ones are noted with a reason and skipped."""
        found, broken = None, {}
        for path in self.paths():
            try:
                found = self.load(path)
                break
            except CheckpointError as error:
                broken[path.name] = str(error)
        self._broken |= broken.keys()
        # Reported after the search, because each message names the checkpoint used instead.
        instead = f"; {found.path.name} is used, the newest that is whole" if found else ""
        for name, reason in broken.items():
            self._note(f"skipping broken checkpoint {name}: {reason}{instead}")
        return found

    def load(self, path: Path) -> Checkpoint:
        """Reads and verifies one checkpoint; raises CheckpointError with the reason when it is not whole."""
        try:
            update = verify(path)
            document = json.loads((path / DOCUMENT).read_bytes())
            written = (path / MANIFEST).stat().st_mtime
            return Checkpoint(path, update, document, load_file(path / TENSORS), written)
        except CheckpointError:
            raise
        except Exception as error:  # Whatever a reader raises over damaged bytes, the checkpoint is broken.
            raise CheckpointError(f"{type(error).__name__}: {error}") from error

    def paths(self) -> list[Path]:
        """Folders of all checkpoints, verified or not, newest first."""
        return newest_first(self.folder)

    @contextlib.contextmanager
    def pinned(self, path: Path) -> Iterator[None]:
        """While entered, no save removes `path`, whichever process saves; nothing for one that is gone.

        A shared lock on its manifest, which the kernel frees when its holder dies.
        """
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                file = stack.enter_context((path / MANIFEST).open("rb"))
                fcntl.flock(file, fcntl.LOCK_SH)
            yield

    def mark_best(self, path: Path, score: float) -> bool:
        """Keeps `path` for good unless one with as high a `score` is marked already; says whether it did.

        To be called with `path` pinned.
        """
        if not path.is_dir():
            self._note(f"{path.name} scored {score:g}, but it is gone and cannot be kept as the best")
            return False
        with self._marking():
            best = self.best()
            if not math.isfinite(score) or (best is not None and best[1] >= score):
                return False
            # Replaced whole, so that `best` in another process never reads half of a record.
            durable.replace(self.folder / BEST, to_json({"name": path.name, "score": float(score)}))
        return True

    @contextlib.contextmanager
    def _marking(self) -> Iterator[None]:
        """While entered, nobody else marks a best checkpoint; waits for whoever does."""
        with (self.folder / MARKING).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def best(self) -> tuple[Path, float] | None:
        """The checkpoint marked as best by evaluation and its score, or None."""
        try:
            record = json.loads((self.folder / BEST).read_bytes())
            path, score = self.folder / str(record["name"]), float(record["score"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("ignoring unreadable %s: %s", BEST, error)
            return None
        return (path, score) if NAME.fullmatch(path.name) and path.is_dir() else None

    def remove_leftovers(self) -> None:
        """Removes what a crash during a save left behind; only the process that saves may call it."""
        if not any(self.folder.glob(f"{TEMPORARY}*")):
            return
        # An evaluator of another process may be about to mark the best: its file is no leftover.
        with self._marking():
            for path in list(self.folder.glob(f"{TEMPORARY}*")):
                logger.info("removing unfinished checkpoint %s", path.name)
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _put_in_place(self, temporary: Path, target: Path) -> None:
        """Renames; an older checkpoint of the same update stays loadable until the new one stands."""
        replaced = target.with_name(f"{target.name}.replaced")
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            target.rename(replaced)
        temporary.rename(target)
        # The rename must be on disk before the older checkpoint goes: a power cut could take both.
        durable.sync(self.folder)
        shutil.rmtree(replaced, ignore_errors=True)

    def _prune(self, saved: Path) -> None:
        """Broken checkpoints do not count among those kept; they leave once older than all of those."""
        paths = self.paths()
        whole = [path for path in paths if path.name not in self._broken]
        kept = set(whole[: self._keep]) | {saved}
        oldest = number_of(min(kept, key=number_of))
        for path in paths:
            # Ask for the pin first: a checkpoint is marked as the best before its pin is released.
            if path in kept or number_of(path) > oldest or _is_pinned(path) or self._is_best(path):
                continue
            shutil.rmtree(path, ignore_errors=True)

    def _is_best(self, path: Path) -> bool:
        best = self.best()
        return best is not None and best[0] == path


def _is_pinned(path: Path) -> bool:
    """Whether somebody holds `path` (see `CheckpointStore.pinned`)."""
    try:
        with (path / MANIFEST).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def network_tensors(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The part of a checkpoint's tensors under `prefix/`, with the prefix taken off."""
    return {
        name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")
    }


def with_prefix(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Inverse of `network_tensors`: names become `prefix/<name>`."""
    return {f"{prefix}/{name}": value for name, value in tensors.items()}

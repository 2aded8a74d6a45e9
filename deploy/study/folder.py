"""A study's folder: the file as it was when the study started, what was started, and the runs' folders."""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from apexpert import durable
from apexpert.errors import one_line
from deploy.run import metadata
from deploy.run.folder import CONFIG, RunFolder
from deploy.run.locks import opened, take
from deploy.study.errors import StudyError
from deploy.study.file import Size, StudyFile
from deploy.study.plan import PlannedRun

FILE, RECORD, LOCK = "study.toml", "study.json", ".study-lock"


class StudyFolder:
    """`runs/NAME`, or `runs/NAME-SIZE` for another size than full. `record` is the content of study.json."""

    def __init__(self, path: Path) -> None:
        """Open the folder of a study; StudyError for one whose study.json is broken."""
        self.path = path.absolute()
        self.record = self._read()
        self._lock = -1

    @classmethod
    def create_or_open(cls, study: StudyFile, size: Size, runs_dir: Path) -> Self:
        """Make the folder, with a copy of the study's file, or open the one that is there.

        Raises StudyError where the folder is of another file or of a run, OSError where none can be written.
        """
        path, hashed = path_of(study, size, runs_dir), hashlib.sha256(study.text).hexdigest()
        if (path / RECORD).exists():
            found = cls(path)
            if found.record["sha256"] != hashed:
                again = command(path / FILE, size, runs_dir)
                raise StudyError(
                    f"{study.path}: is not the study that {path} was started with; resume that one by:"
                    f" {again}, or give this one another study.name",
                    path=study.path,
                )
            return found
        if path.exists():
            raise StudyError(
                f"{path}: is there already, and is no study; choose another study.name", path=path
            )
        record = {
            "study": study.name,
            "size": size.name,
            "sha256": hashed,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "commit": metadata.commit(),
            "versions": metadata.versions(),
            "hardware": metadata.hardware(),
            "runs": {},
        }
        _make(path, {FILE: study.text, RECORD: json.dumps(record, indent=1).encode()})
        return cls(path)

    def _read(self) -> dict[str, Any]:
        path = self.path / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not (isinstance(record["sha256"], str) and isinstance(record["size"], str)):
                raise TypeError("sha256 and size must be texts")
            runs = record["runs"].values()
            if all(type(run["starts"]) is int and isinstance(run.get("error", ""), str) for run in runs):
                return dict(record)
            raise TypeError("starts must be whole numbers, and errors texts")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"{path}: cannot be read, or is no record of a study: {one_line(error)}"
            raise StudyError(why, path=path) from None

    @contextlib.contextmanager
    def driving(self) -> Iterator[None]:
        """Be the one process that starts its runs; StudyError where another one is.

        Commands that start runs inherit the lock: one that outlives its driver keeps the next one out until
        its run has a folder.
        """
        with opened(self.path / LOCK) as file:
            if not take(file):
                raise StudyError(
                    f"{self.path}: another apexpert study is at work on it, or a run that one began is still"
                    " starting; wait until it has ended",
                    path=self.path,
                )
            # What another driver has noted since this one opened the folder.
            self.record = self._read()
            self._lock = file.fileno()
            try:
                yield
            finally:
                self._lock = -1

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that a command which starts a run has to inherit: that of the lock."""
        return (self._lock,) if self._lock >= 0 else ()

    def run(self, planned: PlannedRun) -> RunFolder | None:
        """Return the folder of a run; None before it has one."""
        path = self.path / planned.name
        return RunFolder(path) if (path / CONFIG).is_file() else None

    def started(self, planned: PlannedRun) -> dict[str, Any]:
        """Return what is noted of a run: `starts`, and `error` if its last start failed."""
        noted: dict[str, Any] = self.record["runs"].get(planned.name, {"starts": 0})
        return noted

    def note(self, planned: PlannedRun, **changes: Any) -> None:
        """Note something of a run in study.json."""
        self.record["runs"][planned.name] = self.started(planned) | changes
        durable.replace(self.path / RECORD, json.dumps(self.record, indent=1).encode(), 0o644)


def _make(path: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder with files, all or nothing; raises OSError, FileExistsError where it has content."""
    beside = path.with_name(f"{durable.TEMPORARY}{path.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)  # Of a process that was killed, and had this one's number.
    beside.mkdir(parents=True)
    try:
        for name, content in files.items():
            durable.replace(beside / name, content, 0o644)
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    durable.sync(path.parent)


def command(file: Path | str, size: Size, runs_dir: Path) -> str:
    """Return the command line that drives a study, from its file."""
    words = ["apexpert", "study", str(file), "--size", size.name]
    return shlex.join(words + ([] if runs_dir == Path("runs") else ["--runs-dir", str(runs_dir)]))


def path_of(study: StudyFile, size: Size, runs_dir: Path) -> Path:
    """Return the folder of a study at one of its sizes."""
    return runs_dir / (study.name if size.name == "full" else f"{study.name}-{size.name}")

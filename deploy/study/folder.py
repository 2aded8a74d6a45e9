"""A study's folder: the file as it was when the study started, what was started, and the runs' folders."""

import contextlib
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from apexpert import durable
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
        self.path = path.absolute()
        self.record: dict[str, Any] = json.loads((self.path / RECORD).read_text(encoding="utf-8"))

    @classmethod
    def create_or_open(cls, study: StudyFile, size: Size, runs_dir: Path) -> Self:
        """Make the folder, with a copy of the study's file, or open the one that is there.

        Raises StudyError where the folder is of another file or of a run, OSError where none can be written.
        """
        path, hashed = path_of(study, size, runs_dir), hashlib.sha256(study.text).hexdigest()
        if (path / RECORD).exists():
            found = cls(path)
            if found.record["sha256"] != hashed:
                raise StudyError(
                    f"{study.path}: is not the study that {path} was started with; resume that one by:"
                    f" apexpert study {path / FILE} --size {size.name}, or give this one another study.name",
                    path=study.path,
                )
            return found
        if path.exists():
            raise StudyError(
                f"{path}: is there already, and is no study; choose another study.name", path=path
            )
        path.mkdir(parents=True)
        durable.replace(path / FILE, study.text, 0o644)
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
        # Last: only a folder that has it counts as a study.
        durable.replace(path / RECORD, json.dumps(record, indent=1).encode(), 0o644)
        return cls(path)

    @contextlib.contextmanager
    def driving(self) -> Iterator[None]:
        """Be the one process that starts its runs; StudyError where another one is."""
        with opened(self.path / LOCK) as file:
            if not take(file):
                raise StudyError(f"{self.path}: another apexpert study is at work on it", path=self.path)
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)

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


def path_of(study: StudyFile, size: Size, runs_dir: Path) -> Path:
    """Return the folder of a study at one of its sizes."""
    return runs_dir / (study.name if size.name == "full" else f"{study.name}-{size.name}")

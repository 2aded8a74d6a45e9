"""`apexpert` as a user types it: the installed script, in a folder of its own, in a process of its own."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.fleet.run_state import load_ray
from deploy.run.folder import RunFolder
from tests.helpers.deadline import patient, until
from tests.helpers.root import ROOT
from tests.helpers.runs.catch_runs import CATCH, flags
from tests.helpers.runs.rays import without_ray_settings

APEXPERT = Path(sys.executable).with_name("apexpert")
NAME = "r"
# 1,000 env steps after the warm-up: there, one batch more or less is 0.8 % of the samples.
SHORT: dict[str, dict[str, Any]] = CATCH | {
    "replay": CATCH["replay"] | {"min_size": 200},
    "learner": CATCH["learner"] | {"update_period": 8, "checkpoint_period": 50},
    "run": {"total_env_steps": 1_200, "seed": 1, "name": NAME},
}


@dataclass(frozen=True)
class Terminal:
    """A folder to type commands in; its runs are in `runs/`."""

    path: Path

    @property
    def folder(self) -> RunFolder:
        """The run's."""
        return RunFolder(self.path / "runs" / NAME)

    def run(self, *words: str, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            [APEXPERT, *words], cwd=self.path, env=self.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=patient(seconds), check=False,
        )  # fmt: skip

    @contextlib.contextmanager
    def started(self, *words: str) -> Iterator["Started"]:
        """A command at work; killed in the end if it still is, with the Ray that it started."""
        log = self.path / f"{words[0]}.txt"
        with log.open("w") as out:
            process = subprocess.Popen(
                [APEXPERT, *words], cwd=self.path, env=self.environment(), stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        with self.ending_ray():
            try:
                yield Started(process, log)
            finally:
                process.kill()
                process.wait()

    @contextlib.contextmanager
    def ending_ray(self) -> Iterator[None]:
        """In the end, end the Ray that the run has started for itself and a failed test leaves."""
        try:
            yield
        finally:
            _, local = load_ray(self.folder)
            if local is not None:
                local.end()

    def status(self) -> dict[str, Any]:
        """Read what `apexpert status RUN --json` prints."""
        done = self.run("status", NAME, "--json")
        assert done.returncode == 0, done.stderr
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def copy(self, path: Path) -> "Terminal":
        """The same runs in another folder."""
        # Checkpoints first: what they know of is in the replay that is copied after them.
        for part, left_out in (("checkpoints", ""), ("", "checkpoints")):
            source, target = self.folder.path / part, path / "runs" / NAME / part
            try:
                ignore = shutil.ignore_patterns(left_out)
                shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
            except shutil.Error as error:
                # Everything else is copied: a live run's files come and go.
                if not all("No such file" in why for *_, why in error.args[0]):
                    raise
        return Terminal(path)

    def environment(self) -> dict[str, str]:
        """Of the commands, without what the suite's own Ray has put into this process's."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return without_ray_settings() | {"PYTHONPATH": path, "COLUMNS": "200"}


@dataclass(frozen=True)
class Started:
    """A command at work and what it has printed so far."""

    process: subprocess.Popen[bytes]
    log: Path

    def printed(self) -> str:
        """Standard output and error until now."""
        return self.log.read_text()

    def prints(self, text: str, seconds: float = 90) -> str:
        """All that it printed, once `text` is in it; AssertionError when it ends before or takes longer."""
        until(lambda: text in self.printed() or not self.alive, text, seconds)
        assert text in self.printed(), self.printed()
        return self.printed()

    @property
    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        return self.process.poll() is None


@dataclass(frozen=True)
class Trained:
    """A run that `apexpert train` has brought to its end. Work on it in a copy of its terminal."""

    terminal: Terminal
    code: int
    printed: str


def train(path: Path) -> Trained:
    """`apexpert train` on Catch for 1,200 env steps, in `path`."""
    terminal = Terminal(path)
    done = terminal.run("train", "--preset", "laptop", *flags(SHORT))
    return Trained(terminal, done.returncode, done.stdout + done.stderr)

"""Pictures of a terminal at 80 and 120 columns, as text files: train, status --follow, list, evaluate.

`python -m tests.helpers.runs.terminal_pictures docs/terminal` draws them from scripted runs, without Ray.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console as RichConsole

from deploy.cli.main import main
from deploy.cli.run.train import _announce
from deploy.fleet.reporting.waiting import RESTORING, waits_for
from deploy.monitor.console import Console
from deploy.run.config import with_values
from deploy.run.folder import RunFolder
from deploy.run.presets import LAPTOP
from tests.helpers.runs.network_runs import run_folder
from tests.helpers.runs.scripted_run import status

COLUMNS = (80, 120)
ENV_STEPS, WARM_UP = 10_000, 2_500
RUNNING = {
    "episode/return_mean_100": -20.5,
    "episode/count": 7.0,
    "speed/actor_steps_per_s": 212.0,
    "speed/updates_per_s": 26.6,
    "progress/seconds": 61.0,
    "replay/samples_per_insert": 3.99,
    "learner/loss": 0.0153,
    "learner/q_mean": -0.412,
    "learner/waiting_share": 0.02,
    "actors/weights_age_updates": 8.0,
    "actors/alive": 1.0,
    "actors/epsilon": 0.505,
    "replay/fill": 0.06,
    "replay/bytes": 2.1e6,
}


def told(state: str, env_steps: float, updates: float) -> dict[str, Any]:
    """The status of a run that has come so far; its warm-up is of WARM_UP transitions."""
    counts = {"progress/env_steps": env_steps, "progress/updates": updates}
    counts |= {"replay/size": env_steps, "replay/inserted": env_steps}
    waits = waits_for(counts, learner_pid=1, learner_ready=True, target=1, min_size=WARM_UP)
    return status(state, metrics=RUNNING | counts, message=waits)


STORY: tuple[tuple[float, dict[str, Any]], ...] = (
    (0.0, status("starting", metrics={}, message=RESTORING)),
    (25.0, told("running", 1_000.0, 0.0)),
    (27.0, told("running", 2_000.0, 0.0)),
    (47.0, told("running", 3_000.0, 125.0)),
    (67.0, told("running", 4_000.0, 250.0)),
    (187.0, told("finished", 10_000.0, 1_000.0)),
)
"""A run's statuses: a warm-up of 500 env steps a second, then 50."""


def live(columns: int, title: str, shown: Sequence[int]) -> str:
    """The live console after some of the statuses, each as one picture."""
    now, out = [0.0], RichConsole(file=io.StringIO(), width=columns, force_terminal=True)
    drawn = RichConsole(file=io.StringIO(), width=columns, record=True)
    with mock.patch.object(time, "monotonic", side_effect=lambda: now[0]):
        console = Console(title, plain=False, out=out)
        for place, (seconds, answer) in enumerate(STORY):
            now[0] = seconds
            console.update(answer)
            if place in shown:
                assert console._live is not None
                drawn.print(console._live.get_renderable())
                drawn.print()
        console.close()
    return drawn.export_text()


def command(*argv: str) -> str:
    """The output of a command on a terminal, behind its prompt."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(argv)
    return f"$ apexpert {' '.join(argv)}\n{out.getvalue()}"


def train(columns: int) -> str:
    """Draw what `train` prints before the start, then the live console."""
    out = io.StringIO()
    values = {"run__name": "first", "run__total_env_steps": ENV_STEPS, "replay__min_size": WARM_UP}
    folder = RunFolder.create(with_values(LAPTOP, **values))
    with contextlib.redirect_stdout(out):
        _announce(folder)
    flags = f"--name first --total-env-steps {ENV_STEPS} --replay.min-size {WARM_UP}"
    return f"$ apexpert train {flags}\n{out.getvalue()}\n{trained(columns)}"


def trained(columns: int) -> str:
    """The live console of `train`: at its start, in its warm-up, at work, at its end."""
    return live(columns, "first (pong)", (0, 2, 4, 5))


def followed(columns: int) -> str:
    """Draw what `status --follow` shows of a run that learns."""
    return f"$ apexpert status first --follow\n{live(columns, 'first (pong)', (4,))}"


def listed(columns: int) -> str:
    """`list` of a finished, a stopped, a broken and an old run."""
    for name, state in (("pong-seed-1", "finished"), ("pong-seed-2", "stopped")):
        folder = RunFolder.create(with_values(LAPTOP, run__name=name, run__total_env_steps=10_000))
        folder.write_json("status.json", status(state))
    for name, config in (("broken", "{"), ("old", '{"network": {"head": "moe", "distribution": true}}')):
        Path("runs", name).mkdir()
        Path("runs", name, "config.json").write_text(config)
    return command("list")


def evaluated(columns: int) -> str:
    """`evaluate` of a network on Catch: two games, which end alike."""
    run_folder(Path("runs"))
    return command("evaluate", "seen", "--episodes", "2", "--seed", "5")


@contextlib.contextmanager
def terminal(columns: int) -> Iterator[None]:
    """An empty folder, and a terminal as wide as that."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, COLUMNS=str(columns)):
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def draw(target: Path) -> None:
    """Write all pictures into `target`."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for columns in COLUMNS:
        pictures = {
            "train": train,
            "status": followed,
            "list": listed,
            "evaluate": evaluated,
        }
        for name, picture in pictures.items():
            with terminal(columns):
                text = picture(columns).replace(str(Path.cwd()), "/home/me")
            lines = (line.rstrip() for line in text.splitlines())
            (target / f"{name}-{columns}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    draw(Path(sys.argv[1]).absolute())

"""`apexpert show`: what each expert of a run's network looks at while it plays."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deploy.cli.control import RunName
from deploy.cli.errors import CommandFailed
from deploy.cli.follow import Interrupts
from deploy.cli.look import load_checkpoint
from deploy.cli.parsing import parse
from deploy.cli.preflight import with_checked_environment
from deploy.config import Config, ConfigError
from deploy.run_folder import RunFolder

if TYPE_CHECKING:
    from deploy.reports.attention import Attention
    from learner.checkpoint import Checkpoint


@dataclass(frozen=True)
class ShowArguments:
    """Play a game with a run's newest checkpoint and draw what each expert looks at, frame by frame.

    Writes a sheet of frames (PNG) and the whole game (mp4) into the run's videos/ folder.
    """

    run: RunName
    """Name of the run under --runs-dir, or the path of its folder."""
    best: bool = False
    """Take the best checkpoint by evaluation in place of the newest."""
    frames: int = 6
    """Rows of the sheet: moments spread over the game."""
    steps: int = 0
    """Env steps to play; 0 plays the whole game."""
    video: bool = True
    """Write the mp4 as well."""
    seed: int = 1
    """Seed of the game."""
    output: str = ""
    """Folder to write into; empty takes the run's videos/."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def show(argv: Sequence[str]) -> int:
    """Draw what the experts look at; gives the exit code."""
    arguments = parse(ShowArguments, argv, command="show")
    if arguments.frames < 1 or arguments.steps < 0:
        raise ConfigError("--frames must be 1 or more and --steps 0 or more")
    folder = RunFolder.open(arguments.run, arguments.runs_dir)
    config = with_checked_environment(folder.load_config())
    if config.network.head in ("dense", "pooled"):
        raise ConfigError(f"{folder.name} has a {config.network.head} head: there are no experts to show")
    checkpoint = load_checkpoint(folder, best=arguments.best)
    target = Path(arguments.output or folder.videos)
    stem = f"experts-update-{checkpoint.update:09d}"
    print(f"{folder.name}: {checkpoint.path.name}, one game of {config.game_name}", file=sys.stderr)
    video = target / f"{stem}.mp4" if arguments.video else None
    moments = _play(config, checkpoint, arguments, video)
    _write_sheet(
        moments, arguments.frames, f"{folder.name}, update {checkpoint.update:,}", target / f"{stem}.png"
    )
    for path in filter(None, (target / f"{stem}.png", video)):
        print(path)
    return 0


def _play(
    config: Config, checkpoint: "Checkpoint", arguments: ShowArguments, video: Path | None
) -> list[tuple[int, NDArray[np.uint8], "Attention"]]:
    """One game: every tenth moment of it, and all of it in the video."""
    import contextlib

    from actors.evaluation import evaluate
    from deploy.reports.attention import NothingToShow, film_frame
    from deploy.reports.evaluation import ATARI_FRAMES_PER_SECOND, online_network_of, policy_of
    from deploy.reports.video import VideoWriter

    fps = ATARI_FRAMES_PER_SECOND / config.environment.frame_skip
    with (
        Interrupts() as interrupts,
        VideoWriter(video, fps=fps) if video else contextlib.nullcontext() as film,
    ):
        watcher = Watcher(policy_of(config, checkpoint), online_network_of(checkpoint))
        if film is not None:
            watcher.watch = lambda picture, attention: film.add(film_frame(picture, attention))
        try:
            evaluate(
                watcher,  # type: ignore[arg-type]
                config.environment,
                episodes=1,
                seed=arguments.seed,
                epsilon=config.evaluation.epsilon,
                recorder=watcher.record,
                should_stop=lambda: bool(interrupts.count or 0 < arguments.steps <= watcher.steps),
            )
        except NothingToShow as error:
            raise ConfigError(str(error)) from None
    return watcher.moments


class Watcher:
    """A policy that looks at what the experts of environment 0 look at, before each of its choices."""

    def __init__(self, policy: Any, network: Any) -> None:
        self._policy, self._network = policy, network
        self._picture: NDArray[np.uint8] | None = None
        self.watch: Any = lambda picture, attention: None
        self.steps = 0
        self.moments: list[tuple[int, NDArray[np.uint8], Attention]] = []

    def record(self, picture: NDArray[np.uint8]) -> None:
        """The picture that belongs to the next observation."""
        self._picture = picture

    def act(self, observations: NDArray[np.uint8], *rest: Any, **options: Any) -> Any:
        """As `Policy.act`."""
        from deploy.reports.attention import attention_of

        if self._picture is not None:
            attention = attention_of(self._network, observations[0])
            self.watch(self._picture, attention)
            if self.steps % 10 == 0:
                self.moments.append((self.steps, self._picture, attention))
            self._picture = None
        self.steps += 1
        return self._policy.act(observations, *rest, **options)


def _write_sheet(
    moments: list[tuple[int, NDArray[np.uint8], "Attention"]], rows: int, title: str, path: Path
) -> None:
    from deploy.reports.attention import draw_sheet

    if not moments:
        raise CommandFailed("the game was interrupted before its first step")
    chosen = np.unique(np.linspace(0, len(moments) - 1, min(rows, len(moments))).astype(int))
    draw_sheet([moments[index] for index in chosen], title, path)

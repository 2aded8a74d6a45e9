"""`apexpert play`: watch a trained network play."""

import contextlib
import functools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.cli.errors import CommandFailed
from deploy.cli.network.look import print_episode
from deploy.cli.parsing import parse
from deploy.cli.run.follow import Interrupts
from deploy.cli.run.targets import file_target
from deploy.networks.trained import Trained, TrainedName, open_trained
from deploy.run.checks import check_limits
from deploy.run.config import ConfigError

VIDEOS = (".mp4", ".mkv", ".mov")
"""Endings of videos, the usual one first."""


@dataclass(frozen=True)
class PlayArguments:
    """Watch a run's newest checkpoint play: in a window, or as an mp4 where there is no display.

    apexpert play RUN
    apexpert play bundled:pong
    apexpert play RUN --output game.mp4
    """

    run: TrainedName
    """Name of the run under --runs-dir, the path of its folder, a file of `apexpert export`, or the
    bundled:pong that comes with Apexpert."""
    episodes: int = 1
    """Full games to play."""
    seed: int = 1
    """Seed of the first game; each further game uses the next number."""
    output: str = ""
    """File, or folder, to write an mp4 into instead of opening a window."""
    best: bool = False
    """Take the best checkpoint by evaluation instead of the newest."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def play(argv: Sequence[str]) -> int:
    """Play and show the games; return the exit code."""
    arguments = parse(PlayArguments, argv, command="play")
    if arguments.episodes < 1:
        raise ConfigError(f"--episodes {arguments.episodes}: must be 1 or more")
    check_limits("run.seed", arguments.seed)
    trained = open_trained(arguments.run, arguments.runs_dir, best=arguments.best)
    from actors.rendering import NoWindow

    # Only the Atari emulator can open a window.
    if not arguments.output and has_display() and not trained.config.environment.env:
        try:
            _play(trained, arguments, None)
            return 0
        except NoWindow as error:
            # A display may be named that does not answer: then the game becomes an mp4.
            print(f"no window can be opened ({error})", file=sys.stderr)
    name = f"{trained.stem}-seed-{arguments.seed}.mp4"
    video = file_target("--output", arguments.output, trained.videos("") / name, VIDEOS)
    if failure := _play(trained, arguments, video):
        raise CommandFailed(failure)
    print(video)
    return 0


def has_display() -> bool:
    """Whether a window can be opened here."""
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def _play(trained: Trained, arguments: PlayArguments, video: Path | None) -> str:
    """Play the games into the video, or in a window without one; return why the video is not complete.

    Raises NoWindow when no window can be opened.
    """
    from deploy.networks.policy import policy_of
    from deploy.reports.evaluation import frames_per_second
    from deploy.reports.games import play_games
    from deploy.reports.video import VideoWriter

    config = trained.config
    where = "in a window" if video is None else f"into {video}"
    print(f"{trained.name}: {config.game_name}, {where}; Ctrl-C ends it", file=sys.stderr)
    fps = frames_per_second(config)
    policy = policy_of(config, trained.checkpoint)
    played_by = f"{trained.name}, update {trained.checkpoint.update:,}"
    with (
        Interrupts() as interrupts,
        VideoWriter(video, fps=fps) if video else contextlib.nullcontext() as film,
    ):
        # One game a call: a coloured view follows only the first episode after its seeding.
        for game in range(arguments.episodes):
            play_games(
                config,
                policy,
                episodes=1,
                seed=arguments.seed + game,
                recorder=functools.partial(film.add_scene, checkpoint=played_by) if film else None,
                window=film is None,
                progress=print_episode,
                should_stop=lambda: interrupts.count > 0,
            )
            if interrupts.count:
                break
    return film.failure if film else ""

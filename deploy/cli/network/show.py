"""`apexpert show`: what each expert of a run's network looks at while it plays."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.cli.errors import CommandFailed
from deploy.cli.parsing import parse
from deploy.cli.run.follow import Interrupts
from deploy.cli.run.targets import check_target
from deploy.networks.trained import TrainedName, open_trained
from deploy.run.checks import check_limits
from deploy.run.config import Config, ConfigError
from models.config import MOE_HEADS, is_imported

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deploy.reports.experts.heat import Moment
    from learner.checkpoint import Checkpoint


@dataclass(frozen=True)
class ShowArguments:
    """Play a game with a run's newest checkpoint and draw what each expert looks at, frame by frame.

    Writes a sheet of frames (PNG) and the whole game (mp4) into the run's videos/ folder. A Soft MoE's maps
    are its dispatch weights, a Top-k MoE's the router's probabilities, and for tokens without a place on the
    screen the gradient of the value with respect to the pixels, through each expert. Colours are weights over
    uniform, on one scale in every picture: white is 1, red is more, blue is less. `peak` is the largest, and
    `uniform` says that no weight is more than 5 % from it.
    """

    run: TrainedName
    """Name of the run under --runs-dir, the path of its folder, a file of `apexpert export`, or the
    bundled:pong that comes with Apexpert."""
    best: bool = False
    """Take the best checkpoint by evaluation instead of the newest."""
    frames: int = 6
    """Rows of the sheet: moments spread over the game."""
    steps: int = 0
    """Env steps to play; 0 plays the whole game."""
    video: bool = True
    """Write the mp4 as well."""
    seed: int = 1
    """Seed of the game."""
    output: str = ""
    """Folder to write into; empty takes the run's videos/, or the current one for a model."""
    runs_dir: str = "runs"
    """Folder that holds the runs' folders."""


def show(argv: Sequence[str]) -> int:
    """Draw what the experts look at; return the exit code."""
    arguments = parse(ShowArguments, argv, command="show")
    if arguments.frames < 1 or arguments.steps < 0:
        raise ConfigError("--frames must be 1 or more and --steps 0 or more")
    check_limits("run.seed", arguments.seed)
    trained = open_trained(arguments.run, arguments.runs_dir, best=arguments.best)
    config, checkpoint = trained.config, trained.checkpoint
    network = config.network
    if network.head not in MOE_HEADS:
        own = "is your own" if is_imported(network.head) else "has none"
        raise ConfigError(f"{trained.name}: no experts to show, its {network.head} head {own}")
    target = trained.videos(arguments.output) / f"experts-{trained.stem}"
    for kind in (".png", ".mp4") if arguments.video else (".png",):
        # Not `with_suffix`, which would cut a name that contains a dot.
        check_target("--output", target.with_name(target.name + kind))
    print(f"{trained.name}: {checkpoint.path.name}, one game of {config.game_name}", file=sys.stderr)
    if network.tokens in ("per_feature_map", "per_sample"):
        how = "what each expert's part in the value depends on, by gradients"
        print(f"{network.tokens} tokens have no place on the screen: {how}", file=sys.stderr)
    try:
        title = f"{config.game_name}: {trained.name}, update {checkpoint.update:,}"
        failure = _draw(config, checkpoint, arguments, target, title)
    except OSError as error:
        raise CommandFailed(f"{error.filename or target.parent}: {error.strerror or error}") from None
    if failure:
        raise CommandFailed(failure)
    return 0


def _draw(
    config: Config, checkpoint: "Checkpoint", arguments: ShowArguments, target: Path, title: str
) -> str:
    """Play, write and print the files; return why there is no video, empty if there is or none was wanted."""
    from deploy.reports.contact_sheet import action_names
    from deploy.reports.experts.film import FilmFrames
    from deploy.reports.experts.sheet import draw_sheet

    names = action_names(config.environment, int(checkpoint.document["num_actions"]))
    sheet, video = (target.with_name(target.name + kind) for kind in (".png", ".mp4"))
    frame_of = FilmFrames(title, names)
    moments, failure = _play(config, checkpoint, arguments, video if arguments.video else None, frame_of)
    if not moments:
        raise CommandFailed("the game was interrupted before its first step")
    rows = min(arguments.frames, len(moments))
    # From the first moment to the last; a single row shows the first.
    chosen = [moments[index * (len(moments) - 1) // max(rows - 1, 1)] for index in range(rows)]
    sheet.parent.mkdir(parents=True, exist_ok=True)
    print(draw_sheet(chosen, title, names, sheet))
    if arguments.video and not failure:
        print(video)
    return failure


def _play(
    config: Config,
    checkpoint: "Checkpoint",
    arguments: ShowArguments,
    video: Path | None,
    frame_of: "Callable[[Moment], NDArray[np.uint8]]",
) -> "tuple[list[Moment], str]":
    """Play one game: return moments spread over it and why there is no video, which records all of it."""
    from deploy.networks.policy import network_of, policy_of
    from deploy.reports.evaluation import frames_per_second
    from deploy.reports.experts.watcher import Moments, Watcher
    from deploy.reports.games import play_games
    from deploy.reports.video import VideoWriter

    fps = frames_per_second(config)
    moments = Moments(at_least=4 * arguments.frames)
    with (
        Interrupts() as interrupts,
        VideoWriter(video, fps=fps) if video else contextlib.nullcontext() as film,
    ):

        def watch(moment: "Moment") -> None:
            moments.add(moment)
            if film is not None:
                film.add(frame_of(moment))

        watcher = Watcher(policy_of(config, checkpoint), network_of(checkpoint), watch)
        play_games(
            config,
            watcher,
            episodes=1,
            seed=arguments.seed,
            recorder=watcher.record,
            should_stop=lambda: bool(interrupts.count or 0 < arguments.steps <= watcher.env_steps),
        )
    return moments.kept, film.failure if film else ""

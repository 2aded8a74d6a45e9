"""Texts printed before a run starts and after it has ended."""

import functools
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from actors.config import ActorRange, Actors, EnvironmentConfig
from deploy.cli.errors import CommandFailed
from deploy.cli.output import is_lost, why_lost, wrap
from deploy.monitor.bands import GREEDY, greedy_return
from deploy.replays.place import replay_folder
from deploy.run.config import Config, RunConfig, hide_password, leaves
from deploy.run.folder import RunFolder
from deploy.run.machine.findings import gigabytes
from models.geometry import LAYERS, positions
from replay.types import FrameShape

BYTES_PER_STEP = 680
"""Compressed bytes of one 84x84 env step of a busy game (Ms. Pacman) in Redis; Pong needs a quarter."""
SEGMENT_BYTES = 500
"""Bytes of a segment's header and log entry, which count where frames are small."""
LOG_GROWTH = 3
"""An append-only file is rewritten once it has doubled; until that is done, the new one exists beside it."""
CROWDED = 2
"""Actors per core above which more actors only cost memory and switching."""
NO_LIMIT = {"run.max_hours": RunConfig().max_hours, "run.until_return": RunConfig().until_return}
"""Values, their defaults, at which a setting ends no run."""
ACTIONS = 18
"""Number of actions assumed when estimating a network's size: Atari's largest."""
ENCODER_SIZES = {"impala": (32, 100_000), "nature": (64, 100_000), "minatar": (16, 1_000)}
"""Channels of an encoder's feature map, and about its parameters."""


def config_lines(config: Config) -> list[str]:
    """Return the configuration, one paragraph per section; passwords in URLs are hidden.

    It is as wide as the terminal, and breaks between settings alone.
    """
    sections: dict[str, list[str]] = {}
    for path, value in leaves(config).items():
        section, name = path.split(".")
        sections.setdefault(section, []).append(f"{name}={show(path, value)}")
    lines = []
    for section, words in sections.items():
        lines += wrap(" ".join(words), f"  {section:<12}", " " * 14)
    return lines


def burst_line(config: Config) -> str:
    """Return how many updates one segment allows at once, and the ratio that the limiter keeps."""
    replay, learner = config.replay, config.learner
    updates = replay.segment_steps / learner.update_period
    return (
        f"burst: a segment of {replay.segment_steps} env steps earns {updates:.3g} updates;"
        f" samples per insert {config.samples_per_insert:g}"
    )


def disk_estimate(config: Config) -> tuple[int, int]:
    """Return upper estimates of the bytes of replay (0 with `--replay.urls`) and of checkpoints on disk."""
    replay = 0 if config.replay.urls else LOG_GROWTH * replay_bytes(config)
    stored = min(config.replay.capacity, config.run.total_env_steps)
    # Online and target network and Adam's two moments in float32, and the sampler's arrays.
    checkpoint = 4 * 4 * num_parameters(config) + 40 * stored
    # Beside those kept: the best one, and the one that is being written.
    return replay, (config.learner.keep_checkpoints + 2) * checkpoint


def replay_bytes(config: Config) -> int:
    """Return an upper estimate of the bytes of all segments in Redis, over all shards."""
    replay, environment = config.replay, config.environment
    stored = min(replay.capacity, config.run.total_env_steps)
    share = math.prod(frame_shape(config)) / (84 * 84)
    overlap = 1 + (environment.stack + replay.n_step) / replay.segment_steps
    # BYTES_PER_STEP already has an overlap of 7 steps (stack 4, n-step 3) in segments of 64.
    cap = stored * (BYTES_PER_STEP * share * overlap / (1 + 7 / 64) + SEGMENT_BYTES / replay.segment_steps)
    limits = [replay.capacity_bytes] if replay.capacity_bytes else []
    # The memory of a user's own servers is not known here.
    limits += [] if replay.urls else [replay.shards * replay.shard_memory_bytes]
    return int(min([cap, *limits]))


def num_parameters(config: Config) -> int:
    """Return the network's parameters, to about a tenth, without building it (which would import torch)."""
    network = config.network
    # An encoder of the user's own is taken for the Impala encoder.
    encoder = network.encoder if network.encoder in LAYERS else "impala"
    width, in_encoder = ENCODER_SIZES[encoder]
    width = int(width * network.encoder_width_scale)
    area = math.prod(positions(encoder, side, network.padding) for side in frame_shape(config)[-2:])
    features = area * width
    widths = {"per_sample": features, "per_feature_map": area}
    hidden = 2 * widths.get(network.tokens, width) * network.expert_hidden_units * network.num_experts
    if network.head == "dense":
        hidden, features = features * network.dense_hidden_units, network.dense_hidden_units
    outputs = network.outputs_per_action * (ACTIONS + network.dueling)
    return in_encoder + hidden + features * outputs * (2 if network.noisy else 1)


def frame_shape(config: Config) -> FrameShape:
    """Return the shape of one frame; only another environment than Atari is made to find out."""
    environment = config.environment
    return _shape_of(environment) if environment.env else (environment.frame_height, environment.frame_width)


@functools.cache
def _shape_of(environment: EnvironmentConfig) -> FrameShape:
    from actors.environments import describe_environment  # The emulator would delay every command.

    return describe_environment(environment).frame_shape


def place_lines(config: Config, folder: RunFolder) -> list[str]:
    """Return where the replay's files are, and where checkpoints are copied to, if anywhere."""
    replay = replay_folder(folder, config)
    lines = [] if config.replay.urls else [f"replay: the embedded servers' files are in {replay}"]
    if config.run.checkpoints_to:
        url = f"{config.run.checkpoints_to.rstrip('/')}/{config.run.name}"
        stays = "begins with an empty replay and fills it first, because the replay's files are not copied"
        kept = "finds the replay on your servers" if config.replay.urls else stays
        lines.append(f"checkpoints: copied to {url}; on another machine, apexpert resume {url} {kept}")
    return lines


def disk_line(config: Config, folder: Path) -> str:
    """Return the disk estimate beside the free space, with a warning when it may be tight."""
    replay, checkpoints = disk_estimate(config)
    apart = Path(config.replay.folder) if config.replay.folder and not config.replay.urls else folder
    existing, replays = (next(p for p in (path, *path.parents) if p.exists()) for path in (folder, apart))
    free = shutil.disk_usage(existing).free
    line = (
        f"disk: up to {gigabytes(replay + checkpoints)} (replay {gigabytes(replay)},"
        f" checkpoints {gigabytes(checkpoints)}); {gigabytes(free)} free"
    )
    tight = checkpoints + (replay if apart == folder else 0) > free
    if apart != folder:
        line += f"; {gigabytes(shutil.disk_usage(replays).free)} free for the replay"
        tight = tight or replay > shutil.disk_usage(replays).free
    return line + (": WARNING, may not be enough; lower --replay.capacity" if tight else "")


def memory_line(config: Config) -> str:
    """Return the memory estimate beside what is available, with a warning when it may be tight."""
    stored = min(config.replay.capacity, config.run.total_env_steps)
    frames = min(config.replay.frame_store_bytes, stored * math.prod(frame_shape(config)))
    redis = 0 if config.replay.urls else replay_bytes(config)
    available = psutil.virtual_memory().available
    line = (
        f"memory: up to {gigabytes(redis + frames)} for replay (Redis {gigabytes(redis)},"
        f" decoded frames {gigabytes(frames)}); {gigabytes(available)} available"
    )
    tight = redis + frames > available
    return line + (": WARNING, may not be enough; lower --replay.frame-store-bytes" if tight else "")


def crowding(asked: Actors) -> str:
    """Return a warning when so many actors would crowd the machine's cores, else an empty string.

    `asked`: as by `--actors`; of a range, its lower end.
    """
    cores, num_actors = len(os.sched_getaffinity(0)), ActorRange.parse(asked).least
    if num_actors <= CROWDED * cores:
        return ""
    return f"WARNING: {num_actors:,} actors on {cores} cores: one a core is as fast, and each takes memory"


def end_lines(status: Mapping[str, Any]) -> list[str]:
    """Return the run's results as printed at its end."""
    lines = [f"  {name:<18}  {value}" for name, value in results(status).items()]
    return [f"run {status.get('run', '')} {status.get('state', '')}", *lines]


def results(status: Mapping[str, Any]) -> dict[str, str]:
    """Return the run's counts, return, ratio and time by name; `-` stands for an unknown value."""
    from deploy.monitor.console import duration  # rich would delay every command.

    metrics = status.get("metrics", {})

    def metric(name: str, form: str) -> str:
        return format(metrics[name], form) if name in metrics else "-"

    greedy = greedy_return(metrics, ".2f")
    nearly = f"{greedy} (last 100 episodes with epsilon up to {GREEDY.highest_epsilon:g})"
    mean, count = metric("episode/return_mean_100", ".2f"), metric("episode/count", ",.0f")
    return {
        "env steps": metric("progress/env_steps", ",.0f"),
        "updates": metric("progress/updates", ",.0f"),
        "mean return": f"{mean} (last 100 episodes of {count})",
        **({"nearly greedy": nearly} if greedy else {}),
        "samples per insert": metric("replay/samples_per_insert", ".3f"),
        "time": duration(metrics.get("progress/seconds")),
    }


def show(path: str, value: Any) -> str:
    """Format the value of the setting `path`, as `run.seed`; passwords in URLs are hidden."""
    if path in NO_LIMIT and value == NO_LIMIT[path]:
        return "-"
    if isinstance(value, tuple):
        return ", ".join(hide_password(item) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else value or "-"


def report(status: Mapping[str, Any], folder: RunFolder, *, asked: bool) -> int:
    """Print the run's results and how to resume it; return the exit code.

    `asked`: this command ended the run.
    """
    for line in end_lines(status):
        print(line)
    if status["state"] == "finished" and status.get("message"):
        print(f"  because             {status['message']}")
    checkpoint, again = folder.newest_checkpoint(), folder.command("resume")
    print(f"  checkpoint          {checkpoint or '-'}")
    print(f"  learning curve      {learning_curve(folder)}")
    if status["state"] == "failed":
        raise CommandFailed(
            f"run {folder.name} failed: {status.get('message') or 'no reason given'};"
            f" see {folder.log_path}, then: {again}"
        )
    if status["state"] == "stopped":
        print(f"resume it:            {again}")
    # Nobody asked for this end, so the exit code is 1 (decision 0020).
    if status["state"] == "stopped" and is_lost() and not asked:
        why = f"because its output cannot be written: {why_lost()}"
        raise CommandFailed(f"run {folder.name} was stopped, {why}; resume it: {again}")
    # `apexpert stop` leaves no message; whoever reports the end of a run's Ray does.
    if status["state"] == "stopped" and status.get("message") and not asked:
        raise CommandFailed(f"run {folder.name} was ended from outside: {status['message']}")
    return 0


def learning_curve(folder: RunFolder) -> str:
    """Return the path of the learning curve that was drawn, or why there is none."""
    from deploy.reports.curves.run_curves import CurveError
    from deploy.reports.curves.single_runs import draw_learning_curve

    try:
        return str(draw_learning_curve(folder.path))
    except CurveError:
        return "- (no episode has ended yet)"
    except OSError as error:
        return f"- (cannot be written: {error.strerror})"

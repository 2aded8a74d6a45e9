"""Expectations of a run, by its env steps: the results of the published agent that it resembles most."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

from deploy.reports.seeds.published import ENCODERS, FRAME_SKIP, WINDOW, NotPublished, published_curve
from deploy.run.config import Config, leaves
from deploy.run.presets import PRESETS

DEFAULT_AGENT = "rainbow"
MEASURED = resources.files("deploy.reports") / "data" / "measured_runs.json"
"""Runs of this project: folder in docs/runs, preset, game, seed, mean returns by window.

benchmarks/measured_run.py writes the file; a test fails once a preset has changed since.
"""

NOT_FOR_LEARNING = frozenset(
    {
        "run.name", "run.seed", "run.runs_dir", "run.ray_address", "run.detach", "run.max_hours",
        "run.until_return", "environment.game",
        "replay.urls", "replay.shards", "replay.append_fsync", "replay.shard_memory_bytes",
        "replay.frame_store_bytes", "learner.device", "learner.cpus", "learner.checkpoint_period",
        "learner.checkpoint_seconds", "run.checkpoints_to", "replay.urls_file", "replay.folder",
        "learner.keep_checkpoints", "learner.keep_every", "learner.diagnostics_period",
        "evaluation.every_env_steps", "evaluation.episodes", "evaluation.epsilon",
    }
)  # fmt: skip
"""Fields that a run may have otherwise than a measured one and still be like it; the length is none of them,
because the learning rate goes down over it."""


def agent_of(config: Config) -> str:
    """Return the published agent that a run resembles, as `--agent` names it; empty if its settings fit none.

    Kind of values, n and replay distinguish the published agents, and from Rainbow whether importance
    weights are used. A run that shares them but differs elsewhere is compared all the same. No run can
    resemble IQN.
    """
    if config.network.values == "c51" and config.replay.prioritized and not config.replay.importance_exponent:
        return ""
    return {
        ("scalar", 1, False): "dqn",
        ("c51", 1, False): "c51",
        ("c51", 3, True): "rainbow",
        ("quantile", 3, True): "qr-dqn",
    }.get((config.network.values, config.replay.n_step, config.replay.prioritized), "")


@dataclass(frozen=True)
class Expectation:
    """Published results to compare a run with, by its env steps; called with them it gives one line."""

    label: str
    window: int
    """Env steps that each mean is over."""
    means: Mapping[int, float]
    """Mean return by window, 0 for the first; windows may be missing."""
    total_env_steps: int

    def __call__(self, env_steps: float) -> str:
        """`Dopamine Rainbow (CNN): -20.5 up to 250,000 env steps, ...`: now, next, and at the run's end."""
        now = int(env_steps // self.window)
        last = max(now, (self.total_env_steps - 1) // self.window)
        windows = [window for window in sorted({now, now + 1, last}) if window in self.means]
        parts = [f"{self.means[w]:,.1f} up to {(w + 1) * self.window:,}" for w in windows if w <= last]
        return f"{self.label}: {', '.join(parts)} env steps" if parts else ""


def expectation(config: Config) -> Callable[[float], str]:
    """Return the console's line by env steps: a measured run of the same preset, else published seeds.

    Of a run that is like no published agent: Rainbow. Always empty for a game without either.
    """
    measured = _measured(config)
    if measured is not None:
        return measured
    encoder = config.network.encoder if config.network.encoder in ENCODERS else "nature"
    try:
        curve = published_curve(config.game_name, agent_of(config) or DEFAULT_AGENT, encoder)
    except NotPublished:
        return lambda _: ""
    means = {window: sum(curve.seeds(window)) / len(curve.seeds(window)) for window in curve.iterations}
    # Compared at equal numbers of emulator frames.
    window = WINDOW * FRAME_SKIP // config.environment.frames_per_env_step
    return Expectation(curve.label, window, means, config.run.total_env_steps)


def _measured(config: Config) -> Expectation | None:
    """A run of this very preset and game that was measured (docs/results.md), if it is one of those."""
    preset = PRESETS.get(config.run.preset)
    for run in json.loads(MEASURED.read_text(encoding="utf-8")):
        same = (run["preset"], run["game"]) == (config.run.preset, config.game_name.lower())
        if preset is not None and same and _learns_alike(config, preset):
            label = f"a run of this preset (seed {run['seed']})"
            means = dict(enumerate(run["means"]))
            return Expectation(label, run["window"], means, config.run.total_env_steps)
    return None


def _learns_alike(config: Config, preset: Config) -> bool:
    """Whether nothing that matters for learning differs from the preset but the game."""
    own, theirs = leaves(config), leaves(preset)
    changed = {path for path, value in own.items() if value != theirs[path]}
    return changed <= NOT_FOR_LEARNING

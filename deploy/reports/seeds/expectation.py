"""What to expect of a run and when: the results of the published agent that it resembles most."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

from deploy.reports.seeds.published import ENCODERS, WINDOW, NotPublished, published_curve
from deploy.run.config import Config, to_json
from deploy.run.presets import PRESETS

DEFAULT_AGENT = "rainbow"
MEASURED = resources.files("deploy.reports") / "data" / "measured_runs.json"
"""Runs of this project: preset, game, seed, and mean returns by window (benchmarks/measured_run.py)."""


def agent_of(config: Config) -> str:
    """Return the published agent that a run resembles, as `--agent` names it; empty if its settings fit none.

    Kind of values, n and replay distinguish the published agents. A run that shares them but differs
    elsewhere is compared all the same. No run can resemble IQN.
    """
    document = to_json(config)
    network, replay = document["network"], document["replay"]
    values = network.get("values") or ("c51" if network.get("distributional") else "scalar")
    return {
        ("scalar", 1, False): "dqn",
        ("c51", 1, False): "c51",
        ("c51", 3, True): "rainbow",
        ("quantile", 3, True): "qr-dqn",
    }.get((values, replay["n_step"], replay["prioritized"]), "")


@dataclass(frozen=True)
class Expectation:
    """What a run may be compared with, by its env steps; called with them it gives one line."""

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
    return Expectation(curve.label, WINDOW, means, config.run.total_env_steps)


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
    """Whether nothing that matters for learning was changed of the preset but the game."""
    game = dataclasses.replace(config.environment, game=preset.environment.game)
    ours = (config.network, config.exploration, game, config.learner.update_period, config.learner.batch_size)
    own = preset.learner
    theirs = (preset.network, preset.exploration, preset.environment, own.update_period, own.batch_size)
    return ours == theirs

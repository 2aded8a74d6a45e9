"""What to expect of a run and when: the results of the published agent that it resembles most."""

from collections.abc import Callable
from dataclasses import dataclass

from deploy.reports.seeds.published import ENCODERS, WINDOW, NotPublished, PublishedCurve, published_curve
from deploy.run.config import Config, to_json

DEFAULT_AGENT = "rainbow"


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
    """A published curve, read at a run's env steps; calling it with them returns one line."""

    curve: PublishedCurve
    total_env_steps: int

    def __call__(self, env_steps: float) -> str:
        """Format now, next and the end: `Dopamine Rainbow (CNN): -20.5 up to 250,000 env steps, ...`."""
        now = int(env_steps // WINDOW)
        last = max(now, (self.total_env_steps - 1) // WINDOW)
        windows = [w for w in self.curve.iterations if w in (now, now + 1, last)]
        parts = [f"{self._mean(w):,.1f} up to {(w + 1) * WINDOW:,}" for w in windows if w <= last]
        return f"{self.curve.label}: {', '.join(parts)} env steps" if parts else ""

    def _mean(self, window: int) -> float:
        seeds = self.curve.seeds(window)
        return sum(seeds) / len(seeds)


def expectation(config: Config) -> Callable[[float], str]:
    """Return a function from env steps to the console's line; always empty for games without seeds.

    A run that resembles no published agent is compared with Rainbow.
    """
    encoder = config.network.encoder if config.network.encoder in ENCODERS else "nature"
    try:
        curve = published_curve(config.game_name, agent_of(config) or DEFAULT_AGENT, encoder)
    except NotPublished:
        return lambda _: ""
    return Expectation(curve, config.run.total_env_steps)

"""What to expect of a run by when: what the published agent that it is most like came to."""

from collections.abc import Callable
from dataclasses import dataclass

from deploy.reports.seeds.published import ENCODERS, WINDOW, NotPublished, PublishedCurve, published_curve
from deploy.run.config import Config, to_json

DEFAULT_AGENT = "rainbow"


def agent_of(config: Config) -> str:
    """The published agent that a run is like, as `--agent` names it; empty where its settings do not say.

    By the kind of values, n and the replay, which tell the published agents apart. Others may have them in
    common with a run that differs elsewhere: it is compared all the same. No run can be like IQN.
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
    """A published curve, read at a run's env steps; called with them it gives one line."""

    curve: PublishedCurve
    total_env_steps: int

    def __call__(self, env_steps: float) -> str:
        """`Dopamine Rainbow (CNN): -20.5 up to 250,000 env steps, ...`: now, next, and at the run's end."""
        now = int(env_steps // WINDOW)
        last = max(now, (self.total_env_steps - 1) // WINDOW)
        windows = [w for w in self.curve.iterations if w in (now, now + 1, last)]
        parts = [f"{self._mean(w):,.1f} up to {(w + 1) * WINDOW:,}" for w in windows if w <= last]
        return f"{self.curve.label}: {', '.join(parts)} env steps" if parts else ""

    def _mean(self, window: int) -> float:
        seeds = self.curve.seeds(window)
        return sum(seeds) / len(seeds)


def expectation(config: Config) -> Callable[[float], str]:
    """The line for a run's console by its env steps; always empty for a game without published seeds.

    Of a run that is like no published agent: Rainbow.
    """
    encoder = config.network.encoder if config.network.encoder in ENCODERS else "nature"
    try:
        curve = published_curve(config.game_name, agent_of(config) or DEFAULT_AGENT, encoder)
    except NotPublished:
        return lambda _: ""
    return Expectation(curve, config.run.total_env_steps)

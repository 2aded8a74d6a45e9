"""`apexpert bench end-to-end`: agent steps per second of a whole run, next to the limit its parts allow.

The run is the production one: fleet on a local Ray, embedded shards, actors, learner. It counts what the
learner's sampler has received over a window of wall time that starts once warm-up and the limiter's slack
are used up, so that every step counted was also paid for in samples.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from deploy.bench import limits
from deploy.bench.errors import BenchmarkError
from deploy.run.config import Config, to_json, with_values
from deploy.run.folder import RunFolder
from deploy.run.presets import get_preset
from deploy.run.states import FINAL_STATES

WARM_UP = 3_000
"""Items inserted before the first update."""
START_SECONDS = 300.0
"""Maximum time for start, warm-up and settling."""
POLL_SECONDS, TELL_SECONDS = 0.5, 5.0
USUAL_START_SECONDS = 45.0
"""Start, warm-up and end of a run on two cores."""
SUFFIXES = {"same": "", "valid": "_valid"}
"""Behind the keys of each padding's results."""
ENDLESS = 10**9


def default_config() -> Config:
    """Return Nature, Soft MoE with 4 experts, Rainbow, batch 32 every 4 steps, Breakout, 1 actor, 8 games."""
    return with_values(
        get_preset("paper-rainbow"),
        network__encoder="nature",
        network__num_experts=4,
        environment__game="breakout",
        actors__num_actors=1,
        actors__envs_per_actor=8,
        learner__batch_size=32,
        learner__update_period=4,
    )


def run(
    config: Config | None = None,
    *,
    seconds: float = 60.0,
    repeats: int = 3,
    limit_seconds: float = 4.0,
    paddings: Sequence[str] = tuple(SUFFIXES),
    report: limits.Report = limits.silent,
) -> dict[str, Any]:
    """Measure `repeats` runs of `seconds` each for the `paddings` (SAME and VALID); return the medians.

    Keys: `agent_steps_per_s`, `ratio_of_limit`, `limit` and its parts, all again with the suffix `_valid`,
    `repeats` with every single measurement, and `config`. `report` receives a line about what comes next, and
    each measurement when it is done. Raises BenchmarkError when a run fails.
    """
    config = _for_measurement(config or default_config())
    result: dict[str, Any] = {"benchmark": "end-to-end", "seconds": seconds}
    singles: dict[str, list[dict[str, float]]] = {}
    for padding in paddings:
        padded = with_values(config, network__padding=padding)
        measured = singles[padding] = []
        for number in range(1, repeats + 1):
            run_name = f"{padding} padding, run {number} of {repeats}"
            report(f"{run_name}: about {_expected_seconds(seconds, limit_seconds):.0f} s")
            measured.append(_measure(padded, seconds, limit_seconds, report))
            report(f"{run_name}: " + ", ".join(f"{key} {value:.3g}" for key, value in measured[-1].items()))
        for key in measured[0]:
            # Each key's own median: the ratio need not be that of the other two medians.
            result[key + SUFFIXES[padding]] = statistics.median(m[key] for m in measured)
    return result | {"repeats": singles, "config": to_json(config)}


def _for_measurement(config: Config) -> Config:
    """Return `config` with a short warm-up, no end, and neither checkpoints nor evaluations in the window.

    Epsilon is low from the start: an exploring actor does not evaluate its network, and would be too fast.
    """
    return with_values(
        config,
        run__total_env_steps=ENDLESS,
        run__detach=False,
        replay__min_size=WARM_UP,
        exploration__epsilon_start=config.exploration.epsilon_end,
        learner__checkpoint_period=ENDLESS,
        learner__checkpoint_seconds=0.0,
        evaluation__every_env_steps=0,
    )


def _expected_seconds(seconds: float, limit_seconds: float) -> float:
    """Return how long a measurement of a run takes on two cores, roughly: its window, limits and the rest."""
    return seconds + 2 * 3 * limit_seconds + USUAL_START_SECONDS


def _measure(config: Config, seconds: float, limit_seconds: float, report: limits.Report) -> dict[str, float]:
    """Measure one run between two measurements of the limit and use their mean: machines drift in minutes."""
    before = limits.measure(config, seconds=limit_seconds, report=report)
    with tempfile.TemporaryDirectory() as runs_dir:
        speed = _measure_run(with_values(config, run__runs_dir=runs_dir, run__name="bench"), seconds, report)
    after = limits.measure(config, seconds=limit_seconds, report=report)
    parts = {key: (value + after[key]) / 2 for key, value in before.items()}
    return {**speed, "ratio_of_limit": speed["agent_steps_per_s"] / parts["limit"], **parts}


def _measure_run(config: Config, seconds: float, report: limits.Report) -> dict[str, float]:
    # Imported here: checking flags imports this module, and needs no Ray.
    from deploy.fleet import launch

    report("starting a run")
    folder = RunFolder.create(config)
    client = launch(config, folder, resume=False)
    try:
        _settle(config, client, report)
        report(f"measuring the run: {seconds:g} s")
        return _measure_window(client, seconds)
    finally:
        # In this order, so that the run ends by itself before its Ray is taken away.
        client.stop()
        client.wait_finished(60)
        client.shutdown()


def _settle(config: Config, client: Any, report: limits.Report) -> None:
    """Wait until twice the limiter's slack is inserted after the warm-up: from then on steps are paid for."""
    # The limiter's buffer in inserts, not samples: `fitting_error_buffer` (replay/owner/limiter.py)
    # divided by samples_per_insert, or the configured buffer where that is larger.
    slack = max(
        config.replay.error_buffer / config.samples_per_insert,
        config.learner.update_period + 2 * config.replay.segment_steps,
        0.1 * config.replay.min_size,
    )
    enough = config.replay.min_size + 2 * slack
    deadline, told = time.monotonic() + START_SECONDS, time.monotonic()
    while (inserted := _metric(client, "replay/inserted")) < enough:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the run did not get under way within {START_SECONDS:.0f} s")
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            report(f"warming up: {inserted:,.0f} of {enough:,.0f} env steps")
        time.sleep(POLL_SECONDS)


def _measure_window(client: Any, seconds: float) -> dict[str, float]:
    """Measure from one arrival to the first one `seconds` later, so that no fraction of a segment counts."""
    start_items, start = _next_arrival(client, _metric(client, "replay/inserted"))
    start_samples = _metric(client, "replay/sampled")
    items, now = start_items, start
    while now - start < seconds:
        items, now = _next_arrival(client, items)
    samples = _metric(client, "replay/sampled") - start_samples
    return {
        "agent_steps_per_s": (items - start_items) / (now - start),
        "learned_samples_per_s": samples / (now - start),
        # The learner's own number, over its last 20 seconds and not over this window.
        "waiting_share": _metric(client, "learner/waiting_share"),
        "window_s": now - start,
    }


def _next_arrival(client: Any, items: float) -> tuple[float, float]:
    deadline = time.monotonic() + START_SECONDS
    while (inserted := _metric(client, "replay/inserted")) <= items:
        if time.monotonic() > deadline:
            raise BenchmarkError("nothing was inserted for minutes")
        time.sleep(POLL_SECONDS)
    return inserted, time.monotonic()


def _metric(client: Any, name: str) -> float:
    # A run whose command sends no heartbeat for 10 s stops itself (docs/decisions/0005).
    client.heartbeat()
    status = client.status()
    if status["state"] in FINAL_STATES:
        raise BenchmarkError(f"the run is {status['state']}: {status['message']}")
    return float(status["metrics"].get(name, 0.0))

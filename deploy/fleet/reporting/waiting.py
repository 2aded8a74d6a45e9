"""Say in words what a run waits for that does not learn yet."""

from collections.abc import Mapping

SERVERS = "waiting for the replay's servers"
LEARNER = "waiting for the learner's process"
RESTORING = "waiting for the learner, which builds its network and loads its replay"


def waits_for(
    metrics: Mapping[str, float], *, learner_pid: int | None, learner_ready: bool, target: int, min_size: int
) -> str:
    """Return what a run whose servers answer waits for; empty once it learns.

    `learner_pid`: None until its process has reported. `target`: actors asked for. `min_size`: transitions
    inserted before the first update.
    """
    if learner_pid is None:
        return LEARNER
    if not learner_ready:
        return RESTORING
    if left := metrics.get("replay/refill", 0.0):
        return f"the replay is filled again: {left:,.0f} env steps before the next update"
    if metrics.get("progress/updates", 0.0) > 0.0:
        return ""
    # Not `replay/size`: what is stored shrinks when a shard is parked or full.
    inserted = metrics.get("replay/inserted", 0.0)
    if inserted == 0.0:
        return f"waiting for the first env steps of {target:,} actor{'s' if target > 1 else ''}"
    if inserted < min_size:
        return f"warm-up: {inserted:,.0f} of {min_size:,} transitions before the first update"
    return ""

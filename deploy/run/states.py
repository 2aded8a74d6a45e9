"""States of a run, as written to status.json."""

FINAL_STATES = frozenset({"finished", "stopped", "failed"})
"""States that a run leaves only by `resume`."""
EVALUATING = "evaluating"
"""The state of a run that is finished except for the evaluation of its last checkpoint."""

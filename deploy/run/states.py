"""States of a run, as status.json has them."""

FINAL_STATES = frozenset({"finished", "stopped", "failed"})
"""A run's states from which only `resume` leads."""
EVALUATING = "evaluating"
"""The state of a run that has finished but for the evaluation of its last checkpoint."""

"""States of a run, as written to status.json or as its readers find them."""

FINAL_STATES = frozenset({"finished", "stopped", "failed"})
"""States that a run leaves only by `resume`."""
LOST, NOT_STARTED = "lost", "not started"
"""States that status.json never has: a reader finds that no process is at work, or that none ever was."""
ENDED = FINAL_STATES | {LOST, NOT_STARTED}
"""States in which no process is at work on the run."""
EVALUATING = "evaluating"
"""The state of a run that is finished except for the evaluation of its last checkpoint."""

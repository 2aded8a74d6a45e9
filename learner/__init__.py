"""Learning: losses, the train step, checkpoints and the learner's loop."""

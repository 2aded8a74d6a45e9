"""The processes of a run: actor, learner, weight store, and the handles on them."""

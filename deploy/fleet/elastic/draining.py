"""Nodes that were told to drain, as a preemption notice does: actors leave them, and the learner saves."""

from collections.abc import Callable

from deploy.fleet.actor_fleet import ActorFleet
from deploy.fleet.elastic.room import Background
from deploy.fleet.learner_slot import LearnerSlot
from deploy.fleet.ray.private import draining_nodes

LOOK_SECONDS = 2.0
"""Notices come 30 s to two minutes ahead."""


class Draining:
    """Looks for such nodes every `LOOK_SECONDS`."""

    def __init__(
        self,
        learners_node: str,
        note: Callable[[str], None],
        look: Callable[[], dict[str, int]] = draining_nodes,
    ) -> None:
        """`look`: returns the ids of the draining nodes."""
        self._learners_node, self._note, self._look = learners_node, note, Background(look)
        self._next_look = 0.0
        self._known: set[str] = set()

    def step(self, now: float, learner: LearnerSlot, actors: ActorFleet) -> None:
        """Have actors on nodes that drain write their segments and leave; others come elsewhere.

        On the learner's own node it writes a checkpoint, once for each notice.
        """
        if now < self._next_look or (found := self._look.answer()) is None:
            return
        self._next_look, draining = now + LOOK_SECONDS, set(found)
        new, self._known = draining - self._known, draining
        if self._learners_node in new:
            learner.save()
            self._note(
                f"the learner's node {self._learners_node[:8]} is to end: a checkpoint is written at once"
            )
        # At each look: an actor that was about to start there answers only now.
        if draining and (left := actors.leave_nodes(draining)):
            nodes = ", ".join(sorted(node[:8] for node in draining))
            self._note(f"node {nodes} is to end: its {left} actors leave first, and others take their places")

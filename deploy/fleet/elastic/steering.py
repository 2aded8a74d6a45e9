"""Keeps a run's actors as many as it has use and room for, and off nodes that end; says who is the limit."""

import time
from collections.abc import Callable

from actors.config import ActorRange, Actors
from deploy.fleet.actor_fleet import ActorFleet
from deploy.fleet.elastic.bottleneck import Bottleneck
from deploy.fleet.elastic.draining import Draining
from deploy.fleet.elastic.policy import Change, ElasticPolicy
from deploy.fleet.elastic.room import Room
from deploy.fleet.learner_slot import LearnerSlot
from deploy.fleet.reporting.actor_metrics import FleetReport, fleet_metrics
from deploy.fleet.run_state import FleetState
from deploy.run.config import Config


class Steering:
    """One a run; `step` belongs to the supervisor's loop."""

    def __init__(
        self, config: Config, state: FleetState, room: Room, node_id: str, note: Callable[[str], None]
    ) -> None:
        """`node_id`: the learner's node. Chooses a target at once where the run may, and has none yet."""
        self._config, self._state, self._room, self._note = config, state, room, note
        self._policy = ElasticPolicy(time.monotonic())
        self._bottleneck = Bottleneck(config.learner.update_period)
        self._draining = Draining(node_id, note)
        self._asked: Actors = state.asked
        if self._range.is_elastic:
            cores = room.at_start()
            self._bring_into_range(cores, f"there are cores for {cores:,}")

    def step(self, learner: LearnerSlot, actors: ActorFleet, report: FleetReport) -> None:
        """Look at the fleet, whose `report` is of this moment; call it about once a second."""
        now = time.monotonic()
        self._draining.step(now, learner, actors)
        if self._state.asked != self._asked and (cores := self._room.look()) is not None:
            self._asked = self._state.asked
            self._bring_into_range(cores[0], "what is asked for has changed")
            self._policy.restart(now)
        if not learner.ready or not learner.metrics.get("progress/updates"):
            # Before, everybody waits for something else: the warm-up, a restore.
            self._policy.restart(now)
            return
        fleet = fleet_metrics(report, {})
        self._policy.observe(
            now,
            fleet.get("actors/waiting_share", 0.0),
            learner.metrics.get("learner/waiting_share", 0.0),
            fleet.get("speed/actor_steps_per_s", 0.0),
        )
        if self._policy.is_due(now) and (cores := self._room.look()) is not None:
            self._decide(report, *cores)
            self._policy.restart(now)

    @property
    def _range(self) -> ActorRange:
        return ActorRange.parse(self._asked)

    def _bring_into_range(self, cores: int, reason: str) -> None:
        """Choose the target nearest to the one before; where there was none, one for each core."""
        before = self._state.target
        target = self._range.nearest(before or cores, cores)
        if target != before:
            self._apply(Change(target, reason))

    def _decide(self, report: FleetReport, fewest: int, most: int) -> None:
        """End a period: `fewest` and `most` actors are what there are cores for."""
        allowed, target = self._range, self._state.target
        change: Change | None = None
        if allowed.is_elastic:
            # The end of a range is the user's word: actors beyond the cores wait, which an autoscaler sees.
            bound = allowed.most if allowed.most is not None else max(fewest, min(most, target))
            change = self._policy.decide(target, allowed.least, bound, pending=target - report.alive)
        more = self._how_to_have_more(change, fewest)
        if line := self._bottleneck.news(self._policy.shares, actors=report.alive, more=more):
            self._note(line)
        if change is not None:
            self._apply(change)

    def _how_to_have_more(self, change: Change | None, cores: int) -> str:
        target = self._state.target
        if change is not None and change.target > target:
            return f"{change.target - target:,} more start"
        if self._range.is_elastic:
            return f"{self._asked} allows no more of them now"
        if cores <= target:
            return "more of them need more cores"
        return f"more actors: apexpert scale {self._config.run.name} --actors auto:{target}-{cores}"

    def _apply(self, change: Change) -> None:
        before = self._state.target
        self._state.target = change.target
        self._note(f"actors {before:,} -> {change.target:,} ({self._asked}): {change.reason}")

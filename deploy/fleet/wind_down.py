"""The end of a run: actors drain, the learner saves, the last checkpoint is evaluated, a curve is drawn."""

import logging
from collections.abc import Callable
from typing import Any

from deploy.fleet.parts import Parts
from deploy.fleet.reporting.telemetry import Telemetry
from deploy.run.folder import RunFolder

logger = logging.getLogger(__name__)

DRAIN_SECONDS, TERMINATED_DRAIN_SECONDS = 10.0, 2.0
"""The second after SIGTERM, which servers and Ray most likely got as well: there is nowhere to write to."""
LAST_SAVE_SECONDS = 120.0


class WindDown:
    """Ends a run's parts in order. Whatever fails on the way, the rest is done."""

    def __init__(
        self, parts: Parts | None, telemetry: Telemetry, *, terminated: bool, waiting: Callable[[], bool]
    ) -> None:
        """`parts` None: the run had not come so far. `waiting` is called several times a second, and says
        whether somebody wants the end at once."""
        self._parts, self._telemetry = parts, telemetry
        self._terminated, self._waiting = terminated, waiting

    def stop_parts(self) -> str:
        """Drain the actors and have the learner save; why it could not, empty if it could."""
        parts = self._parts
        if parts is None:
            return ""
        attempt(lambda: self._drain(parts))
        attempt(lambda: self._stop_learner(parts))
        return parts.learner.unsaved

    def _drain(self, parts: Parts) -> None:
        if self._terminated:
            # Save while the actors drain: after SIGTERM there are only seconds for both.
            parts.learner.tell_to_stop()
        seconds = TERMINATED_DRAIN_SECONDS if self._terminated else DRAIN_SECONDS
        self._telemetry.add_episodes(parts.actors.drain(seconds))

    def _stop_learner(self, parts: Parts) -> None:
        metrics = parts.learner.stop(LAST_SAVE_SECONDS, self._waiting)
        self._telemetry.update(metrics, parts.actors.report())

    def end_evaluations(self, *, finished: bool) -> None:
        """Evaluate a finished run's last checkpoint, unless somebody wants the end at once."""
        parts = self._parts
        if parts is not None and finished:
            attempt(lambda: parts.evaluator.finish(self._waiting))
        elif parts is not None:
            attempt(parts.evaluator.cancel)


def attempt(step: Callable[[], Any]) -> None:
    """Make a step of the end: nobody is left to handle what it raises, and other steps have to follow."""
    try:
        step()
    except Exception:
        logger.exception("winding down")


def draw_curve(folder: RunFolder) -> None:
    """Draw the learning curve of a run that has no command which would."""
    # Imported here, because matplotlib would delay every start.
    from deploy.reports.curves.run_curves import CurveError
    from deploy.reports.curves.single_runs import draw_learning_curve

    try:
        draw_learning_curve(folder.path)
    except CurveError as error:
        logger.info("no learning curve: %s", error)

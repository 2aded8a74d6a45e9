"""How many actors a run shall have, by who waits for whom. Does not use Ray.

Every minute: fewer where the limiter holds the actors back, more where the learner waits for them. Both are
means over the minute, so that a pause for a checkpoint or a long episode's end decides nothing.
"""

import math
from dataclasses import dataclass, field

PERIOD_SECONDS = 60.0
SETTLE_SECONDS = 20.0
"""After a change the shares still hold the time before it: they are means over 10 and 20 s."""
HELD_BACK, LEARNER_WAITS = 0.20, 0.05
"""Shares of time above which the actors are too many, or too few."""
SPARE = 0.10
"""Share of time for which actors may wait after some have left; without it, more would join at once."""
MOST_LESS, MORE = 0.20, 0.25
"""Share of the actors that leaves at once at most, and that joins."""
MOST_PATIENCE = 32
"""Periods that a change of direction may have to wait for."""


@dataclass
class Shares:
    """Means over a period of who waits for whom; the looks are evenly spaced."""

    held_back: float = 0.0
    """Share of the actors' time in [0, 1] for which the limiter holds them back."""
    learner_waits: float = 0.0
    """Share of the learner's time in [0, 1] for which nothing may be drawn."""
    env_steps_per_s: float = 0.0
    """Of all actors."""
    looks: int = 0

    def add(self, held_back: float, learner_waits: float, env_steps_per_s: float) -> None:
        """Add one look."""
        self.looks += 1
        self.held_back += (held_back - self.held_back) / self.looks
        self.learner_waits += (learner_waits - self.learner_waits) / self.looks
        self.env_steps_per_s += (env_steps_per_s - self.env_steps_per_s) / self.looks


@dataclass(frozen=True)
class Change:
    """Another number of actors, and why."""

    target: int
    reason: str


@dataclass
class ElasticPolicy:
    """Decides once a minute. Times are monotonic seconds."""

    began: float
    shares: Shares = field(default_factory=Shares)
    """Of the period that runs."""
    _direction: int = 0
    """Of the last change: -1 fewer, 1 more, 0 before the first."""
    _patience: int = 1
    """Periods that have to be over since the last change before the direction changes."""
    _unchanged: int = 0
    """Periods since the last change."""

    def observe(self, now: float, held_back: float, learner_waits: float, env_steps_per_s: float) -> None:
        """Take a look in (see `Shares`)."""
        if now - self.began >= SETTLE_SECONDS:
            self.shares.add(held_back, learner_waits, env_steps_per_s)

    def restart(self, now: float) -> None:
        """Begin a new period: what was seen so far is of another time, as before the learner was back."""
        self.began, self.shares = now, Shares()

    def is_due(self, now: float) -> bool:
        """Whether a period is over; `decide` and `restart` follow."""
        return now - self.began >= PERIOD_SECONDS and self.shares.looks > 0

    def decide(self, target: int, least: int, most: int, pending: int) -> Change | None:
        """Return the number of actors for the next period; None if it stays.

        `pending`: actors asked for that are not at work yet. The answer is within `least` and `most`, and a
        target beyond them is brought back whatever the shares are.
        """
        self._unchanged += 1
        if not least <= target <= most:
            return self._changed(Change(min(max(target, least), most), f"{least} to {most} are to be had"))
        change = wanted(target, self.shares, pending)
        if change is None:
            return None
        bounded = min(max(change.target, least), most)
        direction = (bounded > target) - (bounded < target)
        if not direction or (direction == -self._direction and self._unchanged < self._patience):
            return None
        return self._changed(Change(bounded, change.reason), direction)

    def _changed(self, change: Change, direction: int = 0) -> Change:
        """Note a change: one of direction makes the next of its kind wait twice as long."""
        if direction:
            if self._unchanged >= 2 * MOST_PATIENCE:
                self._patience = 1
            elif direction == -self._direction:
                self._patience = min(2 * self._patience, MOST_PATIENCE)
            self._direction = direction
        self._unchanged = 0
        return change


def wanted(target: int, shares: Shares, pending: int) -> Change | None:
    """Return how many actors would do by a period's shares; None if `target` of them do.

    Where both wait, for a server or for each other's segments, another number of actors helps neither.
    """
    if shares.held_back > HELD_BACK and shares.learner_waits <= LEARNER_WAITS:
        # So many do the same work without waiting for more than SPARE of the time.
        enough = math.ceil(target * (1 - shares.held_back) / (1 - SPARE))
        fewer = max(enough, target - max(1, math.floor(MOST_LESS * target)))
        reason = f"the limiter holds them back {100 * shares.held_back:.0f} % of the time"
        return Change(fewer, reason) if fewer < target else None
    if shares.learner_waits > LEARNER_WAITS and shares.held_back <= HELD_BACK and not pending:
        reason = f"the learner waits for them {100 * shares.learner_waits:.0f} % of the time"
        return Change(target + math.ceil(MORE * target), reason)
    return None

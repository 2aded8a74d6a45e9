"""Says who is the limit of a run, its actors or its learner, by who waits for whom. Does not use Ray."""

from deploy.fleet.elastic.policy import HELD_BACK, LEARNER_WAITS, Shares

ACTORS, LEARNER, NEITHER = "actors", "learner", ""


def limit_of(shares: Shares) -> str:
    """Return who is the limit; NEITHER where both hardly wait, or both do."""
    starved, held = shares.learner_waits > LEARNER_WAITS, shares.held_back > HELD_BACK
    if starved == held:
        return NEITHER
    return ACTORS if starved else LEARNER


class Bottleneck:
    """Reports the limit once, and again when it has changed."""

    def __init__(self, update_period: int) -> None:
        """`update_period`: env steps that each update is paid with."""
        self._update_period = update_period
        self._told = NEITHER

    def news(self, shares: Shares, *, actors: int, more: str) -> str:
        """Return a line about a limit that is not the one told of last; empty for none.

        `actors`: how many are at work. `more`: how to have more of them.
        """
        limit = limit_of(shares)
        # In between, nothing is said: the limit may be the same again a minute later.
        if limit in (NEITHER, self._told) or not actors:
            return ""
        self._told = limit
        fed = shares.env_steps_per_s / self._update_period
        if limit == ACTORS:
            waits = f"the learner waits {100 * shares.learner_waits:.0f} % of the time"
            return (
                f"the actors, not the learner, are the limit: {shares.env_steps_per_s:,.0f} env steps/s of"
                f" {actors:,} feed {fed:,.1f} updates/s, and {waits}; {more}"
            )
        could = fed / max(1 - shares.held_back, 1e-2)
        wait = f"they wait {100 * shares.held_back:.0f} % of the time"
        return (
            f"the learner, not the actors, is the limit: {actors:,} could feed {could:,.1f} updates/s,"
            f" it makes {fed:,.1f}, and {wait}"
        )

"""Where an actor's weights come from."""

from typing import Protocol

from models.arrays import Weights


class WeightsSource(Protocol):
    """Where an actor gets its weights."""

    def ask(self) -> None:
        """Request the newest weights without waiting for them."""

    def take(self, wait: bool = False) -> Weights | None:
        """Return the requested weights if they have arrived and are newer than the last returned, else None.

        With `wait`, request any newer weights and possibly block for a short while.
        """

    def renew(self) -> Weights | None:
        """Request the weights that are the newest now, and return them if they come within a moment.

        Weights requested before may be returned in their place when the answer takes longer.
        """

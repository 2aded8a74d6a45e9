"""A run's recent episodes, in total and by exploration band, and the means reported of them."""

import itertools
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from actors.episodes import Episode
from deploy.monitor.bands import BANDS, GREEDY, RETURN, band_of

LAST = 100


class RecentEpisodes:
    """The last 100 episodes in total, and the last 100 of each band."""

    def __init__(self, rows: Iterable[Any] = ()) -> None:
        """`rows`: from `rows()`, or pairs of return and length, as versions before bands wrote them."""
        self._number = itertools.count()
        self._all: deque[tuple[int, Episode]] = deque(maxlen=LAST)
        self._by_band = {band: deque[tuple[int, Episode]](maxlen=LAST) for band in BANDS}
        for row in rows:
            self.add(_parse(row))

    def add(self, episode: Episode) -> None:
        """Add an episode that has just ended; one of unknown epsilon is in no band."""
        # Numbered, because an episode is in two deques and `rows` must name it once.
        numbered = next(self._number), episode
        self._all.append(numbered)
        if episode.epsilon is not None:
            self._by_band[band_of(episode.epsilon)].append(numbered)

    def metrics(self) -> dict[str, float]:
        """Return mean returns and length; bands without episodes are left out."""
        if not self._all:
            return {}
        last = [episode for _, episode in self._all]
        return {
            RETURN: statistics.fmean(episode.return_ for episode in last),
            "episode/length_mean_100": statistics.fmean(episode.length for episode in last),
            **{
                band.metric: statistics.fmean(episode.return_ for _, episode in kept)
                for band, kept in self._by_band.items()
                if kept
            },
        }

    def greedy_return(self) -> float | None:
        """Return the mean return of the last 100 nearly greedy episodes; None while there are fewer."""
        kept = self._by_band[GREEDY]
        return statistics.fmean(e.return_ for _, e in kept) if len(kept) == LAST else None

    def rows(self) -> list[dict[str, Any]]:
        """Return every episode that one of the means includes, oldest first, JSON-able."""
        kept = dict(itertools.chain(self._all, *self._by_band.values()))
        return [_row(kept[number]) for number in sorted(kept)]


def _row(episode: Episode) -> dict[str, Any]:
    return {
        "return": episode.return_,
        "length": episode.length,
        "env_slot": episode.env_slot,
        "epsilon": episode.epsilon,
    }


def _parse(row: Any) -> Episode:
    if isinstance(row, Mapping):
        return Episode(row["return"], row["length"], row.get("env_slot"), row.get("epsilon"))
    return Episode(*row)

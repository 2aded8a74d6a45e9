"""Shows a study while it is driven: its runs, what is left, and for how long."""

import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy.monitor.bands import last_return
from deploy.monitor.console import Pace, duration, env_steps, seconds_left
from deploy.monitor.terminal import terminal
from deploy.study.driver import WAITING, RunState

MOST_ROWS = 30
PLAIN_PERIOD_SECONDS = 60.0


class StudyTable:
    """On a terminal a table that refreshes; elsewhere a line at each change of state, and one a minute."""

    def __init__(self, title: str, at_once: int, *, out: Console | None = None) -> None:
        self._out = out or terminal()
        self._title, self._at_once = title, at_once
        self._paces: dict[str, Pace] = {}
        self._shown: dict[str, str] = {}
        self._last_line = time.monotonic()
        self._live = Live(console=self._out, refresh_per_second=4) if self._out.is_terminal else None
        if self._live:
            self._live.start()

    def update(self, states: Sequence[RunState]) -> None:
        """Show the runs as they are now."""
        for state in states:
            if state.status.get("metrics") and state.at_work:
                self._paces.setdefault(state.planned.name, Pace()).add(state.status)
        if self._live:
            self._live.update(Group(Text(self.summary(states)), self._table(states)))
        else:
            self._print_changes(states)

    def close(self) -> None:
        """Leave the last picture on screen and release the terminal."""
        if self._live:
            self._live.stop()

    def summary(self, states: Sequence[RunState]) -> str:
        """Return one line: how many runs are in which state, and the time left."""
        counts = Counter("at work" if state.at_work else state.state for state in states)
        words = [f"{counts.pop('finished', 0)} of {len(states)} finished"]
        words += [f"{count} {name}" for name, count in counts.items()]
        left = self.left(states)
        return f"{self._title}: {', '.join(words)}" + (f"; about {duration(left)} left" if left else "")

    def left(self, states: Sequence[RunState]) -> float | None:
        """Return the seconds until all runs have finished, by their pace so far; None while it is unknown."""
        known = {id(state): left for state in states if (left := self._left_of(state)) is not None}
        whole = [
            seconds_of(state) + known.get(id(state), 0.0)
            for state in states
            if id(state) in known or (state.state == "finished" and seconds_of(state))
        ]
        if not whole:
            return None
        mean, open_ones = sum(whole) / len(whole), [state for state in states if not state.over]
        # A run without a pace, as one that starts, evaluates or waits to be resumed, takes as long as others.
        total = sum(known.get(id(state), max(mean - seconds_of(state), 0.0)) for state in open_ones)
        return total / max(min(self._at_once, len(open_ones)), 1)

    def _left_of(self, state: RunState) -> float | None:
        if not state.at_work or "total_env_steps" not in state.status:
            return None
        return seconds_left(state.status, self._paces.get(state.planned.name, Pace()).rate)

    def _table(self, states: Sequence[RunState]) -> Table:
        table = Table("run", "state", "env steps", "return", "left", box=None, pad_edge=False)
        begun = [state for state in states if state.state != WAITING]
        # All that is at work or has failed, and of the others the last.
        begun.sort(key=lambda state: state.at_work or state.state == "failed")
        for state in begun[-MOST_ROWS:]:
            table.add_row(state.planned.name, state.state, *self._row(state), state.message)
        return table

    def _row(self, state: RunState) -> tuple[str, str, str]:
        if "total_env_steps" not in state.status:
            return "-", "-", "-"
        score = last_return(state.status["metrics"])
        steps = f"{int(env_steps(state.status)):,} / {state.status['total_env_steps']:,}"
        left = duration(self._left_of(state)) if state.at_work else ""
        return steps, "-" if score is None else f"{score:.2f}", left

    def _print_changes(self, states: Sequence[RunState]) -> None:
        for state in states:
            if self._shown.get(state.planned.name, WAITING) != state.state:
                self._shown[state.planned.name] = state.state
                steps, score, _ = self._row(state)
                words = f"{state.planned.name}: {state.state}, {steps} env steps, return {score}"
                self._print(f"{words}; {state.message}" if state.message else words)
        if time.monotonic() - self._last_line > PLAIN_PERIOD_SECONDS:
            self._last_line = time.monotonic()
            self._print(self.summary(states))

    def _print(self, text: str) -> None:
        self._out.print(Text(text), soft_wrap=True)


def seconds_of(state: RunState) -> float:
    """Return how long a run has taken in all its legs; 0 if it is unknown."""
    return float(state.status.get("metrics", {}).get("progress/seconds", 0.0))

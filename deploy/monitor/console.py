"""The live console of a run: a table that refreshes in place, or plain lines when not on a terminal."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console as RichConsole
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from deploy.monitor.bands import GREEDY, greedy_return
from deploy.monitor.terminal import plain_rows, terminal
from deploy.run.states import ENDED

PLAIN_PERIOD_SECONDS = 10.0
OF_THE_MOMENT = ("speed/", "learner/waiting_share", "actors/weights_age_updates", "actors/alive")
"""Metrics, or beginnings of their names, that say nothing of a run that has ended."""


class Console:
    """Shows a run's status while it is active.

    On a terminal: a progress bar in env steps with the time left, and a table. Elsewhere (`plain`): one line
    at once, one every ten seconds, and one at each change of state.
    """

    def __init__(
        self,
        title: str,
        *,
        plain: bool | None = None,
        out: RichConsole | None = None,
        expects: Callable[[float], str] = lambda _: "",
    ) -> None:
        """`expects`: line about what others had reached by an env step; empty where nothing is known."""
        self._out = out or terminal()
        self._plain = (not self._out.is_terminal) if plain is None else plain
        self._title, self._expects = title, expects
        self._pace = Pace()
        self._last_line = 0.0
        self._last_state = ""
        self._last_expected = ""
        self._notes_shown: set[str] = set()
        self._live: Live | None = None
        if not self._plain:
            self._live = Live(console=self._out, refresh_per_second=4, transient=False)
            self._live.start()

    def update(self, status: Mapping[str, Any]) -> None:
        """Show `status` (the supervisor's, see its `status`)."""
        self._pace.add(status)
        left = seconds_left(status, self._pace.rate)
        for note in status.get("notes", ()):
            if note not in self._notes_shown:
                self._notes_shown.add(note)
                self._print(note)
        if self._live is not None:
            self._live.update(render(self._title, status, left, self._expects(env_steps(status))))
        elif self._line_due(status):
            self._print(line(status, left))
            self._print_expected(self._expects(env_steps(status)))

    def _print(self, text: str) -> None:
        self._out.print(Text(text), soft_wrap=True)

    def _print_expected(self, text: str) -> None:
        """Print the line about published results if it has changed."""
        if text not in ("", self._last_expected):
            self._last_expected = text
            self._print(f"expected: {text}")

    def _line_due(self, status: Mapping[str, Any]) -> bool:
        now = time.monotonic()
        due = now - self._last_line >= PLAIN_PERIOD_SECONDS or status["state"] != self._last_state
        if due:
            self._last_line, self._last_state = now, status["state"]
        return due

    def close(self) -> None:
        """Leave the last picture on screen and release the terminal."""
        if self._live is not None:
            self._live.stop()


class Pace:
    """Env steps per second over about the last minute."""

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []
        self._first_updates: float | None = None

    def add(self, status: Mapping[str, Any]) -> None:
        """Record the count at this moment, once the run learns.

        Its warm-up is many times as fast, and counts from its start or its restore have no pace at all.
        """
        metrics = status["metrics"]
        if status["state"] != "running" or "progress/env_steps" not in metrics:
            return
        updates = metrics.get("progress/updates", 0.0)
        if self._first_updates is None:
            self._first_updates = updates
        if updates > self._first_updates:
            now = time.monotonic()
            point = (now, metrics["progress/env_steps"])
            self._points = [p for p in self._points if now - p[0] < 60.0] + [point]

    @property
    def rate(self) -> float:
        """Env steps per second; 0 before there are two points."""
        if not self._points:
            return 0.0
        (t0, n0), (t1, n1) = self._points[0], self._points[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0


def env_steps(status: Mapping[str, Any]) -> float:
    """Return the env steps that the learner has counted; 0 before it has reported any."""
    return float(status["metrics"].get("progress/env_steps", 0.0))


def seconds_left(status: Mapping[str, Any], rate: float) -> float | None:
    """Return the seconds until `total_env_steps` at `rate` env steps per second; None if unknown.

    A run that stops, or has ended, has no time left.
    """
    missing = status["total_env_steps"] - env_steps(status)
    return missing / rate if rate > 0 and missing > 0 and status["state"] == "running" else None


def time_left(status: Mapping[str, Any], left: float | None) -> str:
    """Return `0:10:00 left`, `- left` while that is unknown; empty before it runs and when it ends."""
    return f"{duration(left)} left" if status["state"] == "running" else ""


def duration(seconds: float | None) -> str:
    """Format seconds as `1:02:03`, or `-` for None."""
    if seconds is None:
        return "-"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


def rows(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the console's pairs of label and value, of what is known."""
    m = status["metrics"]
    if status["state"] in ENDED:
        m = {name: value for name, value in m.items() if not name.startswith(OF_THE_MOMENT)}

    def show(name: str, form: str = ",.0f", scale: float = 1.0) -> str:
        return format(m[name] * scale, form) if name in m else "-"

    def text(name: str, value: str, unknown: str = "-") -> str:
        return value if name in m else unknown

    returns = f"{show('episode/return_mean_100', '.2f')} (last 100 of {show('episode/count')} episodes)"
    if greedy := greedy_return(m, ".2f"):
        returns += f", {greedy} (last 100 with epsilon up to {GREEDY.highest_epsilon:g})"
    epsilon = show("actors/epsilon", ".3g")
    if "actors/epsilon_min" in m:
        epsilon += f" ({show('actors/epsilon_min', '.2g')} to {show('actors/epsilon_max', '.2g')})"
    # Both counters are 0 while all is well, and get a row only when they are not.
    troubles = {"refused rewards": "actors/refused_rewards", "writer retries": "writer/retries"}
    speed = text("speed/updates_per_s", f" at {show('speed/updates_per_s', ',.1f')}/s", "")
    replay = f"{show('replay/size')} transitions, {show('replay/fill', '.0f', 100)} % full"
    failing = f", {show('checkpoint/upload_failures')} failed" if m.get("checkpoint/upload_failures") else ""
    found = [
        ("return", text("episode/return_mean_100", returns)),
        ("actor steps/s", show("speed/actor_steps_per_s", ",.1f")),
        ("updates", show("progress/updates") + speed),
        (
            "loss",
            text("learner/loss", f"{show('learner/loss', '.4f')}, mean Q {show('learner/q_mean', '.3f')}"),
        ),
        ("samples per insert", show("replay/samples_per_insert", ".3f")),
        (
            "learner waiting",
            text("learner/waiting_share", f"{show('learner/waiting_share', '.0f', 100)} %"),
        ),
        (
            "weights age",
            text("actors/weights_age_updates", f"{show('actors/weights_age_updates', ',.0f')} updates"),
        ),
        ("replay", text("replay/size", f"{replay}, {show('replay/bytes', ',.1f', 1 / 1e6)} MB")),
        ("actors alive", text("actors/alive", f"{show('actors/alive')} of {status['target_actors']}")),
        ("epsilon", text("actors/epsilon", epsilon)),
        (
            "uploaded",
            text("checkpoint/upload_age_s", f"{duration(m.get('checkpoint/upload_age_s'))} ago{failing}"),
        ),
        *((label, show(name)) for label, name in troubles.items() if m.get(name)),
    ]
    return [(label, value) for label, value in found if value != "-"]


def render(title: str, status: Mapping[str, Any], left: float | None, expected: str = "") -> Group:
    """Return the picture for a terminal; `expected`: what others had reached by now."""
    progress = Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,}/{task.total:,}"),
        # rich's own estimate would know a single moment, as each picture has a new Progress.
        TextColumn(", ".join(filter(None, ["env steps", time_left(status, left)]))),
    )
    done = int(env_steps(status))
    progress.add_task("", total=status["total_env_steps"], completed=done)
    shown = rows(status)
    if expected:
        shown.append(("expected", expected))
    if status.get("message"):
        shown.append(("", str(status["message"])))
    # The state on a line of its own: beside the bar, a long name would push it out of a narrow terminal.
    return Group(Text(f"{title} [{status['state']}]"), progress, plain_rows(*shown))


def line(status: Mapping[str, Any], left: float | None) -> str:
    """Return the same as one plain line."""
    done = int(env_steps(status))
    total = status["total_env_steps"]
    parts = [f"{status['state']}: {done:,}/{total:,} env steps", time_left(status, left)]
    parts += [f"{label} {value}" for label, value in rows(status)]
    parts.append(str(status.get("message", "")))
    return " | ".join(filter(None, parts))

"""Prints the rows of `apexpert bands`."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from deploy.monitor.terminal import print_whole
from deploy.reports.seeds.band_power import Detection, PowerRow
from deploy.reports.seeds.bands import Bands, Compared
from deploy.reports.seeds.episodes import RunEpisodes
from deploy.reports.seeds.published import PredictionInterval, PublishedCurve


def print_bands(name: str, run: RunEpisodes, bands: Bands) -> None:
    """Print one row per window, one for their mean, and which episodes do not count."""
    print(f"{name}: {bands.curve.game}, beside {bands.curve.label}")
    table = _table("M frames", "episodes", "mean", "error", "seeds", "range", "99 % for one more", "")
    for row in bands.rows:
        verdict = row.verdict if row.complete else "not whole"
        table.add_row(_frames(row.window), f"{row.episodes:,}", *_compared(row.compared), verdict)
    if bands.overall is not None and len(bands.rows) > 1:
        table.add_row("whole ones", "", *_compared(bands.overall), bands.overall.verdict)
    print_whole(table)
    for line in remarks(run):
        print(line)


def remarks(run: RunEpisodes) -> list[str]:
    """Return which episodes do not count, and where the record begins late."""
    ended = "cut by the run's end" if run.ended else "still open"
    lines = [
        f"  {len(run.kept):,} episodes count; not among them: {run.dropped:,} beyond a checkpoint that a"
        f" resume went back to, {run.cut.by_resume:,} cut by a resume or an actor's end,"
        f" {run.cut.by_end:,} {ended}"
    ]
    if run.first_env_steps:
        lines.append(f"  no record of the episodes of the first {run.first_env_steps:,} env steps")
    return lines


def print_power(curve: PublishedCurve, rows: Sequence[PowerRow]) -> None:
    """Print one row per window: whether a frozen run, and one with half the gain, would fall outside."""
    print(f"{curve.game}: {curve.label}, {len(curve.seeds(0))} seeds")
    table = _table(
        "M frames", "seeds", "99 % for one more", "frozen", "half the gain", "all up to it", "frozen", "half"
    )
    for row in rows:
        over = _detection(row.overall)
        table.add_row(_frames(row.window), *_detection(row.alone), *over[1:])
    print_whole(table)
    print(f"  a run frozen at its first window falls outside in {_windows(rows, 'frozen')}")
    print(f"  a run with half the gain falls outside in {_windows(rows, 'half')}")


def _windows(rows: Sequence[PowerRow], failing: str) -> str:
    """Return the windows in which that failing run is outside, by their place."""
    found = [str(row.window + 1) for row in rows if getattr(row.alone, failing, "inside") != "inside"]
    return f"window {', '.join(found)}" if found else "no window"


def _detection(found: Detection | None) -> tuple[str, ...]:
    if found is None:
        return ("-",) * 4
    return f"{found.interval.mean:,.2f}", _ends(found.interval), found.frozen, found.half


def _compared(compared: Compared) -> tuple[str, ...]:
    seeds = compared.seeds
    return (
        "-" if compared.mean is None else f"{compared.mean:,.2f}",
        # NaN, the error of fewer than two episodes, is not equal to itself.
        f"{compared.error:,.2f}" if compared.error == compared.error else "-",
        f"{np.mean(seeds):,.2f}" if seeds else "-",
        f"{min(seeds):,.1f} to {max(seeds):,.1f}" if seeds else "-",
        "-" if compared.interval is None else _ends(compared.interval),
    )


def _ends(interval: PredictionInterval) -> str:
    return f"{interval.low:,.2f} to {interval.high:,.2f}"


def _frames(window: int) -> str:
    return f"{window} to {window + 1}"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table

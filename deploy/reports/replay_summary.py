"""Summarises a run's replay, as one JSON-able document and as tables to print."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from replay.tools.inventory import Inventory, checkpoint_masses
from replay.tools.mass_summary import summarise_masses
from replay.tools.stored_shard import StoredShard

BARS = " ▁▂▃▄▅▆▇█"
POINTS = (0, 0.5, 1)
AS_OF = ("checkpoint", "update", "env_steps", "age_seconds")
TICKETS = ("reserved", "allowed", "outstanding")


class KnownMasses(NamedTuple):
    """The sampler's part of the newest checkpoint, the source of known masses."""

    checkpoint: str
    update: int
    env_steps: int
    age_seconds: float
    """Since the checkpoint was written here."""
    arrays: Mapping[str, NDArray[Any]]


def summarise(
    run: str,
    shards: Sequence[StoredShard],
    inventory: Inventory,
    *,
    live: bool,
    masses: KnownMasses | None,
    counters: Mapping[str, float],
) -> dict[str, Any]:
    """Return the document; without `masses` it contains none.

    Ages are in seconds before now, by the shards' clocks; bytes are those of encoded segments, server bytes
    all that the servers use, including for other runs.
    """
    segments = inventory.segments
    rows = [_shard(shard, segments[segments["shard"] == shard.index]) for shard in shards]
    num_bytes, items = int(segments["num_bytes"].sum()), inventory.items
    server_bytes = sum(row["server_bytes"] for row in rows)
    return {
        "run": run,
        "live": live,
        "segments": len(segments),
        "items": items,
        "bytes": num_bytes,
        "bytes_per_step": num_bytes / items if items else None,
        "server_bytes": server_bytes,
        "server_bytes_per_step": server_bytes / items if items else None,
        "log": {name: getattr(inventory, name) for name in ("duplicates", "missing", "unreadable")},
        "age_seconds": _quantiles(
            time.time() - segments["written_ms"] / 1000.0, ("newest", "median", "oldest")
        ),
        # -1 marks a segment whose front could not be read.
        "weights_version": _quantiles(
            segments["weights_version"][segments["weights_version"] >= 0], ("oldest", "median", "newest")
        ),
        "masses": None if masses is None else _masses(inventory, masses),
        "counters": dict(counters),
        "shards": rows,
    }


def _shard(shard: StoredShard, segments: NDArray[Any]) -> dict[str, Any]:
    info, book, signature = shard.administration.info(), shard.tickets(), shard.signature()
    return {
        "shard": shard.index,
        "address": info["address"],
        "server": f"{info['server']} {info['version']}",
        "segments": len(segments),
        "items": int(segments["num_items"].sum()),
        "bytes": int(segments["num_bytes"].sum()),
        "server_bytes": int(info["used_memory"]),
        "max_bytes": int(info["max_memory"]),
        "reserved": book.reserved,
        "allowed": book.allowed,
        "outstanding": len(book.outstanding),
        "signature": None if signature is None else asdict(signature),
    }


def _quantiles(values: NDArray[Any], names: tuple[str, ...]) -> dict[str, float] | None:
    if not len(values):
        return None
    return {name: float(np.quantile(values, point)) for name, point in zip(names, POINTS, strict=True)}


def _masses(inventory: Inventory, newest: KnownMasses) -> dict[str, Any]:
    """Summarise the masses of items still stored, as of the checkpoint; newer items are only counted."""
    known = checkpoint_masses(newest.arrays)
    found = [known[identity] for identity in inventory.identities() if identity in known]
    # `concatenate` refuses an empty list, hence the empty array.
    masses = np.concatenate([np.empty(0), *found])
    # No other mass can be drawn, or has a place in a histogram in equal ratios.
    usable = masses[np.isfinite(masses) & (masses > 0)]
    document: dict[str, Any] = {name: getattr(newest, name) for name in AS_OF}
    document["items_since"] = inventory.items - len(masses)
    document["refused"] = len(masses) - len(usable)
    return document | (asdict(summarise_masses(usable)) if len(usable) else {"items": 0})


def print_summary(document: Mapping[str, Any], console: Console) -> None:
    """Print the document as tables."""
    console.print(_shards_table(document["shards"], document["run"]))
    overview = Table(box=None, show_header=False, pad_edge=False)
    for label, value in _lines(document):
        overview.add_row(label, value)
    console.print(overview)
    if document["counters"]:
        counters = Table(box=None, show_header=False, pad_edge=False, title="counters", title_justify="left")
        for name, value in document["counters"].items():
            counters.add_row(name, f"{value:,.10g}")
        console.print(counters)


def _shards_table(rows: Sequence[Mapping[str, Any]], run: str) -> Table:
    table = Table(title=f"replay of {run}", title_justify="left")
    for name in ("shard", "segments", "items", "bytes", "server uses"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("server")
    for row in rows:
        counts = (f"{row[name]:,}" for name in ("shard", "segments", "items"))
        limit = f" of {size(row['max_bytes'])}" if row["max_bytes"] else ""
        table.add_row(*counts, size(row["bytes"]), size(row["server_bytes"]) + limit, row["server"])
    return table


def _lines(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return label and text of everything but shards and counters."""
    items = document["items"]
    lines = [
        ("state", "live: a process is at work on it" if document["live"] else "nobody is at work on it"),
        ("segments", f"{document['segments']:,} with {items:,} items"),
        ("log", ", ".join(f"{count:,} {name}" for name, count in document["log"].items())),
    ]
    tickets = {name: sum(row[name] for row in document["shards"]) for name in TICKETS}
    lines.append(("tickets", ", ".join(f"{count:,} {name}" for name, count in tickets.items())))
    if items:
        per_step = f"{document['bytes_per_step']:,.0f} a step encoded"
        servers = f"{document['server_bytes_per_step']:,.0f} a step of all that the servers use"
        lines.append(("bytes", f"{size(document['bytes'])}: {per_step}, {servers}"))
    if age := document["age_seconds"]:
        lines.append(("age", ", ".join(f"{name} {span(seconds)}" for name, seconds in age.items())))
    if version := document["weights_version"]:
        lines.append(
            ("weights version", ", ".join(f"{name} {value:,.0f}" for name, value in version.items()))
        )
    return lines + _mass_lines(document["masses"], live=document["live"])


def _mass_lines(masses: Mapping[str, Any] | None, *, live: bool) -> list[tuple[str, str]]:
    if masses is None:
        return [("masses", "not known: there is no checkpoint here, and Redis does not hold them")]
    written = f"written {span(masses['age_seconds'])} ago"
    when = f"at update {masses['update']:,} and {masses['env_steps']:,} env steps, {written}"
    lines = [
        (
            "masses as of",
            f"{masses['checkpoint']}, {when}" + ("; the learner's are newer" if live else ""),
        ),
        ("  known", f"of {masses['items']:,} items; {masses['items_since']:,} came since"),
    ]
    if masses["items"]:
        quantiles = masses["quantiles"].items()
        lines.append(("  quantiles", ", ".join(f"{point}: {value:.4g}" for point, value in quantiles)))
        low, high = masses["edges"][0], masses["edges"][-1]
        lines.append(("  histogram", f"{low:.3g} |{bars(masses['counts'])}| {high:.3g} (in equal ratios)"))
        effective = masses["effective_sample_size"]
        share = f"{effective:,.0f} items, {effective / masses['items']:.1%} of them"
        lines.append(("  effective sample size", f"{share}; the top 1 % get {masses['top_share']:.1%}"))
    return lines


def bars(counts: Sequence[int]) -> str:
    """Return a line of blocks as high as the counts; every count above zero is visible."""
    highest = max(counts)
    return "".join(BARS[-(-count * (len(BARS) - 1) // highest)] for count in counts)


def size(num_bytes: float) -> str:
    """Format a number of bytes with its unit."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.2f} GiB"


def span(seconds: float) -> str:
    """Format a time span in its largest fitting unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"

"""The tables of docs/scaling.md, computed from measured constants: `python benchmarks/scaling.py [--write]`.

Constants come from the newest files of benchmarks/results that `python -m tests.helpers.shards.many_writers`
and `python -m tests.helpers.shards.owner_looks` printed; `--write` puts the tables between the markers of
docs/scaling.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS, DOCUMENT = ROOT / "benchmarks" / "results", ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- benchmarks/scaling.py begins -->", "<!-- benchmarks/scaling.py ends -->"
WRITERS, OWNER, LOOKS = "many-writers", "many-writers-owner", "owner-looks"

STEPS_PER_SECOND = 50.0
"""Of one actor of the table: an Impala network with a Soft MoE on one core plays about so fast."""
SEGMENT_STEPS = 64
SCENARIOS = ((1, 16), (2, 100), (2, 1_000), (8, 1_000), (8, 10_000), (100, 10_000), (1_000, 10_000))
"""(shards, actors)"""
CAPACITY = 10_000_000
"""Transitions kept, over all shards."""
LOOK_SECONDS, LOOK_EASE = (0.05, 0.2), 50
"""Between two looks of the owner: 50 times what one took, within these bounds (learner/learner.py)."""
BUSY = 0.6
"""Share of a core that a server, or the owner's ingest, may be busy and still answer at once."""
MAX_CLIENTS = 10_000
"""Default of Redis and Valkey."""
LINK_BYTES_PER_S = 1.25e9
"""10 Gbit/s."""


@dataclass(frozen=True)
class Constants:
    """Costs of one segment, one step and one connection, as measured."""

    server_us: float
    """Processor time of the server for one segment written, tickets included."""
    writer_us: float
    """Processor time of the writer for one segment, encoding included."""
    owner_us: float
    """Processor time of the owner for one step that it tails and evicts, its allowance included."""
    look_us: float
    """Processor time of the owner for a look at one more shard that has nothing new."""
    commands: float
    net_in: float
    net_out: float
    """Bytes that leave the servers for one segment, the owner's reading included."""
    server_bytes: float
    """Memory of the server for one step."""
    disk_bytes: float
    """Written to disk for one step: append-only file, rewrites included."""
    connection_bytes: float


def newest(kind: str) -> tuple[Path, dict[str, Any]]:
    """The last result of a kind by its name's date; SystemExit when there is none."""
    found = sorted(RESULTS.glob(f"????-??-??-{kind}.json"))
    if not found:
        sys.exit(f"no {kind} result in {RESULTS}: see docs/scaling.md for its command")
    return found[-1], json.loads(found[-1].read_text())


def constants(writers: dict[str, Any], owner: dict[str, Any], looks: dict[str, Any]) -> Constants:
    """From the results without and with an owner, and from its looks at shards."""
    shards, times = zip(*((row["shards"], row["cpu_us"]) for row in looks["looks"]), strict=True)
    return Constants(
        look_us=float(np.polyfit(shards, times, 1)[0]),
        net_out=owner["net_out_bytes_a_segment"],
        server_us=writers["server_cpu_us_a_segment"],
        writer_us=writers["writers_cpu_us_a_segment"],
        owner_us=owner["owner"]["cpu_us_a_step"],
        commands=writers["commands_a_segment"],
        net_in=writers["net_in_bytes_a_segment"],
        server_bytes=writers["server_bytes_a_step"],
        disk_bytes=writers["disk_bytes_a_step"],
        connection_bytes=writers["client_bytes_a_connection"],
    )


def scenario(costs: Constants, shards: int, actors: int) -> list[str]:
    """Compute one row: a run of so many shards and actors."""
    steps = actors * STEPS_PER_SECOND
    segments = steps / SEGMENT_STEPS / shards
    look = shards * costs.look_us / 1e6
    looking = look / min(max(LOOK_EASE * look, LOOK_SECONDS[0]), LOOK_SECONDS[1])
    cells = [
        f"{shards:,}",
        f"{actors:,}",
        f"{steps:,.0f}",
        f"{actors:,}",
        f"{actors * shards:,}",
        f"{segments * costs.commands:,.0f}",
        _share(segments * costs.server_us / 1e6),
        f"{segments * costs.net_in / 1e6:,.2f}, {segments * costs.net_out / 1e6:,.2f}",
        f"{steps / shards * costs.disk_bytes / 1e6:,.2f}",
        f"{(CAPACITY / shards * costs.server_bytes + actors * costs.connection_bytes) / 1e9:,.2f}",
        _share(steps * costs.owner_us / 1e6),
        _share(looking),
    ]
    return cells


def _share(cores: float) -> str:
    """Of one core; bold where it is more than a process should be given."""
    text = f"{cores:.1%}" if cores < 0.1 else f"{cores:.0%}"
    return f"**{text}**" if cores > BUSY else text


def limits(costs: Constants) -> list[list[str]]:
    """Find which resource gives out at which size, one row a resource."""
    per_shard = BUSY * 1e6 / costs.server_us * SEGMENT_STEPS
    by_network = LINK_BYTES_PER_S / costs.net_in * SEGMENT_STEPS
    by_owner = BUSY * 1e6 / costs.owner_us
    by_clients = MAX_CLIENTS * STEPS_PER_SECOND
    return [
        ["owner's ingest, one core", f"{by_owner:,.0f} in all", f"{by_owner / STEPS_PER_SECOND:,.0f} in all"],
        ["server's core", f"{per_shard:,.0f} a shard", f"{per_shard / STEPS_PER_SECOND:,.0f} a shard"],
        [
            "network of 10 Gbit/s",
            f"{by_network:,.0f} a shard",
            f"{by_network / STEPS_PER_SECOND:,.0f} a shard",
        ],
        ["`maxclients` 10,000", f"{by_clients:,.0f} in all", f"{MAX_CLIENTS:,} in all"],
    ]


def render() -> str:
    """All tables, as Markdown."""
    (writers_path, writers), (owner_path, owner), (looks_path, looks) = map(newest, (WRITERS, OWNER, LOOKS))
    costs = constants(writers, owner, looks)
    load = writers["load"]
    head = ["shards", "actors", "steps/s", "connections a shard", "connections in all", "commands/s a shard"]
    head += ["server's core", "MB/s in, out, a shard", "MB/s to disk, a shard", "GB a shard"]
    head += ["owner's core, segments", "its core, looks"]
    measured = [
        ["writers", f"{load['connections']:,}", f"`{writers_path.name}`"],
        [
            "steps/s asked for, written",
            f"{writers['asked_steps_per_s']:,.0f}, {writers['steps_per_s']:,.0f}",
            "",
        ],
        ["a write, median, 99 %", _milliseconds(writers["write_ms"]), "tickets included"],
        ["late, median, 99 %", _milliseconds(writers["late_ms"]), "behind its schedule"],
        ["server, a segment", f"{costs.server_us:,.0f} us, {costs.commands:.1f} commands", "processor time"],
        ["writer, a segment", f"{costs.writer_us:,.0f} us", "processor time, encoding included"],
        ["owner, a step", f"{costs.owner_us:,.1f} us", f"`{owner_path.name}`"],
        ["owner, a look at a shard", f"{costs.look_us:,.0f} us", f"`{looks_path.name}`, nothing new there"],
        ["server's memory, a step", f"{costs.server_bytes:,.0f} bytes", ", ".join(load["games"])],
        ["disk, a step", f"{costs.disk_bytes:,.0f} bytes", "append-only file, its rewrites included"],
        [
            "network in, out, a segment",
            f"{costs.net_in:,.0f}, {costs.net_out:,.0f} bytes",
            "out to the owner",
        ],
        ["server's memory, a connection", f"{costs.connection_bytes:,.0f} bytes", ""],
    ]
    tables = (
        ("### Measured", ["what", "value", "note"], measured),
        ("### Computed", head, [scenario(costs, *sizes) for sizes in SCENARIOS]),
        ("### Limits", ["resource", "steps/s", "actors"], limits(costs)),
    )
    return "\n\n".join(f"{title}\n\n{_table(names, rows)}" for title, names, rows in tables)


def _milliseconds(quantiles: dict[str, float]) -> str:
    return f"{quantiles['p50']:,.1f}, {quantiles['p99']:,.1f} ms"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def written(document: str) -> str:
    """The document with the tables between its markers."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}"


def main() -> int:
    """Print the tables, or write them into the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        DOCUMENT.write_text(written(DOCUMENT.read_text()))
    else:
        print(render())
    return 0


if __name__ == "__main__":
    sys.exit(main())

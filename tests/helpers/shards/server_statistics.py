"""Statistics of servers while a load is on them: INFO, processor time, bytes to disk, commands."""

from collections.abc import Sequence
from typing import Any

import psutil
import redis


def statistics(url: str) -> dict[str, Any]:
    """All of INFO, command statistics included."""
    with redis.Redis.from_url(url) as client:
        return dict(client.info("everything"))


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def written_to_disk(pid: int) -> int:
    """Bytes that went to the file system, rewrites of the append-only file included."""
    return int(psutil.Process(pid).io_counters().write_bytes)


def commands(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], segments: int
) -> dict[str, dict[str, float]]:
    """Calls a segment and microseconds a call of each command, over all servers."""
    names = {name for server in after for name in server if name.startswith("cmdstat_")}
    found = {}
    for name in sorted(names):
        calls = sum(a.get(name, {}).get("calls", 0) for a in after)
        calls -= sum(b.get(name, {}).get("calls", 0) for b in before)
        spent = sum(a.get(name, {}).get("usec", 0) for a in after)
        spent -= sum(b.get(name, {}).get("usec", 0) for b in before)
        if calls > segments / 100:
            found[name.removeprefix("cmdstat_")] = {"a_segment": calls / segments, "us": spent / calls}
    return found

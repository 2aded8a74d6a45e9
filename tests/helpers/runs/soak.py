"""`make soak MINUTES=n`: every game of ale-py through an actor; then for half of n minutes a run on Catch
whose processes are killed at random, then resumed; for the other half shards that suffer random faults beside
writers and a sampler (`soak_shards`).

After every kill (SIGKILL, or SIGTERM for those that must not end the run by it) the run has to make updates
again and to have lost nothing that it had counted; at the end it is stopped, and a resumed run has to go on
from there. Prints one line a kill; the report is JSON, printed and written to `--output`.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from deploy.fleet import RunClient, launch
from deploy.fleet.learner_slot import FAILURES
from deploy.fleet.run_state import FleetState
from deploy.fleet.scaling import STEADY_SECONDS
from deploy.run.config import with_values
from deploy.run.folder import RunFolder
from tests.helpers.actors.games import play_all
from tests.helpers.deadline import patient
from tests.helpers.runs.catch_runs import catch_config, follow, metric
from tests.helpers.shards import soak_shards

VICTIMS = ("actor", "learner", "supervisor", "server", "guardian")
TERMINABLE = ("actor", "learner", "server", "guardian")
"""Victims that get SIGTERM now and then; to a supervisor it means the end of the run."""
RECOVERY_SECONDS = 180.0
LOSSES = ("missing", "rejected", "lost", "unread")


def pid_of(victim: str, status: dict[str, Any], folder: RunFolder, chance: random.Random) -> int | None:
    """The process to kill, or None when it is not there at this moment."""
    if victim == "actor":
        pids = [row["pid"] for row in status["actors"] if row["state"] == "running"]
        return chance.choice(pids) if pids else None
    if victim == "learner":
        return int(status["learner"]["pid"]) if status["learner"]["ready"] else None
    if victim == "supervisor":
        return int(status["pid"])
    servers = folder.read_json("replay/state.json", {})
    server = chance.choice([pid for pid in servers["pids"] if pid])
    if victim == "guardian":
        return psutil.Process(server).ppid() if psutil.pid_exists(server) else None
    return int(server)


def recovered(client: RunClient, before: dict[str, Any]) -> dict[str, Any]:
    """The status once the run has everything back and makes updates again."""
    inserted = metric(before, "replay/inserted")
    status = follow(
        client,
        lambda s: s["state"] == "running" and metric(s, "replay/inserted") >= inserted,
        "everything that was inserted",
        RECOVERY_SECONDS,
    )
    start = metric(status, "progress/updates")
    return follow(client, lambda s: metric(s, "progress/updates") >= start + 20, "updates", RECOVERY_SECONDS)


def soak(minutes: float, seed: int, runs_dir: Path) -> dict[str, Any]:
    chance = random.Random(seed)
    config = catch_config(runs_dir, run__name="soak", run__total_env_steps=10**9, actors__num_actors=2)
    folder = RunFolder.create(config)
    client = launch(config, folder, resume=False)
    kills: Counter[str] = Counter()
    slowest, in_a_row, learner_killed = 0.0, 0, float("-inf")
    follow(client, lambda s: metric(s, "progress/updates") > 120, "the first updates", RECOVERY_SECONDS)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        status = client.status()
        victim = chance.choice(VICTIMS)
        if victim == "learner":  # one that dies again and again is given up
            in_a_row = 1 if time.monotonic() - learner_killed > 1.5 * STEADY_SECONDS else in_a_row + 1
            if in_a_row >= FAILURES:
                continue
            learner_killed = time.monotonic()
        pid = pid_of(victim, status, folder, chance)
        if pid is None:
            continue
        start = time.monotonic()
        number = chance.choice((signal.SIGTERM, *2 * (signal.SIGKILL,)))
        number = number if victim in TERMINABLE else signal.SIGKILL
        os.kill(pid, number)
        after = recovered(client, status)
        took = time.monotonic() - start
        kills[f"{victim} {number.name}"] += 1
        slowest = max(slowest, took)
        lost = {name: metric(after, f"replay/{name}") for name in LOSSES}
        assert not any(lost.values()), f"after killing the {victim}: {lost}"
        counts = f"{metric(after, 'replay/inserted'):,.0f} inserted, {sum(lost.values()):,.0f} lost"
        print(f"{victim:<10} {number.name}, back in {took:5.1f} s; {counts}", flush=True)
    client.stop()
    stopped = client.wait_finished(patient(60))
    client.shutdown()
    assert stopped["state"] == "stopped", stopped["message"]
    resumed = resume_once(folder, stopped)
    return {
        "minutes": minutes,
        "seed": seed,
        "kills": dict(kills),
        "slowest_recovery_s": round(slowest, 1),
        "inserted": metric(stopped, "replay/inserted"),
        "updates": metric(stopped, "progress/updates"),
        "acknowledged_items_lost": sum(metric(stopped, f"replay/{name}") for name in LOSSES),
        "inserted_after_resume": metric(resumed, "replay/inserted"),
    }


def resume_once(folder: RunFolder, stopped: dict[str, Any]) -> dict[str, Any]:
    """The status of the resumed run once it has everything and goes on; it is stopped again."""
    config = with_values(folder.load_config(), actors__num_actors=1)
    FleetState(folder).ask(1)
    client = launch(config, folder, resume=True)
    status = recovered(client, stopped)
    client.stop()
    client.wait_finished(patient(60))
    client.shutdown()
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--output", type=Path, default=Path("soak.json"))
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": f"make soak MINUTES={arguments.minutes:g}", "cores": os.cpu_count()}
    report["games"] = len(play_all())
    for name, part in (("processes", soak), ("shards", soak_shards.soak)):
        with tempfile.TemporaryDirectory(prefix="apexpert-soak-") as folder:
            report[name] = part(arguments.minutes / 2, arguments.seed, Path(folder))
            arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

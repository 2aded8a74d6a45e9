"""The script for Slurm on a real one: two nodes, told to end, queued again, resumed."""

import json
import sys
from pathlib import Path

import pytest

from tests.helpers.cluster.network import Network
from tests.helpers.clusters.manifests import CLUSTERS
from tests.helpers.clusters.slurm import slurm
from tests.helpers.deadline import patient, until
from tests.helpers.root import ROOT
from tests.helpers.runs.catch_runs import CATCH, flags

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(patient(1200))]

SCRIPT = CLUSTERS / "slurm" / "apexpert.sbatch"
ENV_STEPS = 6_000
# Stand-ins: a Ray that is up once its head has started, and a run that saves, for 6 s, if its Ray is there.
RAY = """#!/usr/bin/env bash
here=$(dirname "$0")
case $1 in
health-check) kill -0 "$(cat "$here/head")" ;;
start)
    echo "$(hostname) $*" >>"$here/nodes"
    [[ " $* " != *" --head "* ]] || echo $$ >"$here/head"
    exec sleep 1000 ;;
esac
"""
RUN = """#!/usr/bin/env bash
here=$(dirname "$0")
echo "$*" >>"$here/runs"
[ ! -e "$here/saved" ] || exit 0
save() {
    for _ in $(seq 30); do
        sleep 0.2
        kill -0 "$(cat "$here/head")" || exit 1
    done
    touch "$here/saved"
    exit 0
}
trap save TERM
touch "$here/learns"
while true; do sleep 0.2; done
"""


def test_ray_is_on_every_node_and_outlives_the_runs_last_checkpoint(network: Network) -> None:
    one, two = network.machine(), network.machine()
    programs = network.shared / "bin"
    programs.mkdir()
    for name, text in (("ray", RAY), ("apexpert", RUN)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    printed, secrets = network.shared / "job.txt", network.shared / "secrets"
    with slurm(network, one, two) as commands:
        number = commands.run(
            "sbatch", "--parsable", "--nodes=2", "--cpus-per-task=2", f"--chdir={network.shared}",
            f"--output={printed}", SCRIPT, "mspacman", "--preset", "apex",
            APEXPERT_BIN=str(programs), APEXPERT_SECRETS=str(secrets),
        )  # fmt: skip
        until(lambda: (programs / "learns").exists() or ended(commands.job(number)), "a run", 120, 1)
        until(lambda: len((programs / "nodes").read_text().splitlines()) == 2, "both nodes", 60, 1)
        (token,) = secrets.iterdir()
        assert token.stat().st_mode & 0o077 == 0
        assert len(token.read_text()) == 64
        commands.run("scancel", "--batch", "--signal=TERM", number)
        until(lambda: commands.job(number)["Restarts"] == "1", "a job that is queued again", 120, 1)
        assert (programs / "saved").exists(), printed.read_text()
        until(lambda: ended(commands.job(number)), "a job that ends", 300, 1)
        assert commands.job(number)["JobState"] == "COMPLETED", printed.read_text()
    nodes = (programs / "nodes").read_text().splitlines()
    port = 20000 + int(number) % 20000
    assert [line.split()[:2] for line in sorted(nodes[:2])] == [[one.name, "start"], [two.name, "start"]]
    head, worker = sorted(nodes[:2])
    assert f"--head --node-ip-address={one.address} --port={port} " in head
    assert f"--address={one.address}:{port}" in worker
    runs = (programs / "runs").read_text().splitlines()
    expected = f"train --resume-if-there --name mspacman --ray-address {one.address}:{port} --preset apex"
    assert runs == [expected] * 2
    assert list(secrets.iterdir()) == [], "the token goes with the job"


def test_a_job_told_to_end_saves_and_goes_on_when_it_is_queued_again(network: Network) -> None:
    one, two = network.machine(), network.machine()
    runs, printed = network.shared / "runs", network.shared / "job.txt"
    run = CATCH["run"] | {"total_env_steps": ENV_STEPS, "runs_dir": str(runs)}
    actors = CATCH["actors"] | {"num_actors": 2}
    with slurm(network, one, two) as commands:
        number = commands.run(
            "sbatch", "--parsable", "--nodes=2", "--cpus-per-task=2", f"--chdir={ROOT}",
            f"--output={printed}", SCRIPT, "catch", *flags(CATCH | {"run": run, "actors": actors}),
            APEXPERT_BIN=str(Path(sys.executable).parent), APEXPERT_SECRETS=str(network.shared / "secrets"),
        )  # fmt: skip
        folder = runs / "catch"

        def told(name: str) -> float:
            """A metric of the run, 0 before it has it."""
            try:
                status = json.loads((folder / "status.json").read_text())
            except (OSError, ValueError):
                return 0.0
            return float(status["metrics"].get(name, 0.0))

        until(lambda: told("progress/updates") > 20 or ended(commands.job(number)), "updates", 300, 1)
        assert told("progress/updates") > 20, printed.read_text()
        assert printed.read_text().count("Ray runtime started") == 2, printed.read_text()
        commands.run("scancel", "--batch", "--signal=TERM", number)
        until(lambda: commands.job(number)["Restarts"] == "1", "a job that is queued again", 300, 1)
        assert json.loads((folder / "status.json").read_text())["state"] == "stopped", printed.read_text()
        assert list((folder / "checkpoints").glob("update-*"))
        until(lambda: ended(commands.job(number)), "a job that ends", 600, 1)
        assert commands.job(number)["JobState"] == "COMPLETED", printed.read_text()
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert told("progress/env_steps") >= ENV_STEPS
    assert "resuming at" in (folder / "log.txt").read_text()


def ended(job: dict[str, str]) -> bool:
    return job["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")

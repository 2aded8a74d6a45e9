"""A Slurm of machines made of namespaces: its daemons, and commands to it."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.cluster.machine import Machine
from tests.helpers.cluster.network import Network
from tests.helpers.clusters.debian import programs
from tests.helpers.deadline import until

PACKAGES = "slurmctld slurmd slurm-client munge"
CONFIGURATION = """\
ClusterName=apexpert
SlurmctldHost={first}({address})
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={socket},cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldPidFile={folder}/slurmctld.pid
StateSaveLocation={folder}/state
SlurmdPidFile=/tmp/%n/slurmd.pid
SlurmdSpoolDir=/tmp/%n/spool
"""
NODE = "NodeName={name} NodeAddr={address} CPUs=4 State=UNKNOWN\n"
PARTITION = "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"


class Slurm:
    """Commands to a Slurm, given on its first machine."""

    def __init__(self, machine: Machine, configuration: Path) -> None:
        self._machine, self._environment = machine, {"SLURM_CONF": str(configuration)}

    def run(self, *words: str | Path, **environment: str) -> str:
        """What a command of Slurm prints; AssertionError when it fails."""
        done = self._machine.run(*words, env=self._environment | environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job, by Slurm's names."""
        shown = self.run("scontrol", "show", "job", number)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)


@contextlib.contextmanager
def slurm(network: Network, *machines: Machine) -> Iterator[Slurm]:
    """Slurm's controller on the first of the machines, and a node on each."""
    programs("slurmctld", "slurmd", "sbatch", "munged", packages=PACKAGES)
    folder, first = network.shared / "slurm", machines[0]
    (folder / "state").mkdir(parents=True)
    key, socket = folder / "munge.key", folder / "munge.socket"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(1024))
    text = CONFIGURATION.format(first=first.name, address=first.address, socket=socket, folder=folder)
    text += "".join(NODE.format(name=machine.name, address=machine.address) for machine in machines)
    configuration = folder / "slurm.conf"
    configuration.write_text(text + PARTITION)
    environment = {"SLURM_CONF": str(configuration)}
    munge = ["munged", "--foreground", "--force", f"--socket={socket}", f"--key-file={key}"]
    munge += [f"--{what}={folder}/munge.{what}" for what in ("log-file", "pid-file", "seed-file")]
    with contextlib.ExitStack() as stack:
        stack.enter_context(first.popen(*munge))
        until(socket.exists, "munge's socket")
        stack.enter_context(first.popen("slurmctld", "-D", env=environment))
        for machine in machines:
            stack.enter_context(machine.popen("slurmd", "-D", "-N", machine.name, env=environment))
        commands = Slurm(first, configuration)
        idle = "\n".join(["idle"] * len(machines))
        until(lambda: commands.run("sinfo", "-h", "-N", "-o", "%T") == idle, "idle nodes", 120, pause=1)
        yield commands

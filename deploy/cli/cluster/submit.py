"""`apexpert submit`: a run as a Ray job, from any machine that reaches the cluster's dashboard."""

import dataclasses
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.cli.errors import CommandFailed, UsageError
from deploy.cli.parsing import as_typed, flag_names, flag_value, parse
from deploy.cli.run.train import TrainArguments, parse_config
from deploy.run.checks import check
from deploy.run.config import Config, ConfigError, RunConfig, hide_password, is_run_name, with_values
from deploy.run.presets import DEFAULT, PRESETS

if TYPE_CHECKING:
    from deploy.fleet.ray.jobs import Jobs

STOP_SECONDS = 180
"""How long Ray waits for a job that it stops; its own 3 s are not enough to drain, save and say so."""
OURS = ("--name", "--resume-if-there")
FORBIDDEN = {
    "--detach": "the job would end at once while its run goes on",
    "--print-config": "is for apexpert train on this machine",
}
SUCCEEDED = "SUCCEEDED"
RELATIVE = (
    "--runs-dir is relative to the head's own folder; a full path on shared storage outlives that machine"
)


@dataclass(frozen=True)
class SubmitArguments:
    """Submit a run to a Ray cluster as a job; behind -- are the flags of `apexpert train`.

      apexpert submit --address http://HEAD:8265 --name NAME -- --preset laptop --runs-dir /shared/runs

    The job is `apexpert train --resume-if-there`: submitted again under the same name, it resumes the run.
    It needs no free CPU; the run's parts go where the cluster has room for them.
    """

    name: str = ""
    """Name of the run; required."""
    address: str = ""
    """The cluster's dashboard, http://HEAD:8265; empty takes $RAY_API_SERVER_ADDRESS or $RAY_ADDRESS."""
    follow: bool = False
    """Print the job's output until it ends, with exit code 1 if it fails; Ctrl-C leaves it at work."""
    working_dir: str = ""
    """Folder with modules of your own, copied to every node for this job; up to 500 MB."""
    command: str = "apexpert"
    """How a shell on the cluster calls Apexpert, such as /opt/venv/bin/apexpert."""


def submit(argv: Sequence[str]) -> int:
    """Submit the job and, if asked to, follow it; return the exit code."""
    cut = list(argv).index("--") if "--" in argv else len(argv)
    arguments, flags = parse(SubmitArguments, argv[:cut], command="submit"), list(argv[cut + 1 :])
    _check_own(arguments)
    _check_flags(flags, arguments.working_dir)
    from deploy.fleet.errors import WrongFlag
    from deploy.fleet.ray.jobs import Jobs, address_of_environment  # Ray takes a second.

    address = arguments.address or address_of_environment()
    if not address.startswith(("http://", "https://")):
        found = f" {address}" if address else ""
        raise UsageError(f"--address{found}: must be the cluster's dashboard, such as http://HEAD:8265")
    words = ["train", "--resume-if-there", "--name", arguments.name, *flags]
    command = f"{arguments.command} {shlex.join(words)}"
    job = f"{arguments.name}-{secrets.token_hex(3)}"
    try:
        jobs = Jobs(address)
    except WrongFlag as error:
        raise UsageError(str(error)) from None
    jobs.submit(
        command,
        job,
        metadata={"apexpert_run": arguments.name},
        working_dir=arguments.working_dir,
        variables={"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
    )
    at = f"--address {shlex.quote(address)}"
    print(f"job {job} at {address}: {command}")
    print(f"follow it:  ray job logs {at} --follow {job}")
    print(f"end it:     ray job stop {at} {job}  (it saves a checkpoint; the same command resumes the run)")
    if not _is_full(flags) and not flag_value(flags, "--config"):
        print(f"note: {RELATIVE}")
    return _follow(jobs, job, at) if arguments.follow else 0


def _check_own(arguments: SubmitArguments) -> None:
    if not arguments.name or not is_run_name(arguments.name):
        found = f" {arguments.name!r}" if arguments.name else ""
        raise UsageError(f"--name{found}: needs a run's name, by which the same command resumes it")
    if arguments.working_dir and not Path(arguments.working_dir).is_dir():
        raise UsageError(f"--working-dir {arguments.working_dir}: is no folder")


def _check_flags(flags: Sequence[str], working_dir: str) -> None:
    """Raise UsageError or ConfigError for flags of `train` that cannot be, as far as can be told here."""
    given = flag_names(flags)
    for flag in OURS:
        if flag in given:
            raise UsageError(f"{flag}: submit gives it to apexpert train; leave it out behind --")
    for flag, why in FORBIDDEN.items():
        if flag in given:
            raise UsageError(f"{flag}: not in a job: {why}")
    if any(hide_password(word) != word for word in flags):
        raise UsageError("--replay.urls: everybody sees a job's flags; --replay.urls @FILE hides a password")
    if not given & {"--config", "--like"}:  # They name files and runs of the cluster.
        try:
            _check_values(flags)
        except (ConfigError, UsageError) as error:
            raise type(error)(as_typed(str(error), flags)) from None
    if working_dir and not _is_full(flags):
        raise UsageError(
            f"--runs-dir {_runs_dir(flags)}: with --working-dir it must be a full path: Ray removes its copy"
            " of that folder after the job"
        )


def _runs_dir(flags: Sequence[str]) -> str:
    return flag_value(flags, "--runs-dir") or RunConfig().runs_dir


def _is_full(flags: Sequence[str]) -> bool:
    """Whether the runs' folder is the same wherever the job runs."""
    return Path(_runs_dir(flags)).is_absolute()


def _check_values(flags: Sequence[str]) -> None:
    arguments = parse_config(TrainArguments, flags, command="train", default=lambda: PRESETS[DEFAULT])
    config = Config(**{part.name: getattr(arguments, part.name) for part in dataclasses.fields(Config)})
    # Files of URLs are there, not here.
    urls = tuple(url for url in config.replay.urls if not url.startswith("@"))
    check(with_values(config, replay__urls=urls))


def _follow(jobs: "Jobs", job: str, at: str) -> int:
    try:
        status, why = jobs.follow(job, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"\njob {job} goes on; end it: ray job stop {at} {job}")
        return 130
    print(f"job {job}: {status}")
    if status != SUCCEEDED:
        raise CommandFailed(f"job {job} is {status}: {why.splitlines()[0] if why else 'see its output'}")
    return 0

"""The commands in the files are understood by this version."""

import re
import shlex
from pathlib import Path

import pytest

from deploy.cli.run.train import TrainArguments, config_of, parse_config
from deploy.run.presets import LAPTOP
from tests.helpers.clusters.manifests import CLUSTERS, of_kind

SCRIPT = CLUSTERS / "slurm" / "apexpert.sbatch"
AS_IN_A_JOB = {"$name": "mspacman", "$address:$port": "10.0.0.1:20001", "$@": "--preset=apex"}


def of_the_job() -> str:
    (job,) = of_kind("RayJob")
    entrypoint: str = job["spec"]["entrypoint"]
    return entrypoint


def of_slurm() -> str:
    text = SCRIPT.read_text()
    (line,) = re.findall(r'^"\$bin/apexpert" (train .*) &$', text, re.MULTILINE)
    for name, value in AS_IN_A_JOB.items():
        line = line.replace(name, value)
    return f"apexpert {line}"


@pytest.mark.parametrize("command", [of_the_job(), of_slurm()], ids=["job", "slurm"])
def test_the_command_is_understood_and_resumes(command: str, tmp_path: Path) -> None:
    urls = tmp_path / "redis-urls"
    urls.write_text("redis://:secret@one:6379\nredis://:secret@two:6379\n")
    words = shlex.split(command.replace("@/etc/apexpert/redis-urls", f"@{urls}"))
    assert words[:2] == ["apexpert", "train"]
    assert "--resume-if-there" in words
    arguments = parse_config(TrainArguments, words[2:], command="train", default=lambda: LAPTOP)
    config = config_of(arguments)
    assert config.run.name == "mspacman"
    assert config.run.preset == "apex"


def test_slurms_script_asks_for_what_its_traps_need() -> None:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", SCRIPT.read_text(), re.MULTILINE))
    assert options["signal"] == "B:TERM@300"
    assert {"requeue", "open-mode", "nodes", "ntasks-per-node", "time"} <= options.keys()

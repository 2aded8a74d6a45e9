"""What `ray up` is given: valid for Ray, with commands that Ray has."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts import scripts

from tests.helpers.clusters.manifests import CLUSTERS, documents

FILES = sorted((CLUSTERS / "vm").glob("*.yaml"))


def configuration(path: Path) -> dict[str, Any]:
    (document,) = documents(path)
    return document


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_configuration_is_valid(path: Path) -> None:
    config = configuration(path)
    # As `ray up` does: Ray's defaults first, then its schema.
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]
    for field in set(config) - {"available_node_types", "docker"}:
        assert prepared[field] == config[field], "Ray would use another"
    with pytest.raises(ValidationError, match="speling"):
        validate_config(prepared | {"speling": 1})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_rays_command_line_takes_the_commands_and_only_the_head_has_no_cores(path: Path) -> None:
    config = configuration(path)
    starts = {}
    for kind in ("head", "worker"):
        *before, start = config[f"{kind}_start_ray_commands"]
        assert before == ["ray stop"]
        words = shlex.split(start)
        assert words[:2] == ["ray", "start"]
        starts[kind] = scripts.start.make_context("start", words[2:]).params
        assert starts[kind]["metrics_export_port"] == 8080
    assert starts["head"]["num_cpus"] == 0
    assert starts["head"]["dashboard_host"] == "127.0.0.1"
    assert starts["worker"]["num_cpus"] is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_secrets_travel_as_files(path: Path) -> None:
    config = configuration(path)
    options = " ".join(config["docker"]["run_options"])
    token = "/home/apexpert/auth_token"
    assert f"RAY_AUTH_TOKEN_PATH={token}" in options
    assert {token, "/home/apexpert/redis-urls"} == config["file_mounts"].keys()
    assert "/runs" in options, "the runs' folder is on storage that all machines share"


def test_on_prem_has_all_its_machines_from_the_start() -> None:
    prepared = prepare_config(configuration(CLUSTERS / "vm" / "on-prem.yaml"))
    (kind,) = prepared["available_node_types"].values()
    assert prepared["max_workers"] == kind["min_workers"] == len(prepared["provider"]["worker_ips"]) == 3

"""The manifests are valid for Kubernetes and KubeRay, and what one names another has."""

import gzip
import re
from collections.abc import Mapping
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.helpers.clusters.manifests import manifests, of_kind, ray_cluster, ray_templates
from tests.helpers.root import ROOT

SCHEMAS = ROOT.parent / "shared" / "schemas"
"""KubeRay's resource definitions: not part of the project."""
VERSION = "1.33"
CUSTOM = ("RayJob", "RayCluster", "PodMonitor")
PLAIN = [(name, document) for name, document in manifests() if document["kind"] not in CUSTOM]
MINE = {"app.kubernetes.io/part-of": "apexpert"}
RAY = MINE | {"ray.io/is-ray-node": "yes"}
"""The labels of Ray's pods; KubeRay adds the second."""


def the(kind: str) -> dict[str, Any]:
    (document,) = of_kind(kind)
    return document


def pods() -> dict[str, dict[str, Any]]:
    """Every pod's template, by who makes it."""
    job = the("RayJob")["spec"]
    return {
        **ray_templates(ray_cluster()),
        "submitter": job["submitterPodTemplate"],
        "replay": the("StatefulSet")["spec"]["template"],
    }


def refused(schema: dict[str, Any]) -> dict[str, Any]:
    """A resource definition's schema that refuses fields it does not have, as kubectl does."""
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema = schema | {"additionalProperties": False}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    inner: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "properties":
            inner[name] = {each: refused(part) for each, part in value.items()}
        elif name in ("items", "additionalProperties") and isinstance(value, Mapping):
            inner[name] = refused(dict(value))
        else:
            inner[name] = value
    return inner


@pytest.mark.parametrize(
    ("name", "document"), PLAIN, ids=lambda each: each if isinstance(each, str) else each["kind"]
)
def test_a_plain_resource_is_valid(name: str, document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("maker", ["head", "learner", "actors", "submitter"])
def test_a_pod_of_a_custom_resource_is_valid_and_may_do_little(maker: str) -> None:
    template = pods()[maker]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"} | template["metadata"]}
    kubernetes_validate.validate(pod | {"spec": template["spec"]}, VERSION, strict=True)


@pytest.mark.parametrize("maker", ["head", "learner", "actors", "submitter", "replay"])
def test_no_pod_is_root_or_may_become_it(maker: str) -> None:
    spec = pods()[maker]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    for container in spec["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}


@pytest.mark.parametrize(
    ("kind", "schemas"), [("RayCluster", "ray.io_rayclusters"), ("RayJob", "ray.io_rayjobs")]
)
def test_a_custom_resource_fits_kuberays_definition(kind: str, schemas: str) -> None:
    path = SCHEMAS / f"{schemas}.yaml.gz"
    if not path.exists():
        pytest.skip(f"KubeRay's resource definitions are not in {SCHEMAS}")
    definition = yaml.load(
        gzip.decompress(path.read_bytes()), yaml.CSafeLoader
    )  # the plain loader takes minutes
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    schema = refused(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    # Not `jsonschema.validate`, which would check the schema first, for a minute.
    validator = jsonschema.Draft202012Validator(schema)
    resource = the(kind)
    validator.validate(resource)
    assert not validator.is_valid(resource | {"spec": resource["spec"] | {"rayClusterSpecs": {}}})


def test_the_job_has_the_cluster_that_stays() -> None:
    assert the("RayJob")["spec"]["rayClusterSpec"] == ray_cluster()


def test_the_head_runs_no_roles_and_the_learner_has_a_gpu() -> None:
    cluster = ray_cluster()
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["autoscalerOptions"]["version"] == "v2"
    limits = {name: pod["spec"]["containers"][0]["resources"]["limits"] for name, pod in pods().items()}
    assert [name for name, limit in limits.items() if "nvidia.com/gpu" in limit] == ["learner"]
    never = {
        name for name, pod in ray_templates(cluster).items() if pod["spec"].get("restartPolicy") == "Never"
    }
    assert never == {"learner", "actors"}, "autoscaler v2 replaces them"


def test_the_rays_version_is_the_images() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    assert f"ray=={ray_cluster()['rayVersion']}\n" in pins
    assert (
        len(
            {
                container["image"]
                for name, pod in pods().items()
                if name != "replay"
                for container in pod["spec"]["containers"]
            }
        )
        == 1
    )


def test_volumes_secrets_and_claims_that_pods_name_are_there() -> None:
    there = {(document["kind"], document["metadata"]["name"]) for _, document in manifests()}
    for pod in pods().values():
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        for volume in volumes.values():
            for kind, field, name in (
                ("Secret", "secret", "secretName"),
                ("ConfigMap", "configMap", "name"),
                ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
            ):
                assert field not in volume or (kind, volume[field][name]) in there
        for container in pod["spec"]["containers"]:
            claimed = {"data"} if container["name"] == "valkey" else set()
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes.keys() | claimed


def test_each_shard_has_a_url_with_its_stable_name_and_a_user_with_no_more_commands_than_needed() -> None:
    secrets = {secret["metadata"]["name"]: secret["stringData"] for secret in of_kind("Secret")}
    replay, service = the("StatefulSet"), the("Service")
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == replay["spec"]["serviceName"]
    assert service["spec"]["selector"].items() <= replay["spec"]["template"]["metadata"]["labels"].items()
    names = [
        f"{replay['metadata']['name']}-{n}.{service['metadata']['name']}"
        for n in range(replay["spec"]["replicas"])
    ]
    urls = secrets["apexpert-urls"]["redis-urls"].split()
    assert urls == [f"redis://apexpert:CHANGE-ME@{name}:6379" for name in names]
    page = (ROOT / "docs" / "security.md").read_text()
    (documented,) = re.findall(r"^ACL SETUSER apexpert (.*)$", page, re.MULTILINE)
    users = secrets["apexpert-replay-users"]["users.acl"].splitlines()
    assert users[1] == f"user apexpert {documented.replace('>PASSWORD', '>CHANGE-ME')}"
    assert f"`{users[0]}`" in page.replace("\n", " "), "a server loads its file as the default user"
    configuration = dict(line.split(" ", 1) for line in the("ConfigMap")["data"]["valkey.conf"].splitlines())
    assert configuration["maxmemory-policy"] == "noeviction"
    assert configuration["appendonly"] == "yes"
    mounts = {
        mount["name"]: mount["mountPath"]
        for mount in replay["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    }
    assert configuration["dir"] == mounts["data"]
    assert configuration["aclfile"] == f"{mounts['users']}/users.acl"


def test_network_policies_and_the_monitor_select_these_pods_and_their_ports() -> None:
    assert {pod["metadata"]["labels"]["app.kubernetes.io/part-of"] for pod in pods().values()} == {"apexpert"}
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    labels = the("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert policies["apexpert-replay"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policies["apexpert-ray"]["podSelector"]["matchLabels"] == RAY
    (allowed,) = policies["apexpert-replay"]["ingress"]
    assert [peer["podSelector"]["matchLabels"] for peer in allowed["from"]] == [RAY]
    assert the("PodMonitor")["spec"]["selector"]["matchLabels"] == RAY
    (endpoint,) = the("PodMonitor")["spec"]["podMetricsEndpoints"]
    for template in ray_templates(ray_cluster()).values():
        (port,) = [
            port for port in template["spec"]["containers"][0]["ports"] if port["name"] == endpoint["port"]
        ]
        assert port["containerPort"] == 8080
    for group in (ray_cluster()["headGroupSpec"], *ray_cluster()["workerGroupSpecs"]):
        assert group["rayStartParams"]["metrics-export-port"] == "8080"


def test_real_secrets_are_not_kept_by_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/clusters/kuberay/secrets.yaml" in ignored

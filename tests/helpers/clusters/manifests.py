"""The files of deploy/clusters as documents, and what of them is looked at in several tests."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.helpers.root import ROOT

CLUSTERS = ROOT / "deploy" / "clusters"
KUBERAY, MONITORING = CLUSTERS / "kuberay", CLUSTERS / "monitoring"
BOARD = MONITORING / "grafana.json"
VARIABLES = {"$__rate_interval": "5m", "$run": ".*"}
"""Grafana's variables, as they are when nothing is chosen."""


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a file of YAML."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every document for Kubernetes with the name of its file."""
    for path in sorted(KUBERAY.glob("*.yaml")):
        for document in documents(path):
            yield path.name, document


def of_kind(kind: str) -> list[dict[str, Any]]:
    """The documents of one kind."""
    return [document for _, document in manifests() if document["kind"] == kind]


def ray_cluster() -> dict[str, Any]:
    """The specification of the Ray cluster."""
    (document,) = of_kind("RayCluster")
    spec: dict[str, Any] = document["spec"]
    return spec


def ray_templates(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pods' templates by group."""
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {name: group["template"] for name, group in ({"head": cluster["headGroupSpec"]} | groups).items()}


def board_expressions() -> list[str]:
    """Every expression of the board, with its variables filled in."""
    panels = json.loads(BOARD.read_text())["panels"]
    return [_filled(target["expr"]) for panel in panels for target in panel.get("targets", [])]


def rule_expressions() -> list[str]:
    """Every alert's expression."""
    (rules,) = documents(MONITORING / "rules.yml")
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def metric_names(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    return set(re.findall(r"\bray_\w+", expression)) - {"ray_io_cluster", "ray_io_group"}


def _filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression
